"""All metrics, in one place; each kind of process exposes its own.

No label holds an id. Counters of the orchestrator count what was committed (`services/orchestrator/counting.py`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar, get_args

import prometheus_client
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from shared.domain.ledger import Ledger
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status
from shared.messages import ProblemEvent
from shared.observe import memory
from shared.version import VERSION

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

_ENDS: Final = [status for status in Status if status.is_final]

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


def _from_zero(metric: Metric, values: Iterable[str]) -> Metric:
    """Expose a metric with 0 from the start, for these values of its only label; there may be others.

    A rate cannot show the first increase of a series that did not exist before it.
    """
    _children(metric, values)
    return metric


# Every process

PROCESS: Final = Group()
PROCESS_INFO = PROCESS.gauge("process_info", "Always 1; role and version of the process.", "role", "version")
READY = PROCESS.gauge("ready", "Whether every condition of the process is met (1) or not (0).")
LIVE = PROCESS.gauge("live", "Whether the process makes progress (1) or not (0).")
CONDITION_MET = PROCESS.gauge(
    "condition_met", "Whether a condition that the process needs is met (1) or not (0).", "condition"
)
PROCESS.gauge(
    "memory_used_bytes", "Memory of the container that counts towards its limit; NaN outside of one."
).set_function(memory.used_bytes)
PROCESS.gauge(
    "memory_limit_bytes", "Memory at which the kernel kills the process; infinite without a limit."
).set_function(memory.limit_bytes)
LOG_LINES = _children(
    PROCESS.counter("log_lines_total", "Lines that the process has logged.", "level"),
    ("debug", "info", "warning", "error", "critical"),
)

# The api

API: Final = Group()
HTTP_REQUESTS = API.counter(
    "http_requests_total",
    "HTTP requests that were answered; with status 499, those whose client left before.",
    "method",
    "route",
    "status",
)
HTTP_REQUEST_SECONDS = API.histogram(
    "http_request_seconds",
    "Seconds to answer an HTTP request, without streams, completions and requests that wait for a problem's end "
    "(`wait_s`).",
    "method",
    "route",
    buckets=REQUEST_BUCKETS,
)
STREAMS_OPEN = API.gauge("streams_open", "Streams of problems that clients follow now.")
PROBLEMS_SUBMITTED = API.counter("problems_submitted_total", "Problems that were queued.", "policy")

# Processes that publish: the orchestrator and the workers

PUBLISHING: Final = Group()
PUBLICATION_FAILURES = PUBLISHING.counter(
    "publication_failures_total", "Attempts to publish that failed and are repeated until the broker confirms."
)
DEAD_LETTERS = _children(
    PUBLISHING.counter("dead_letters_total", "Unusable messages that were moved to a dead-letter queue.", "queue"),
    (*WorkerRole, "events"),
)

# The orchestrator and the workers

STAGES: Final = Group()
STAGE_WORK_SECONDS = STAGES.histogram(
    "stage_work_seconds",
    "Seconds of work: of an engine on one step (`small`, `large`) or one call (`prm`), of an orchestrator on one "
    "transaction of `events`.",
    "stage",
    buckets=STAGE_BUCKETS,
)

# The orchestrator

ORCHESTRATOR: Final = Group()
STEPS = _children(ORCHESTRATOR.counter("steps_total", "Steps that were accepted into trajectories.", "author"), Author)
DECISIONS = ORCHESTRATOR.counter("decisions_total", "Decisions that were taken.", "policy", "action", "reason")
SHADOW_DECISIONS = ORCHESTRATOR.counter(
    "shadow_decisions_total", "Decisions of shadows: `accept`, `escalate` or `skipped`.", "policy", "outcome"
)
TOKENS = _children(ORCHESTRATOR.counter("tokens_total", "Tokens by column of the ledger.", "kind"), TOKEN_COLUMNS)
CALLS = _children(ORCHESTRATOR.counter("calls_total", "Engine calls, as the ledger counts them.", "role"), WorkerRole)
PRM_SCORE = ORCHESTRATOR.histogram("prm_score", "PRM scores of the drafts that were decided on.", buckets=SCORE_BUCKETS)
PROBLEMS_ENDED = ORCHESTRATOR.counter(
    "problems_ended_total",
    "Problems that ended; the reason is the stop reason or the code of the failure, `none` if there is neither.",
    "status",
    "reason",
)
PROBLEM_SECONDS = _from_zero(
    ORCHESTRATOR.histogram(
        "problem_seconds", "Seconds from a problem's submission to its end.", "status", buckets=PROBLEM_BUCKETS
    ),
    _ENDS,
)
PROBLEM_QUEUED_SECONDS = ORCHESTRATOR.histogram(
    "problem_queued_seconds", "Seconds from a problem's submission to its admission.", buckets=PROBLEM_BUCKETS
)
PROBLEMS = _children(
    ORCHESTRATOR.gauge(
        "problems", "Open problems, read from the database every few seconds: every orchestrator shows all.", "status"
    ),
    (Status.QUEUED, Status.RUNNING),
)
PROBLEMS_WAITING = _children(
    ORCHESTRATOR.gauge(
        "problems_waiting", "Running problems that wait for a role that is away; every orchestrator shows all.", "role"
    ),
    WorkerRole,
)
ADMISSION_WINDOW = ORCHESTRATOR.gauge(
    "admission_window", "Maximum number of problems that run at the same time (`TRIM_WINDOW`)."
)
EVENTS = _from_zero(
    ORCHESTRATOR.counter("events_total", "Events that changed a problem; duplicates do not.", "kind"),
    [str(event.model_fields["kind"].default) for event in get_args(ProblemEvent)],
)
BATCH_EVENTS = ORCHESTRATOR.histogram(
    "batch_events", "Events on problems that one transaction applied.", buckets=BATCH_BUCKETS
)
SWEPT = _from_zero(
    ORCHESTRATOR.counter(
        "swept_total",
        "What sweeps did: problems `admitted`, `repeated` (an overdue request), `cancelled`, `expired` or `failed`; "
        "rows `pruned`.",
        "action",
    ),
    ("admitted", "repeated", "cancelled", "expired", "failed", "pruned"),
)
SWEEP_SECONDS = ORCHESTRATOR.histogram("sweep_seconds", "Seconds of one transaction of a sweep.", buckets=SWEEP_BUCKETS)

# The workers

WORKER: Final = Group()
COMMANDS = WORKER.counter(
    "commands_total",
    "Commands that ended in this worker: `done`, `failed_retryable`, `failed_permanent`, `expired`, `cancelled`, "
    "`requeued` (the engine broke down), `returned` (the worker is unfit or stops, and others carry it out), "
    "`incomplete` (it comes again with more of its prefix) or `crashed` (an unexpected error).",
    "role",
    "outcome",
)
COMMANDS_RUNNING = WORKER.gauge("commands_running", "Commands that are running.", "role")
CONCURRENCY = WORKER.gauge(
    "concurrency", "Maximum number of commands that run at the same time (`TRIM_CONCURRENCY`).", "role"
)
STAGE_WAIT_SECONDS = WORKER.histogram(
    "stage_wait_seconds",
    "Seconds from a command's publication to its start in a worker.",
    "stage",
    buckets=STAGE_BUCKETS,
)
ENGINE_TOKENS = WORKER.counter(
    "engine_tokens_total",
    "Tokens of the engine: `prompt` (all input of a generator), `cached` (its part that was not computed again), "
    "`decoded`, and `scored` (computed by a PRM).",
    "role",
    "kind",
)
PROBE_TOKENS = WORKER.counter(
    "probe_tokens_total",
    "Tokens that the first call and the probes of the engine decoded or scored, counted or estimated; no ledger and no "
    "other metric has them.",
    "role",
)
ENGINE_HEALTHY = WORKER.gauge("engine_healthy", "Whether the worker is fit and takes commands (1) or not (0).", "role")
ENGINE_START_SECONDS = WORKER.gauge(
    "engine_start_seconds", "Seconds that the engine took to load and to answer for the first time.", "role"
)
BATCH_OCCUPANCY = WORKER.histogram(
    "batch_occupancy",
    "Used share of an embedded engine's batch, in each run of the model.",
    "role",
    buckets=SHARE_BUCKETS,
)


def begin_counting(role: WorkerRole, *, outcomes: Iterable[str]) -> None:
    """Expose a worker's counters with 0 from the start, for all outcomes that its commands may have."""
    for outcome in outcomes:
        COMMANDS.labels(role, outcome)
    for kind in ("scored",) if role is WorkerRole.PRM else ("prompt", "cached", "decoded"):
        ENGINE_TOKENS.labels(role, kind)
    PROBE_TOKENS.labels(role)
    STAGE_WAIT_SECONDS.labels(role)
    STAGE_WORK_SECONDS.labels(role)


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
    PROCESS_INFO.labels(role, VERSION).set(1)
    logging.getLogger().addHandler(_CountsLines())


class _CountsLines(logging.Handler):
    """Counts log lines by level."""

    def emit(self, record: logging.LogRecord) -> None:
        if (counter := LOG_LINES.get(record.levelname.lower())) is not None:
            counter.inc()
