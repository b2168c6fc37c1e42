"""Alert rules and dashboard as Prometheus itself reads them, and the alarms as they ring."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests import dashboards

TIMEOUT_S: Final = 100

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed: Debian's package prometheus has it",
)


def promtool(*words: str | Path) -> tuple[int, str]:
    """Run the tool in the folder of the rules; exit code and what it said."""
    said = subprocess.run(
        ["promtool", *words],
        check=False,
        cwd=dashboards.FOLDER,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return said.returncode, said.stdout + said.stderr


def test_the_rules_are_in_order() -> None:
    code, said = promtool("check", "rules", dashboards.RULES)
    assert code == 0, said
    assert f"{len(dashboards.rules())} rules found" in said


def test_each_alarm_rings_when_it_should_and_else_keeps_quiet() -> None:
    code, said = promtool("test", "rules", dashboards.RULE_TESTS)
    assert code == 0, said


def test_an_alarm_that_rings_for_paused_peers_would_be_found(tmp_path: Path) -> None:
    """The check above can fail."""
    rules = dashboards.RULES.read_text("utf-8")
    changed = rules.replace("blocked|elsewhere|paused", "blocked|elsewhere")
    assert changed != rules
    (tmp_path / dashboards.RULES.name).write_text(changed)
    tests = yaml.safe_load(dashboards.RULE_TESTS.read_text("utf-8"))
    tests["tests"] = [each for each in tests["tests"] if "lag" in each["name"]]
    file = tmp_path / dashboards.RULE_TESTS.name
    file.write_text(yaml.safe_dump(tests))
    code, said = promtool("test", "rules", file)
    assert code == 1
    assert 'peer_id="paused"' in said


def test_each_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    """Checked as rules that record them, with something in the place of Grafana's variables."""
    asked = [*dashboards.asked_by_dashboard(), *dashboards.asked_by_variables()]
    recorded = [
        {
            "record": f"dashboard:query:{number}",
            "expr": re.sub(r"\[\$__\w+\]", "[5m]", query.text),
        }
        for number, query in enumerate(asked)
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    code, said = promtool("check", "rules", file)
    assert code == 0, said
    assert f"{len(asked)} rules found" in said
