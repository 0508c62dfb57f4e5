"""Fits the costs of the model to measured loads: least squares in which no cost is negative. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.capacity.costs import Cost, Costs, RowBytes
from bench.capacity.loads import WORD, Load
from bench.capacity.rig import Messages


def fit(features: Sequence[Sequence[float]], measured: Sequence[float]) -> list[float]:
    """Find the factors of the features whose sums are nearest to what was measured, relative to it.

    Each row is divided by its measured value first, so a load that costs little counts as much as one that costs
    more. A factor that would be negative is 0, and the others are fitted without it (Lawson and Hanson's active set,
    in the simple form that removes the most negative factor first).

    Args:
        features: One row for each load, one column for each factor.
        measured: What each load cost; above 0.

    Raises:
        ValueError: There are fewer loads than factors, or a measured value is not above 0.
    """
    matrix, values = np.array(features, dtype=float), np.array(measured, dtype=float)
    if matrix.ndim != 2 or len(matrix) != len(values) or len(values) < matrix.shape[1]:  # noqa: PLR2004 - rows, columns
        raise ValueError("a fit needs at least as many loads as factors")
    if not (np.isfinite(values).all() and np.isfinite(matrix).all() and (values > 0).all()):
        raise ValueError("a fit needs finite features, and costs above 0")
    scaled = matrix / values[:, None]
    active = list(range(matrix.shape[1]))
    factors = np.zeros(matrix.shape[1])
    while active:
        solved = np.linalg.lstsq(scaled[:, active], np.ones(len(values)), rcond=None)[0]
        if (solved >= 0).all():
            factors[active] = solved
            break
        del active[int(np.argmin(solved))]
    return [float(each) for each in factors]


def errors(features: Sequence[Sequence[float]], measured: Sequence[float], factors: Sequence[float]) -> list[float]:
    """Return the relative error of a fit for each load: 0.1 if it predicts 10 % more than was measured."""
    return [
        sum(factor * feature for factor, feature in zip(factors, row, strict=True)) / value - 1
        for row, value in zip(features, measured, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one step of a load cost: medians of its runs."""

    load: Load
    messages: Messages
    counted_steps: int
    cpu_ms: Mapping[str, float]
    steps_per_s: float
    fastest_step_ms: float
    """Milliseconds per step in the fastest wave of all runs: other processes only make it slower."""
    transactions: float
    wal_bytes: float

    def per_step(self, counted: Mapping[str, int], *kinds: str) -> float:
        """Divide a count of messages by the steps; without kinds, of all messages."""
        return sum(counted.get(kind, 0) for kind in kinds or counted) / self.counted_steps

    @property
    def events(self) -> float:
        """Events per step."""
        return self.per_step(self.messages.count, "steps_scored", "steps_generated")

    def grouped(self, units: float, size: float) -> tuple[float, float, float]:
        """Return units, groups and kilobytes of messages. In step, they form groups as large as those of the events."""
        return units, units * self.transactions / self.events, size / 1000

    @property
    def state_kb(self) -> float:
        """Kilobytes of question and steps read per step: with each event the solution so far, and its drafts."""
        load = self.load
        prefix = len(WORD) * (load.question_tokens + load.step_tokens * (load.steps - 1) / 2)
        return self.events * (prefix + load.step_tokens * len(WORD)) / 1000

    def handled(self, counted: Mapping[str, int]) -> float:
        """Sum what workers handle per step: every message, and once more those from the small model to the PRM."""
        return self.per_step(counted) + self.per_step(counted, "score_steps")

    def describe(self) -> dict[str, Any]:
        """Describe the sample for the file of costs."""
        return {
            "steps_per_s": round(self.steps_per_s),
            "cpu_ms_per_step": {name: round(value, 3) for name, value in self.cpu_ms.items()},
            "events_per_step": round(self.events, 3),
            "transactions_per_step": round(self.transactions, 4),
            "messages_per_step": round(self.per_step(self.messages.count), 3),
            "message_bytes_per_step": round(self.per_step(self.messages.size)),
            "wal_bytes_per_step": round(self.wal_bytes),
        }


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows and bytes that a load added to each table."""

    load: Load
    added: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Asked:
    """CPU milliseconds of the api."""

    submission_ms: float
    read_ms: float


Features = Callable[[Sample], tuple[float, float, float]]

FEATURES: Mapping[str, Features] = {
    "orchestrator": lambda each: (each.events, each.transactions, each.state_kb),
    "postgres": lambda each: (each.events, each.transactions, each.state_kb),
    "rabbitmq": lambda each: each.grouped(each.per_step(each.messages.count), each.per_step(each.messages.size)),
    "worker": lambda each: each.grouped(each.handled(each.messages.count), each.handled(each.messages.size)),
}
"""For each part, what its CPU time is fitted on: units, groups, kilobytes."""

IN_STEP = ("rabbitmq", "worker")
"""Parts whose groups are not counted: they are known only where all problems keep in step."""


def _cpu_ms(sample: Sample, part: str) -> float:
    return sum(sample.cpu_ms[each] for each in ("small", "prm", "large")) if part == "worker" else sample.cpu_ms[part]


def _fitted_on(samples: Sequence[Sample], part: str) -> list[Sample]:
    return [each for each in samples if part not in IN_STEP or not each.load.is_paced]


def _fit_part(samples: Sequence[Sample], part: str) -> Cost:
    fitted = _fitted_on(samples, part)
    unit, group, kb = fit([FEATURES[part](each) for each in fitted], [_cpu_ms(each, part) for each in fitted])
    return Cost(unit_ms=unit, group_ms=group, kb_ms=kb)


def _gather_ms(samples: Sequence[Sample], part: str, cost: Cost, *, processes: int) -> float:
    """Find the time within which messages join a group, from the loads whose messages arrive at random.

    With groups of k = 1 + rate * time messages, a message costs unit + group / k and its kilobytes.
    """
    found = []
    for each in samples:
        if each.load.is_paced:
            units, _, kb = FEATURES[part](each)
            alone_ms = (_cpu_ms(each, part) - units * cost.unit_ms - kb * cost.kb_ms) / units
            rate = each.steps_per_s * units / processes
            found.append(1000 * (cost.group_ms / alone_ms - 1) / rate if 0 < alone_ms < cost.group_ms else 0.0)
    return statistics.median(found)


def fit_errors(samples: Sequence[Sample], costs: Costs) -> dict[str, dict[str, float]]:
    """Return the relative error of each part's fit, by load."""
    found = {}
    for part, features in FEATURES.items():
        cost: Cost = getattr(costs, part)
        fitted = _fitted_on(samples, part)
        rows, measured = [features(each) for each in fitted], [_cpu_ms(each, part) for each in fitted]
        off = errors(rows, measured, (cost.unit_ms, cost.group_ms, cost.kb_ms))
        found[part] = {each.load.name: round(error, 3) for each, error in zip(fitted, off, strict=True)}
    return found


