"""Rules, runbooks and dashboards fit each other, the metrics of the code and Grafana's schema. Needs no promtool."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from shared.domain.roles import WorkerRole
from shared.observe import metrics
from shared.observe.metrics import metrics_of
from shared.worker.execution import Outcome
from tests.observability.described import (
    DASHBOARDS,
    ROOT,
    RUNBOOKS,
    alerts,
    dashboards,
    expressions,
    labels_in,
    metrics_in,
    rules,
)
from tests.scraping import Scrape

SAMPLES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
TARGET_LABELS = {"job", "instance"}
OF_OTHERS: Mapping[str, Sequence[str]] = {
    "process_start_time_seconds": (),
    "process_cpu_seconds_total": (),
    "rabbitmq_alarms_memory_used_watermark": (),
    "rabbitmq_alarms_free_disk_space_watermark": (),
    "rabbitmq_detailed_queue_messages_ready": ("queue", "vhost"),
    "rabbitmq_detailed_queue_messages_unacked": ("queue", "vhost"),
    "rabbitmq_detailed_queue_consumers": ("queue", "vhost"),
    "vllm:num_requests_waiting": ("model_name", "engine"),
    "vllm:kv_cache_usage_perc": ("model_name", "engine"),
}
"""Labels of the metrics that libraries and servers expose."""

EXPRESSIONS = list(expressions())
PANELS = [(uid, panel) for uid, dashboard in dashboards().items() for panel in dashboard["panels"]]


@cache
def known() -> dict[str, set[str]]:
    """List the labels of every series by its name."""
    found = {name: {*labels, *TARGET_LABELS} for name, labels in OF_OTHERS.items()}
    for role in ("api", "orchestrator", *WorkerRole):
        for metric in metrics_of(role):
            for suffix in SAMPLES[metric._type]:
                limit = {"le"} if suffix == "_bucket" else set()
                found[f"{metric._name}{suffix}"] = {*metric._labelnames, *TARGET_LABELS, *limit}
    for rule in rules():
        if "record" in rule:
            level, _, rest = rule["record"].partition(":")
            found[rule["record"]] = set(level.split("_")) if ":" in rest else set()
    return found


@pytest.mark.parametrize("expression", [each for _, each in EXPRESSIONS], ids=[place for place, _ in EXPRESSIONS])
def test_every_series_and_label_in_an_expression_exists(expression: str) -> None:
    series, names = known(), metrics_in(expression)
    assert names <= set(series)
    assert names or "ALERTS{" in expression or "up{" in expression
    for metric, label in labels_in(expression):
        of = [metric] if metric else names
        assert metric in ("up", "ALERTS") or any(label in series[each] for each in of), f"{label} of {of}"


# Alerts and runbooks


@pytest.mark.parametrize("name", list(alerts()))
def test_an_alert_has_a_severity_a_sentence_and_a_complete_runbook(name: str) -> None:
    alert = alerts()[name]
    assert re.fullmatch("Trim([A-Z][a-z]+)+", name)
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert re.fullmatch(r"(\{\{|[A-Z]).+\.", alert["annotations"]["summary"])
    page = RUNBOOKS / f"{name}.md"
    assert ROOT / alert["annotations"]["runbook_url"] == page
    headings = re.findall("^#+ .+$", page.read_text(), re.MULTILINE)
    assert headings == [f"# {name}", "## Cause", "## What to do", "## It is over when"]


def test_the_index_lists_every_runbook_with_the_severity_of_its_alert() -> None:
    listed = re.findall(r"^\| \[(\w+)\]\(\w+\.md\) \| (\w+) \|", (RUNBOOKS / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted((name, alert["labels"]["severity"]) for name, alert in alerts().items())
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*alerts(), "README"}


SEEN_LATE = {"trim_http_requests_total", "trim_decisions_total"}
"""Counters whose labels only traffic fills; their alerts need more than one scrape with an increase anyway."""


def test_a_counter_that_an_alert_watches_exists_before_it_counts() -> None:
    for role in WorkerRole:
        metrics.begin_counting(role, outcomes=get_args(Outcome))
    exposed = Scrape.here(*(each for role in ("orchestrator", "small") for each in metrics.metrics_of(role)))
    watched = {
        found for alert in alerts().values() for found in re.findall(r"(?:rate|increase)\((trim_\w+)", alert["expr"])
    }
    assert watched - exposed.names() <= SEEN_LATE
    assert {("outcome", "crashed"), ("status", "failed"), ("kind", "steps_scored")} <= set(exposed.labels())


# Dashboards


def test_the_dashboards_are_those_that_the_code_describes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "docker" / "grafana" / "dashboards.py", tmp_path], check=True)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text() for path in DASHBOARDS.iterdir()}, "run make dashboards"


def lost(given: Any, kept: Any, place: str = "") -> Iterator[str]:
    """List what one structure has and the other lacks."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from lost(value, kept[key], f"{place}.{key}") if key in kept else [f"{place}.{key}"]
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for index, value in enumerate(given):
            yield from lost(value, kept[index], f"{place}[{index}]")
    elif given != kept:
        yield f"{place}: {given} is not {kept}"


@pytest.mark.parametrize("uid", list(dashboards()))
def test_a_dashboard_has_no_field_that_grafanas_schema_lacks(uid: str) -> None:
    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):  # It recommends a newer, beta schema.
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.cog.plugins import register_default_plugins
        from grafana_foundation_sdk.models.dashboard import Dashboard
    register_default_plugins()
    given = dashboards()[uid]
    assert list(lost(given, json.loads(JSONEncoder().encode(Dashboard.from_json(given))))) == []


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}: {panel['title']}" for uid, panel in PANELS])
def test_a_panel_has_a_unit_a_source_and_a_legend_for_each_query(uid: str, panel: Mapping[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert panel["datasource"] == target["datasource"] == {"type": "prometheus", "uid": "${source}"}
        assert target["legendFormat"] or panel["type"] == "stat"
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(set(legends)) == len(legends) == len({target["refId"] for target in panel["targets"]})


@pytest.mark.parametrize("uid", list(dashboards()))
def test_panels_fill_their_rows_and_no_two_share_a_place(uid: str) -> None:
    panels = dashboards()[uid]["panels"]
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells) == 24 * max(place["y"] + place["h"] for place in places)
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
