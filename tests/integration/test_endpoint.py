"""What the endpoint serves, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stigmem_replicator.clock import SystemClock
from stigmem_replicator.observe.board import PeerPicture, StreamPicture
from stigmem_replicator.replication.states import PeerState
from tests.integration.serving import PATHS, Served, serving
from tests.json_document import deviations, tables
from tests.pictures import MINUTE_MS, NOW_MS, peer, picture, realistic, trouble


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    """One endpoint for the tests that only ask."""
    with serving() as running:
        yield running


@pytest.fixture
def alone() -> Iterator[Served]:
    """One for a test that hurts it."""
    with serving() as running:
        yield running


# what is served


def test_the_page_allows_its_own_style_and_nothing_else(shared: Served) -> None:
    response, body = shared.get("/")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    style = re.search(b"<style>(.*)</style>", body, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1]).digest()).decode()
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")


def test_a_view_of_the_page_can_be_asked_for(shared: Served) -> None:
    assert 'http-equiv="refresh"' in shared.text("/")[1]
    assert 'http-equiv="refresh"' not in shared.text("/?refresh=off&peers=all")[1]


def test_metrics_are_as_prometheus_reads_them(shared: Served) -> None:
    response, body = shared.get("/metrics", headers={"Accept-Encoding": "identity"})
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {"stigmem_replication_lag_seconds", "process_open_fds"} <= names


def test_one_metric_can_be_asked_for_and_another_format(shared: Served) -> None:
    _, body = shared.get("/metrics?name[]=stigmem_replicator_up")
    assert [line for line in body.decode().splitlines() if not line.startswith("#")] == [
        "stigmem_replicator_up 1.0"
    ]
    response, body = shared.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_the_status_tells_the_same_as_the_page(shared: Served) -> None:
    response, body = shared.get("/status")
    assert response.headers["Content-Type"] == "application/json"
    document = json.loads(body)
    assert document["healthy"]
    assert document["ready"]
    peers = {each["url"]: each for each in document["peers"]}
    oslo = peers["https://oslo.example:8765"]
    assert oslo["replication"]["state"] == "blocked"
    assert oslo["replication"]["reason"] == "key_changed"
    assert oslo["replication"]["lag_ms"] == 22 * MINUTE_MS
    _, page = shared.text("/")
    for each in peers.values():
        assert each["peer"] in page


def test_the_status_is_as_described(alone: Served) -> None:
    """Every key and type in docs/cli-json.md comes, and no other."""
    bare = PeerPicture("stigmem:node:new", "", "active", PeerState.CATCHING_UP, held=False)
    full = peer(
        lag_history=(None, 0),
        cursor="1790000000000.1-a",
        dead_letters=0,
        reason="timeout",
        detail="it does not answer",
        hint="ask why",
        last_success_ms=NOW_MS,
        not_before_ms=NOW_MS,
        next_attempt_ms=NOW_MS,
        rate_per_s=0.5,
        certificate_not_after_ms=NOW_MS,
        upstream_lag_ms=1,
        tombstones=StreamPicture(
            PeerState.BLOCKED,
            reason="capability_required",
            detail="it wants a token",
            hint="ask for one",
            since_ms=NOW_MS,
            failures=1,
            next_attempt_ms=NOW_MS,
            caught_up_ms=NOW_MS,
            token_not_after_ms=NOW_MS,
            token_is_expiring=True,
        ),
    )
    unknown = peer("b", tombstones=StreamPicture(PeerState.CATCHING_UP))
    documents = []
    for shown in (
        picture(bare, wire_version=None, newest_migration=None),
        picture(full, unknown, trouble=trouble(), own_certificate_not_after_ms=NOW_MS),
    ):
        alone.board.picture = shown
        documents.append(json.loads(alone.text("/status")[1]))
    wrong = deviations("/status", documents, tables()["/status"])
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_forbids_what_it_does_not_need(shared: Served, path: str) -> None:
    response, body = shared.get(path)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["Server"] == "stigmem-replicate"
    assert "Set-Cookie" not in response.headers
    assert int(response.headers["Content-Length"]) == len(body)


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_the_body(shared: Served, path: str) -> None:
    response, body = shared.get(path, method="HEAD")
    assert response.status == 200
    assert int(response.headers["Content-Length"]) > 0
    assert body == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"])
@pytest.mark.parametrize("path", ["/", "/metrics"])
def test_nothing_can_be_changed(shared: Served, path: str, method: str) -> None:
    response, _ = shared.get(path, method=method)
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD"


def test_an_unknown_path_says_what_there_is(shared: Served) -> None:
    status, text = shared.text("/../../etc/passwd")
    assert status == 404
    assert "/status" in text


# health


def test_all_is_well(shared: Served) -> None:
    assert shared.text("/healthz") == (200, "ok\n")
    assert shared.text("/readyz") == (200, "ok\n")


def test_readiness_by_lag_names_who_lags(shared: Served) -> None:
    assert shared.text("/readyz?max_lag=1h") == (200, "ok\n")
    status, text = shared.text("/readyz?max_lag=10m")
    assert status == 503
    assert text.startswith("we are 22 min behind stigmem:node:")
    assert text.count("\n") == 1


@pytest.mark.parametrize("asked", ["", "soon", "5", "-5m", "5m&max_lag=x", "%00"])
def test_a_lag_that_is_no_time_is_refused(shared: Served, asked: str) -> None:
    status, text = shared.text(f"/readyz?max_lag={asked}")
    assert status == 400
    assert "5m" in text


def test_a_database_in_trouble_fails_readiness_alone(alone: Served) -> None:
    alone.board.picture = replace(realistic(), trouble=trouble())
    assert alone.text("/healthz") == (200, "ok\n")
    status, text = alone.text("/readyz")
    assert status == 503
    assert "disk_low" in text
    assert json.loads(alone.text("/status")[1])["local_db"] == "disk_low"
    assert "The database cannot be used (disk_low)" in alone.text("/")[1]
    assert 'stigmem_replicator_local_db_trouble{cause="disk_low"} 1.0' in alone.text("/metrics")[1]


def test_a_stuck_engine_still_answers_with_the_truth(alone: Served) -> None:
    """Nobody publishes a picture any more, and the writer never ends its work."""
    now = SystemClock().monotonic()
    alone.board.looked_at = now - 1_000
    alone.board.writing_since = now - 1_000
    alone.board.picture = replace(realistic(), at_ms=NOW_MS - 999_000)
    for path in ("/healthz", "/readyz"):
        status, text = alone.text(path)
        assert status == 503
        assert "the supervisor has not looked at the tables for 17 min" in text
        assert "the writer is busy with one piece of work for 17 min" in text
    document = json.loads(alone.text("/status")[1])
    assert not document["healthy"]
    assert len(document["problems"]) == 3
    assert "The engine stands still" in alone.text("/")[1]
    assert "stigmem_replicator_picture_age_seconds 1000.0" in alone.text("/metrics")[1]


# secrets


def test_no_answer_tells_a_secret(alone: Served) -> None:
    secret = "c0ffee"
    url = f"https://me:{secret}@a.example:8765/?api_key={secret}&token={secret}"
    alone.board.picture = picture(peer("a", url=url))
    for path in PATHS:
        _, text = alone.text(path)
        assert secret not in text
    assert "https://***@a.example:8765/?api_key=***" in alone.text("/status")[1]
