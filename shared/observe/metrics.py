"""All metrics, in one place; each kind of process exposes its own.

No label holds an id. Counters of the orchestrator count what was committed (`services/orchestrator/counting.py`).
Instruments without varying labels are children made here once, because making one costs more than counting does.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

import prometheus_client
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from shared.domain.ledger import Ledger
from shared.domain.roles import WorkerRole

PREFIX: Final = "trim"

STAGE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Seconds of one stage: from a step of a bundled model to a long one of a large model on a busy GPU."""

PROBLEM_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SWEEP_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARE_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
SCORE_BUCKETS: Final = tuple(place / 20 for place in range(1, 21))

CALL_COLUMNS: Final[Mapping[str, WorkerRole]] = {f"{role}_calls": role for role in WorkerRole}
"""Columns of the ledger that count calls; the others count tokens."""

TOKEN_COLUMNS: Final = tuple(each.name for each in dataclasses.fields(Ledger) if each.name not in CALL_COLUMNS)

Metric = TypeVar("Metric", Counter, Gauge, Histogram)


class Group:
    """Metrics that the same processes expose."""

    def __init__(self) -> None:
        self.metrics: list[MetricWrapperBase] = []

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        """Declare a counter."""
        return self._declared(Counter(f"{PREFIX}_{name}", meaning, labels, registry=None))

    def gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        """Declare a gauge."""
        return self._declared(Gauge(f"{PREFIX}_{name}", meaning, labels, registry=None))

    def histogram(self, name: str, meaning: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        """Declare a histogram; the bucket without a limit is added to its buckets."""
        return self._declared(Histogram(f"{PREFIX}_{name}", meaning, labels, registry=None, buckets=buckets))

    def _declared(self, metric: Metric) -> Metric:
        self.metrics.append(metric)
        return metric


def _children(metric: Metric, values: Iterable[str]) -> dict[str, Metric]:
    """Make a child for each value of the only label, so that all of them are exposed, with 0, from the start."""
    return {str(value): metric.labels(value) for value in values}


# Every process

PROCESS: Final = Group()
PROCESS_INFO = PROCESS.gauge("process_info", "Always 1; role and version of the process.", "role", "version")
READY = PROCESS.gauge("ready", "Whether every condition of the process is met (1) or not (0).")
CONDITION_MET = PROCESS.gauge(
    "condition_met", "Whether a condition that the process needs is met (1) or not (0).", "condition"
)
LOG_LINES = _children(
    PROCESS.counter("log_lines_total", "Lines that the process has logged.", "level"),
    ("debug", "info", "warning", "error", "critical"),
)

# The api

API: Final = Group()

# Processes that publish: the orchestrator and the workers

PUBLISHING: Final = Group()

# The orchestrator and the workers

STAGES: Final = Group()

# The orchestrator

ORCHESTRATOR: Final = Group()

# The workers

WORKER: Final = Group()

_GROUPS: Final[Mapping[str, Sequence[Group]]] = {
    "api": (PROCESS, API),
    "orchestrator": (PROCESS, PUBLISHING, STAGES, ORCHESTRATOR),
    **{str(role): (PROCESS, PUBLISHING, STAGES, WORKER) for role in WorkerRole},
}
"""What each role exposes."""


def metrics_of(role: str) -> list[MetricWrapperBase]:
    """List the metrics that a role exposes, without those of libraries."""
    return [metric for group in _GROUPS.get(role, (PROCESS,)) for metric in group.metrics]


def expose(role: str, registry: CollectorRegistry = REGISTRY) -> None:
    """Register a role's metrics beside those of libraries, and count the lines that the process logs.

    Call it once in a process, after the logs are configured.
    """
    # They would double the number of series, and state when a process started, which `process_*` does too.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    for metric in metrics_of(role):
        registry.register(metric)
    PROCESS_INFO.labels(role, importlib.metadata.version("trim-service")).set(1)
    logging.getLogger().addHandler(_CountsLines())


class _CountsLines(logging.Handler):
    """Counts log lines by level."""

    def emit(self, record: logging.LogRecord) -> None:
        if (counter := LOG_LINES.get(record.levelname.lower())) is not None:
            counter.inc()