def fit_costs(
    samples: Sequence[Sample],
    stored: Sequence[Stored],
    *,
    idle: Mapping[str, float],
    connections: Mapping[str, Mapping[str, float]],
    asked: Asked,
) -> Costs:
    """Fit all costs.

    Args:
        samples: What the loads cost; the first has one problem at a time.
        stored: Rows and bytes that loads added.
        idle: CPU cores by role while there was no problem.
        connections: Connections of one process, by role and server.
        asked: Cost of the api.
    """
    parts = {part: _fit_part(samples, part) for part in FEATURES}
    alone = samples[0]
    work = sum(parts[part].ms(units=1, groups=1, kb=0) for part in ("orchestrator", "postgres"))
    hop_ms = max(0.0, (alone.fastest_step_ms - work) / alone.per_step(alone.messages.count))
    text = [each.load.step_tokens * len(WORD) for each in samples]
    wal = fit(
        [(each.events, each.transactions, size) for each, size in zip(samples, text, strict=True)],
        [each.wal_bytes for each in samples],
    )
    headers = _header_bytes(samples)
    return Costs(
        **parts,
        broker_gather_ms=_gather_ms(samples, "rabbitmq", parts["rabbitmq"], processes=1),
        worker_gather_ms=_gather_ms(samples, "worker", parts["worker"], processes=2),  # the small model's and the PRM's
        idle_orchestrator_cores=idle["orchestrator"],
        idle_worker_cores=idle["small"],
        idle_broker_cores=idle["rabbitmq"],
        hop_ms=hop_ms,
        submission_ms=asked.submission_ms,
        read_ms=asked.read_ms,
        wal_event_bytes=wal[0],
        wal_transaction_bytes=wal[1],
        wal_text_bytes=wal[2],
        step_row=_row(stored, "steps", lambda load: load.step_tokens * len(WORD)),
        decision_row=_row(stored, "decisions", lambda load: load.step_tokens * len(WORD)),
        problem_row=_row(stored, "problems", lambda load: len(load.question(0))),
        inbox_row=_row(stored, "inbox", lambda _: 0),
        inbox_rows_per_event=_inbox_rows_per_event(stored),
        generate_bytes=headers["generate_steps"],
        score_bytes=headers["score_steps"],
        scored_bytes=headers["steps_scored"],
        generated_bytes=headers["steps_generated"],
        orchestrator_broker_connections=connections["orchestrator"]["broker"],
        worker_broker_connections=connections["small"]["broker"],
    )


def _header_bytes(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the bytes of a message beside its texts, by kind, of the loads without lookahead."""
    counted = [each.messages for each in samples if not each.load.lookahead]
    kinds = {kind for each in counted for kind in each.count}

    def total(of: Callable[[Messages], Mapping[str, int]], kind: str) -> int:
        return sum(of(each).get(kind, 0) for each in counted)

    return {
        kind: (total(lambda each: each.size, kind) - total(lambda each: each.text, kind))
        / total(lambda each: each.count, kind)
        for kind in kinds
    }


def _row(stored: Sequence[Stored], table: str, text_bytes: Callable[[Load], float]) -> RowBytes:
    rows = [(each.added[table][0], each.added[table][0] * text_bytes(each.load)) for each in stored]
    sizes = [each.added[table][1] for each in stored]
    fixed, text = fit(rows, sizes) if any(size for _, size in rows) else (*fit([row[:1] for row in rows], sizes), 0.0)
    return RowBytes(fixed=fixed, text=text)


def _inbox_rows_per_event(stored: Sequence[Stored]) -> float:
    rows = sum(each.added["inbox"][0] for each in stored)
    events = sum(each.load.problems * (each.load.steps + each.load.escalations) for each in stored)
    return rows / events
