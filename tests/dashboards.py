"""The dashboard, the alert rules and what they ask Prometheus, for the tests of them.

Queries are taken apart only as far as names, labels and values go; whether they are well formed
is for Prometheus's own tool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import yaml

from tests.nodes.environment import REPOSITORY

FOLDER: Final = REPOSITORY / "dashboards"
RULES: Final = FOLDER / "alerts.yml"
RULE_TESTS: Final = FOLDER / "alerts_test.yml"
DASHBOARD: Final = FOLDER / "stigmem-replicator.json"

Tree = dict[str, Any]
"""What JSON and YAML may hold."""

OWN_LABELS: Final = frozenset({"job", "instance"})
"""What Prometheus adds to every series that it scrapes."""

OWN_METRICS: Final = frozenset({"up"})
"""What Prometheus says of a target by itself."""

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR: Final = re.compile(r"(\w+)\{([^{}]*)\}")
_MATCHER: Final = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_METRIC: Final = re.compile(r"\b(?:(?:stigmem|process)_\w+|up)\b")


@dataclass(frozen=True, slots=True)
class Query:
    """What a query asks for; ``matched`` has metric, label and value of each matcher."""

    where: str
    text: str

    @property
    def metrics(self) -> set[str]:
        return set(_METRIC.findall(_STRING.sub("", self.text)))

    @property
    def matched(self) -> Iterator[tuple[str, str, str]]:
        for metric, matchers in _SELECTOR.findall(self.text):
            for label, values in _MATCHER.findall(matchers):
                yield from ((metric, label, value) for value in values.split("|"))

    @property
    def grouped(self) -> set[str]:
        lists = ",".join(_GROUPING.findall(_STRING.sub("", self.text)))
        return set(re.findall(r"\w+", lists))


@cache
def rules() -> list[Tree]:
    """Return all alert rules."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@cache
def rule_tests() -> list[Tree]:
    """Return the tests of the rules."""
    tests: list[Tree] = yaml.safe_load(RULE_TESTS.read_text("utf-8"))["tests"]
    return tests


@cache
def dashboard() -> Tree:
    """Return the dashboard."""
    board: Tree = json.loads(DASHBOARD.read_text("utf-8"))
    return board


def panels() -> list[Tree]:
    """Return the panels that show something, headings left out."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def asked_by_rules() -> list[Query]:
    """Return the queries of the rules, those in their texts too."""
    found = [Query(rule["alert"], rule["expr"]) for rule in rules()]
    for rule in rules():
        inner = re.findall(r'printf "([^"]+)"', " ".join(rule["annotations"].values()))
        found += [Query(rule["alert"], text.replace("%q", '"$any"')) for text in inner]
    return found


def asked_by_dashboard() -> list[Query]:
    """Return the queries of the panels."""
    return [
        Query(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]
    ]


def asked_by_variables() -> list[Query]:
    """Return the queries of marks and of what can be chosen, a label as one that is grouped by."""
    board = dashboard()
    marks = [each for each in board["annotations"]["list"] if "expr" in each]
    found = [Query(each["name"], each["expr"]) for each in marks]
    for each in board["templating"]["list"]:
        if each["type"] == "query":
            values = re.fullmatch(r"label_values\((.+), (\w+)\)", each["query"]["query"])
            assert values is not None, each["name"]
            found.append(Query(each["name"], f"count by ({values[2]}) ({values[1]})"))
    return found
