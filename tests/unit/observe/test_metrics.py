"""All metrics are documented, and each role exposes its own."""

from __future__ import annotations

import importlib.metadata
import logging
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from shared.domain.roles import WorkerRole
from shared.observe import metrics
from shared.version import VERSION
from tests.scraping import Scrape

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operations" / "observability.md"
ROLES = ("api", "orchestrator", *WorkerRole)


def name(metric: MetricWrapperBase) -> str:
    return f"{metric._name}_total" if metric._type == "counter" else metric._name


def test_the_page_lists_every_metric_with_type_labels_and_meaning_and_no_other() -> None:
    rows = re.findall(r"^\| `(trim_\w+)` \| (\w+) \| (.*) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    declared = {id(metric): metric for role in ROLES for metric in metrics.metrics_of(role)}.values()
    assert sorted(rows) == sorted(
        (name(each), str(each._type), ", ".join(f"`{label}`" for label in each._labelnames), each._documentation)
        for each in declared
    )


@pytest.mark.parametrize(
    ("role", "has", "lacks"),
    [
        ("api", "trim_problems_submitted_total", "trim_publication_failures_total"),
        ("orchestrator", "trim_tokens_total", "trim_http_requests_total"),
        ("prm", "trim_dead_letters_total", "trim_tokens_total"),
        ("bench", "trim_process_info", "trim_dead_letters_total"),
    ],
)
def test_each_role_exposes_its_own_metrics(role: str, has: str, lacks: str) -> None:
    exposed = {name(metric) for metric in metrics.metrics_of(role)}
    assert has in exposed
    assert lacks not in exposed
    assert {"trim_ready", "trim_condition_met", "trim_log_lines_total"} <= exposed


def test_exposing_registers_the_metrics_names_the_process_and_counts_log_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = logging.getLogger()
    handlers, registry = list(root.handlers), CollectorRegistry()
    monkeypatch.setattr(importlib.metadata, "version", lambda _: pytest.fail("images install no distribution"))
    try:
        metrics.expose("small", registry)
        before = Scrape.here(registry)
        logging.getLogger("test").warning("Something happened.")
        logging.getLogger("test").error("Something else happened.")
    finally:
        root.handlers = handlers
    now = Scrape.here(registry)
    assert now.since(before).by("trim_log_lines_total", "level") == {"warning": 1, "error": 1}
    assert list(now.by("trim_process_info", "role", "version")) == [("small", VERSION)]
    assert not [found for found in now.names() if found.endswith("_created")], "they would double the series"


def test_what_is_enumerated_is_exposed_with_0_from_the_start() -> None:
    found = Scrape.here(*metrics.ORCHESTRATOR.metrics)
    kinds = {value for label, value in found.labels() if label == "kind"}
    assert set(metrics.TOKEN_COLUMNS) <= kinds
    assert {"small_kept", "large_out", "prm_estimated"} <= set(metrics.TOKEN_COLUMNS)
    assert not {"small_calls", "prm_calls"} & set(metrics.TOKEN_COLUMNS)
