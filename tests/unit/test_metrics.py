"""What Prometheus reads: names, labels, and which series there are when."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stigmem_replicator.errors import Reason
from stigmem_replicator.observe.board import Board, PeerPicture, Picture, StreamPicture
from stigmem_replicator.observe.counting import Counting
from stigmem_replicator.observe.metrics import Metrics
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.plan import Counts
from stigmem_replicator.replication.states import PeerState
from tests.pictures import MINUTE_MS, NOW_MS, board, peer, picture, realistic, trouble

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "monitoring.md"
A, B = peer("a"), peer("b")
NEEDS_TOKEN = StreamPicture(
    PeerState.BLOCKED,
    reason="capability_required",
    caught_up_ms=NOW_MS - 1_500,
    token_not_after_ms=NOW_MS,
    token_is_expiring=True,
)


class StoppedClock:
    """Two seconds after the picture; five on the clock that never steps."""

    def now_ms(self) -> int:
        return NOW_MS + 2_000

    def now_iso(self) -> str:
        return ""

    def monotonic(self) -> float:
        return 5.0


Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(metrics: Metrics) -> Series:
    """Scrape, as Prometheus does."""
    text = generate_latest(metrics.registry).decode()
    samples = [sample for each in text_string_to_metric_families(text) for sample in each.samples]
    series = {(s.name, frozenset(s.labels.items())): s.value for s in samples}
    assert len(series) == len(samples), "a series twice"
    return series


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def made(shown: Picture) -> tuple[Metrics, Board]:
    hung = board(shown)
    return Metrics(hung, StoppedClock()), hung


def test_names_of_the_node_are_kept_with_its_labels() -> None:
    metrics, _ = made(picture(peer("a", lag_ms=90_500)))
    skewed = Counts(admitted=3, rejected={Reason.HLC_SKEW: 1}, skewed={"future": 1})
    metrics.entries_committed(A.node_id, skewed)
    series = read(metrics)
    assert series[key("stigmem_federation_ingress_total", peer_id=A.node_id, status="ok")] == 3
    assert series[key("stigmem_replication_lag_seconds", peer_id=A.node_id)] == 90.5
    anomaly = key("stigmem_peer_hlc_anomaly_total", peer_id=A.node_id, direction="future")
    assert series[anomaly] == 1


def test_what_is_committed_is_counted_by_what_became_of_it() -> None:
    metrics, _ = made(picture(A))
    rejected = {Reason.CID_MISMATCH: 2, Reason.HLC_SKEW: 1}
    counts = Counts(5, 7, rejected, {Reason.CID_LEGACY: 4}, conflicts=6, conflicts_capped=8)
    metrics.entries_committed(A.node_id, counts)
    metrics.entries_committed(A.node_id, Counts(rejected={Reason.HLC_SKEW: 1}))
    metrics.page_committed(A.node_id)
    metrics.attempt_failed(A.node_id, Reason.TIMEOUT)
    series = read(metrics)

    def of_peer(name: str, **labels: str) -> float:
        return series[key(name, peer_id=A.node_id, **labels)]

    ingress = "stigmem_federation_ingress_total"
    assert of_peer(ingress, status="ok") == 5
    assert of_peer(ingress, status="duplicate") == 7
    assert of_peer(ingress, status="rejected") == 4
    assert of_peer(ingress, status="refused_before") == 4
    assert of_peer("stigmem_replicator_entries_rejected_total", reason="hlc_skew") == 2
    assert of_peer("stigmem_replicator_entries_rejected_total", reason="cid_mismatch") == 2
    assert of_peer("stigmem_replicator_conflicts_total") == 6
    assert of_peer("stigmem_replicator_conflicts_left_out_total") == 8
    assert of_peer("stigmem_replicator_pages_total") == 1
    assert of_peer("stigmem_replicator_attempts_failed_total", reason="timeout") == 1


def test_tombstones_and_revocations_are_counted_apart_from_facts() -> None:
    metrics, _ = made(picture(A))
    rejected = {Reason.WAITING_FOR_KEY: 2, Reason.ISSUER_SIG_INVALID: 1}
    metrics.records_committed(A.node_id, Artifact.TOMBSTONE, Counts(5, 7, rejected))
    before = {Reason.WAITING_FOR_TOMBSTONE: 4}
    metrics.records_committed(A.node_id, Artifact.REVOCATION, Counts(1, refused_before=before))
    series = read(metrics)

    def of_peer(**labels: str) -> float:
        return series[key("stigmem_replicator_tombstones_total", peer_id=A.node_id, **labels)]

    assert of_peer(artifact="tombstone", status="ok") == 5
    assert of_peer(artifact="tombstone", status="duplicate") == 7
    assert of_peer(artifact="tombstone", status="rejected") == 3
    assert of_peer(artifact="revocation", status="ok") == 1
    assert of_peer(artifact="revocation", status="refused_before") == 4
    refused = "stigmem_replicator_entries_rejected_total"
    assert series[key(refused, peer_id=A.node_id, reason="waiting_for_key")] == 2
    assert "stigmem_federation_ingress_total" not in {name for name, _ in series}


def test_the_tombstones_of_a_peer_stand_by_themselves() -> None:
    """Each state that a stream can have, its reason, and the token; facts go on meanwhile."""
    shown = peer("a", tombstones=NEEDS_TOKEN)
    series = read(made(picture(shown))[0])
    labels = {"peer_id": shown.node_id, "stream": "tombstones"}
    states = {
        dict(found)["state"]: value
        for (name, found), value in series.items()
        if name == "stigmem_replicator_stream_state"
    }
    assert states == {
        "catching_up": 0,
        "idle": 0,
        "throttled": 0,
        "backing_off": 0,
        "blocked": 1,
    }
    reason = key("stigmem_replicator_stream_reason", **labels, reason="capability_required")
    assert series[reason] == 1
    success = key("stigmem_replicator_stream_last_success_timestamp_seconds", **labels)
    assert series[success] == NOW_MS / 1000 - 1.5
    expiry = "stigmem_replicator_capability_token_expiry_timestamp_seconds"
    assert series[key(expiry, peer_id=shown.node_id)] == NOW_MS / 1000
    expiring = "stigmem_replicator_capability_token_expiring"
    assert series[key(expiring, peer_id=shown.node_id)] == 1
    state = key("stigmem_replicator_peer_state", peer_id=shown.node_id, state="idle")
    assert series[state] == 1


@pytest.mark.parametrize(
    ("shown", "without"),
    [
        (peer(tombstones=NEEDS_TOKEN, status="revoked"), "stigmem_replicator_stream_state"),
        (peer(), "stigmem_replicator_stream_state"),
        (peer(tombstones=StreamPicture(PeerState.IDLE)), "stigmem_replicator_capability_token"),
        (peer(tombstones=NEEDS_TOKEN, held=False), "stigmem_replicator_capability_token_expiring"),
    ],
    ids=["peer not active", "nothing known", "no token", "somebody else reads the token"],
)
def test_what_cannot_be_told_of_a_stream_has_no_series(shown: PeerPicture, without: str) -> None:
    series = read(made(picture(shown))[0])
    assert not [name for name, _ in series if name.startswith(without)]


def test_a_peer_is_in_exactly_one_state_with_its_reason() -> None:
    blocked = peer("a", PeerState.BLOCKED, reason="key_changed")
    series = read(made(picture(blocked, B))[0])
    for shown in (blocked, B):
        states = {
            state: series[
                key("stigmem_replicator_peer_state", peer_id=shown.node_id, state=state.value)
            ]
            for state in PeerState
        }
        assert states == {state: float(state is shown.state) for state in PeerState}
    reasons = [found for found in series if found[0] == "stigmem_replicator_peer_reason"]
    assert reasons == [
        key("stigmem_replicator_peer_reason", peer_id=blocked.node_id, reason="key_changed")
    ]


def test_a_reason_that_is_none_of_ours_becomes_no_label() -> None:
    series = read(made(picture(peer(reason="of_a_newer_version")))[0])
    assert not [found for found in series if found[0] == "stigmem_replicator_peer_reason"]


def test_a_peer_that_is_not_active_has_no_state() -> None:
    revoked = peer("a", status="revoked", lag_ms=None)
    series = read(made(picture(revoked))[0])
    assert series[key("stigmem_replicator_peer_active", peer_id=revoked.node_id)] == 0
    assert not [found for found in series if found[0] == "stigmem_replicator_peer_state"]


def test_what_cannot_be_told_has_no_series() -> None:
    unknown = peer(lag_ms=None, last_success_ms=None, next_attempt_ms=None)
    series = read(made(picture(unknown))[0])
    names = {name for name, _ in series}
    assert "stigmem_replication_lag_seconds" not in names
    assert "stigmem_replicator_peer_next_attempt_timestamp_seconds" not in names
    assert "stigmem_replicator_dead_letters_open" not in names
    assert "stigmem_replicator_certificate_expiry_timestamp_seconds" not in names


def test_times_are_seconds_since_1970() -> None:
    shown = peer(last_success_ms=NOW_MS - 1_500, certificate_not_after_ms=NOW_MS)
    series = read(made(picture(shown, own_certificate_not_after_ms=NOW_MS))[0])
    success = key("stigmem_replicator_peer_last_success_timestamp_seconds", peer_id=shown.node_id)
    assert series[success] == NOW_MS / 1000 - 1.5
    assert series[key("stigmem_replicator_certificate_expiry_timestamp_seconds")] == NOW_MS / 1000


def test_the_engine_tells_how_old_its_signs_of_life_are() -> None:
    metrics, hung = made(picture())
    hung.writing_since = 1.5
    series = read(metrics)
    assert series[key("stigmem_replicator_picture_age_seconds")] == 2.0
    assert series[key("stigmem_replicator_supervisor_age_seconds")] == 5.0
    assert series[key("stigmem_replicator_writer_busy_seconds")] == 3.5
    assert series[key("stigmem_replicator_up")] == 1


@pytest.mark.parametrize(
    ("cause", "label"),
    [("disk_low", "disk_low"), ("peer_held", "peer_held"), ("what is that", "unexpected")],
)
def test_trouble_with_the_database_is_told_by_its_cause(cause: str, label: str) -> None:
    series = read(made(picture(trouble=trouble(cause)))[0])
    name = "stigmem_replicator_local_db_trouble"
    by_cause = {dict(labels)["cause"]: value for (n, labels), value in series.items() if n == name}
    assert by_cause.pop(label) == 1
    assert set(by_cause.values()) == {0}
    assert series[key("stigmem_replicator_up")] == 0


def test_without_trouble_each_usual_cause_is_0() -> None:
    series = read(made(picture())[0])
    assert series[key("stigmem_replicator_local_db_trouble", cause="database_locked")] == 0


def test_a_peer_that_vanishes_takes_its_series_along() -> None:
    """Also when a last count comes late; once it is back, it begins at nothing."""
    metrics, hung = made(picture(A, B))
    metrics.page_committed(A.node_id)
    metrics.page_committed(B.node_id)
    pages_of_a = key("stigmem_replicator_pages_total", peer_id=A.node_id)
    assert read(metrics)[pages_of_a] == 1
    hung.picture = picture(B, at_ms=NOW_MS + 1)
    metrics.page_committed(A.node_id)
    assert not [labels for _, labels in read(metrics) if ("peer_id", A.node_id) in labels]
    hung.picture = picture(B, at_ms=NOW_MS + 2)
    read(metrics)
    hung.picture = picture(A, B, at_ms=NOW_MS + 3)
    assert pages_of_a not in read(metrics)
    metrics.page_committed(A.node_id)
    assert read(metrics)[pages_of_a] == 1


def test_what_is_counted_before_the_picture_shows_a_peer_is_not_lost() -> None:
    metrics, hung = made(picture(B))
    metrics.page_committed(A.node_id)
    read(metrics)
    read(metrics)  # two scrapes of one picture
    hung.picture = picture(A, B, at_ms=NOW_MS + 1)
    assert read(metrics)[key("stigmem_replicator_pages_total", peer_id=A.node_id)] == 1


def test_counts_of_many_threads_add_up() -> None:
    metrics, _ = made(picture(A))

    def count() -> None:
        for _ in range(500):
            metrics.entries_committed(A.node_id, Counts(admitted=1))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        read(metrics)
        each.join()
    ingress = key("stigmem_federation_ingress_total", peer_id=A.node_id, status="ok")
    assert read(metrics)[ingress] == 4_000


def test_times_of_pages_and_of_the_write_lock_are_histograms() -> None:
    metrics, _ = made(picture())
    metrics.page_fetched(0.2)
    metrics.page_written(0.1)
    metrics.write_lock(held_s=0.04, waited_s=0.3)
    series = read(metrics)
    assert series[key("stigmem_replicator_page_stage_seconds_count", stage="fetch")] == 1
    assert series[key("stigmem_replicator_page_stage_seconds_count", stage="write")] == 1
    assert series[key("stigmem_replicator_page_stage_seconds_count", stage="verify")] == 0
    metrics.page_verified(0.3)
    assert read(metrics)[key("stigmem_replicator_page_stage_seconds_sum", stage="verify")] == 0.3
    within = key("stigmem_replicator_write_lock_held_seconds_bucket", le="0.05")
    assert series[within] == 1
    assert series[key("stigmem_replicator_write_lock_waited_seconds_sum")] == 0.3


def test_the_engine_can_count_with_them() -> None:
    """Which the type checker sees."""
    metrics, _ = made(picture())
    counting: Counting = metrics
    counting.write_lock(held_s=0.01, waited_s=0.0)
    assert read(metrics)[key("stigmem_replicator_write_lock_held_seconds_count")] == 1


def test_a_configuration_that_could_not_be_used_is_seen() -> None:
    metrics, _ = made(picture())
    name = key("stigmem_replicator_config_last_reload_successful")
    assert read(metrics)[name] == 1
    metrics.reloaded(successful=False)
    assert read(metrics)[name] == 0


def test_a_peers_words_are_escaped_and_its_secrets_hidden() -> None:
    foreign = peer(node_id='x"} 1\nfoo{a="\\', url="https://user:secret@a.example/?token=secret")
    series = read(made(picture(foreign))[0])
    info = [dict(labels) for name, labels in series if name == "stigmem_replicator_peer_info"]
    assert info == [
        {"peer_id": foreign.node_id, "url": "https://***@a.example/?token=***"},
    ]


def test_nothing_is_put_into_the_global_registry() -> None:
    made(picture())
    assert b"stigmem_" not in generate_latest(REGISTRY)


def test_a_thousand_peers_have_a_bounded_number_of_series() -> None:
    peers = (peer(f"p{i}", reason="timeout", tombstones=NEEDS_TOKEN) for i in range(1000))
    many = picture(*peers)
    per_peer = (len(read(made(many)[0])) - len(read(made(picture())[0]))) / 1000
    assert per_peer < 35


def full() -> Metrics:
    """Metrics of which every one has a series."""
    metrics, hung = made(realistic())
    known = peer(
        reason="timeout",
        dead_letters=1,
        upstream_lag_ms=1,
        certificate_not_after_ms=1,
        last_success_ms=1,
        next_attempt_ms=1,
        tombstones=NEEDS_TOKEN,
    )
    hung.picture = picture(known, own_certificate_not_after_ms=MINUTE_MS)
    counts = Counts(1, 1, {Reason.HLC_SKEW: 1}, {}, 1, 1, {"past": 1})
    metrics.entries_committed(A.node_id, counts)
    metrics.records_committed(A.node_id, Artifact.TOMBSTONE, counts)
    metrics.page_committed(A.node_id)
    metrics.attempt_failed(A.node_id, Reason.TIMEOUT)
    return metrics


def test_every_metric_is_in_the_document_and_every_one_there_exists() -> None:
    """With its labels; those of the process itself are the library's."""
    there: dict[str, set[str]] = {}
    for name, labels in read(full()):
        base = re.sub(r"_(bucket|sum|count|created)$", "", name)
        if base.startswith("stigmem_"):
            there.setdefault(base, set()).update(label for label, _ in labels if label != "le")
    rows = re.findall(r"^\| `(stigmem_\w+)` \|([^|]*)\|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    written = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert written == there
