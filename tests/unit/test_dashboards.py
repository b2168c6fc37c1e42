"""The dashboard and the alert rules: what they name exists, and each alarm says what to do.

Whether a rule rings when it should is for Prometheus's own tool (tests/e2e/test_promtool.py).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stigmem_replicator.clock import SystemClock
from stigmem_replicator.errors import Reason
from stigmem_replicator.observe.board import StreamPicture
from stigmem_replicator.observe.metrics import Metrics
from stigmem_replicator.protocol.tombstone import Artifact
from stigmem_replicator.replication.plan import Counts
from stigmem_replicator.replication.states import PeerState
from stigmem_replicator.service.health import Patience
from stigmem_replicator.service.http import Endpoint
from stigmem_replicator.service.site import Application, Site
from stigmem_replicator.settings import Listen
from tests import dashboards
from tests.dashboards import OWN_LABELS, OWN_METRICS, Query, Tree
from tests.nodes.environment import REPOSITORY
from tests.pictures import NOW_MS, board, peer, picture
from tests.unit import test_runbooks as runbooks

PAGES: Final = runbooks.FOLDER / "alerts"
README: Final = dashboards.FOLDER / "README.md"
UNITS: Final = {"none", "short", "s", "cps", "bytes", "percentunit"}
COLUMNS: Final = 24

Labels = dict[str, dict[str, set[str]]]
"""The values of each label of each metric."""

QUERIES: Final = [
    *dashboards.asked_by_rules(),
    *dashboards.asked_by_dashboard(),
    *dashboards.asked_by_variables(),
]

queries = pytest.mark.parametrize("query", QUERIES, ids=lambda query: str(query.where))
rules = pytest.mark.parametrize("rule", dashboards.rules(), ids=lambda rule: str(rule["alert"]))
panels = pytest.mark.parametrize(
    "panel", dashboards.panels(), ids=lambda panel: str(panel["title"])
)
pages = pytest.mark.parametrize("page", sorted(PAGES.glob("*")), ids=lambda page: str(page.name))


@pytest.fixture(scope="module")
def served() -> Labels:
    """What a real endpoint serves of a daemon that has met everything once."""
    known = peer(
        reason="timeout",
        dead_letters=1,
        upstream_lag_ms=1,
        certificate_not_after_ms=NOW_MS,
        last_success_ms=NOW_MS,
        next_attempt_ms=NOW_MS,
        tombstones=StreamPicture(
            PeerState.BLOCKED,
            reason="capability_required",
            caught_up_ms=NOW_MS,
            token_not_after_ms=NOW_MS,
        ),
    )
    hung = board(picture(known, own_certificate_not_after_ms=NOW_MS))
    clock = SystemClock()
    metrics = Metrics(hung, clock)
    rejected, before = {Reason.HLC_SKEW: 2}, {Reason.CID_LEGACY: 1}
    skewed = {"future": 1, "past": 1}
    metrics.entries_committed(known.node_id, Counts(1, 1, rejected, before, 1, 1, skewed=skewed))
    for artifact in Artifact:
        metrics.records_committed(known.node_id, artifact, Counts(1, 1, rejected, before))
    metrics.page_committed(known.node_id)
    metrics.attempt_failed(known.node_id, Reason.TIMEOUT)
    site = Site(hung, metrics, clock, Patience(), clock.monotonic())
    with Endpoint(Listen("127.0.0.1", 0), Application(site), clock) as endpoint:
        host, port = endpoint.address.host, endpoint.address.port
        with urlopen(f"http://{host}:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
    found: Labels = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def labels_of(served: Labels, metrics: set[str]) -> set[str]:
    return set(OWN_LABELS).union(*(served.get(metric, {}) for metric in metrics))


# what is asked for


def check(query: Query, served: Labels) -> None:
    assert query.metrics
    assert query.metrics - OWN_METRICS <= set(served)
    for metric, label, value in query.matched:
        assert label in labels_of(served, {metric}), f"{metric} has no {label}"
        if not value.startswith("$") and label not in OWN_LABELS:
            assert value in served[metric][label], f"{label} is never {value}"
    assert query.grouped <= labels_of(served, query.metrics)


@queries
def test_every_metric_label_and_value_is_served(query: Query, served: Labels) -> None:
    """A selector names labels of its metric, and values that it can have."""
    check(query, served)


@pytest.mark.parametrize(
    "made_up",
    [
        "stigmem_replicator_mood > 1",
        'stigmem_replicator_peer_state{mood="idle"} == 1',
        'stigmem_replicator_peer_state{state=~"idle|tired"} == 1',
        "sum by (mood) (stigmem_replicator_peer_state)",
    ],
)
def test_what_is_made_up_is_found(made_up: str, served: Labels) -> None:
    with pytest.raises(AssertionError):
        check(Query("made up", made_up), served)


# the alarms


def rendered(runbook: str) -> set[str]:
    """Return every page that a link can become: one of a reason, or the one without."""
    if "{{" not in runbook:
        return {runbook}
    begin, otherwise, end = re.fullmatch(
        r"(.*?)\s*\{\{- with .*\| query -\}\}\s*\{\{ \. \| first \| label \"reason\" \}\}"
        r"\{\{ else \}\}(\w+)\{\{ end \}\}(.*)",
        runbook,
    ).groups()  # type: ignore[union-attr] # else the test fails, as it should
    return {f"{begin}{word}{end}" for word in (otherwise, *Reason)}


@rules
def test_an_alarm_says_what_is_the_matter_and_what_to_do(rule: Tree) -> None:
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert all(text.strip() for text in rule["annotations"].values())
    assert rule["labels"]["severity"] in {"critical", "warning"}
    for page in rendered(rule["annotations"]["runbook"]):
        assert page.startswith("docs/runbooks/")
        assert (REPOSITORY / page).is_file(), page


@rules
def test_an_alarms_words_use_labels_that_it_has(rule: Tree, served: Labels) -> None:
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    query = Query(rule["alert"], rule["expr"])
    assert used <= labels_of(served, query.metrics)
    by = re.match(r"(?:sum|count) by \(([^)]*)\)", rule["expr"])
    assert by is None or used <= set(re.findall(r"\w+", by[1]))


@rules
def test_commands_in_an_alarm_exist(rule: Tree) -> None:
    for name in runbooks.names(rule["annotations"]["description"]):
        runbooks.check_line(re.sub(r"\{\{.*?\}\}", "X", name))


@rules
def test_each_alarm_is_tested_to_ring_and_to_keep_quiet(rule: Tree) -> None:
    """In a test where something like it is there, and it does not ring yet or not for all."""
    name = rule["alert"]
    of_it = [
        test
        for test in dashboards.rule_tests()
        if any(each["alertname"] == name for each in test.get("alert_rule_test", ()))
    ]
    rings = [each for test in of_it for each in test["alert_rule_test"]]
    assert any(each["exp_alerts"] for each in rings if each["alertname"] == name)
    others = [each["exp_samples"] for test in of_it for each in test["promql_expr_test"]]
    assert any(all(name not in ring["labels"] for ring in moment) for moment in others)


def test_the_tests_of_alarms_have_no_name_that_is_none() -> None:
    text = dashboards.RULE_TESTS.read_text("utf-8")
    named = set(re.findall(r"\bStigmemReplicator\w+", text))
    assert named == {rule["alert"] for rule in dashboards.rules()}


def test_each_alarm_is_in_the_list_with_its_severity_and_page() -> None:
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(\.\./([\w/.]+)[#\w-]*\) \| (\w+) \|",
        README.read_text("utf-8"),
        re.MULTILINE,
    )
    listed = {name: (page, severity) for name, page, severity in rows}
    assert len(listed) == len(rows)
    assert set(listed) == {rule["alert"] for rule in dashboards.rules()}
    for rule in dashboards.rules():
        page, severity = listed[rule["alert"]]
        assert severity == rule["labels"]["severity"]
        assert page in rendered(rule["annotations"]["runbook"])


def test_alarms_look_for_the_job_that_the_documents_name() -> None:
    jobs = {
        value
        for query in dashboards.asked_by_rules()
        for _, label, value in query.matched
        if label == "job" and not value.startswith("$")
    }
    for document in (README, REPOSITORY / "docs" / "monitoring.md"):
        assert set(re.findall(r"job_name: ([\w-]+)", document.read_text("utf-8"))) == jobs


# the pages of alarms


@pages
def test_a_page_of_an_alarm_is_one_and_is_linked(page: Path) -> None:
    """It has the sections of a runbook, and a rule or another page leads to it."""
    text = page.read_text("utf-8")
    assert re.match(r"# .+\n\n\*\*Tonight:\*\* ", text)
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    assert parts[1::2] == runbooks.SECTIONS
    assert all(part.strip() for part in parts)
    assert len(text.splitlines()) in runbooks.LINES
    linked = {rule["annotations"]["runbook"] for rule in dashboards.rules()}
    assert str(page.relative_to(REPOSITORY)) in linked


@pages
def test_a_page_of_an_alarm_names_what_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    for line in runbooks.blocks(text, "console"):
        assert line.startswith("$ "), line
        runbooks.check_line(line[2:])
    alarms = {rule["alert"] for rule in dashboards.rules()}
    for name in runbooks.names(text):
        if name.startswith("StigmemReplicator"):
            assert name in alarms
        elif name.startswith(("stigmem-replicate ", "STIGMEM_")):
            runbooks.check_line(name)


@pytest.mark.parametrize("page", [README, *sorted(PAGES.glob("*.md"))], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    runbooks.test_links_lead_somewhere(page)


# the dashboard


@panels
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: Tree) -> None:
    assert panel["title"].strip()
    assert panel["description"].strip().endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)


@panels
def test_a_panels_legend_uses_labels_that_there_are(panel: Tree, served: Labels) -> None:
    for target in panel["targets"]:
        used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        query = Query(panel["title"], target["expr"])
        assert used <= labels_of(served, query.metrics)
        by = re.match(r"sum by \(([^)]*)\)", target["expr"])
        assert by is None or used <= query.grouped


@panels
def test_a_panel_asks_the_prometheus_that_was_chosen(panel: Tree) -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["datasource"] == chosen
    assert all(target["datasource"] == chosen for target in panel["targets"])
    assert all('job=~"$job",instance=~"$instance"' in target["expr"] for target in panel["targets"])


def test_titles_and_ids_are_there_once() -> None:
    everything = dashboards.dashboard()["panels"]
    for key in ("id", "title"):
        assert max(Counter(panel[key] for panel in everything).values()) == 1


def test_panels_lie_beside_and_below_each_other() -> None:
    """None lies over another or over the edge."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboards.dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in cells) < COLUMNS
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_can_be_imported_anywhere() -> None:
    """It has no id of a database, no fixed source of data, and only variables of its own."""
    text = dashboards.DASHBOARD.read_text("utf-8")
    shown = dashboards.dashboard()
    assert shown["id"] is None
    assert shown["uid"]
    assert "http" not in text
    variables = {each["name"] for each in shown["templating"]["list"]}
    assert variables == {"datasource", "job", "instance", "peer"}
    used = set(re.findall(r"\$\{?(\w+)", text))
    assert used - variables == {"__rate_interval", "__interval", "__all"}
