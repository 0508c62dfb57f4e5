"""What the rules and dashboards contain, as data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "docker" / "prometheus" / "rules"
DASHBOARDS = ROOT / "docker" / "grafana" / "dashboards"
RUNBOOKS = ROOT / "docs" / "operations" / "runbooks"

NAME = re.compile(r"(?<![\w:$])(?:[a-z_]+:)*(?:trim|rabbitmq|process|vllm)[a-z0-9_:]*\b(?!\")")
SELECTED = re.compile(r"([a-z0-9_:]+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")


@cache
def rules() -> Sequence[Mapping[str, Any]]:
    """List all rules: alerts and recorded series."""
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> dict[str, Mapping[str, Any]]:
    """List the alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


@cache
def dashboards() -> dict[str, Mapping[str, Any]]:
    """Read the dashboards by uid."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def queries() -> Iterator[tuple[str, str]]:
    """List the queries of all panels, each with its place."""
    for uid, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{uid}: {panel['title']}", target["expr"]


def expressions() -> Iterator[tuple[str, str]]:
    """List all expressions, each with its place."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    yield from queries()


def metrics_in(expression: str) -> set[str]:
    """Find the names of the metrics and recorded series in an expression."""
    return set(NAME.findall(re.sub(r'"[^"]*"', '""', expression)))


def labels_in(expression: str) -> Iterator[tuple[str, str]]:
    """Find the labels that an expression compares, each with the metric; "" where it groups by one."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    for metric, selectors in SELECTED.findall(bare):
        for label in LABEL.findall(selectors):
            yield metric, label
    for grouped in GROUPED.findall(bare):
        for label in filter(None, map(str.strip, grouped.split(","))):
            yield "", label
