"""Costs of the service that were measured, as a small file keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from shared.errors import PermanentError

FILE = Path(__file__).with_name("costs.json")
"""Costs that are committed: `python -m bench.capacity measure` writes them."""


class BadCosts(PermanentError):
    """The file of measured costs cannot be used; write another with `python -m bench.capacity measure`."""

    code = "bad_costs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """CPU time of one part of the service.

    It grows with what the part handles, with the groups in which it does, and with text. Units that arrive while the
    part is busy are handled as one group: events in one transaction, messages after one wake-up.
    """

    unit_ms: float
    """Milliseconds for each event (orchestrator, postgres) or message (rabbitmq, worker)."""
    group_ms: float
    """Milliseconds for each group of them."""
    kb_ms: float
    """Milliseconds for each kilobyte: of the solution so far (orchestrator, postgres) or of message bodies."""

    def ms(self, *, units: float, groups: float, kb: float) -> float:
        """Sum the CPU time."""
        return units * self.unit_ms + groups * self.group_ms + kb * self.kb_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBytes:
    """Bytes of a row on disk, with its share of the indexes: a fixed part, and a part for each byte of text."""

    fixed: float
    text: float

    def of(self, text_bytes: float) -> float:
        """Return the bytes of a row with a text."""
        return self.fixed + self.text * text_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """All that the model of the capacity takes from measurements."""

    orchestrator: Cost
    postgres: Cost
    rabbitmq: Cost
    worker: Cost
    """All workers together; a message from one worker to another counts twice."""
    broker_gather_ms: float
    worker_gather_ms: float
    """Milliseconds within which further messages join a group, of the broker and of one worker."""
    idle_orchestrator_cores: float
    idle_worker_cores: float
    idle_broker_cores: float
    """CPU cores that one process uses while there is no problem."""
    hop_ms: float
    """Milliseconds from a message's publication to its receipt, on idle cores."""
    submission_ms: float
    """CPU milliseconds of the api for one problem that is submitted alone."""
    read_ms: float
    """CPU milliseconds of the api for one problem that is read."""
    wal_event_bytes: float
    wal_transaction_bytes: float
    wal_text_bytes: float
    """Bytes of write-ahead log for each event, transaction, and byte of a step's text."""
    step_row: RowBytes
    decision_row: RowBytes
    problem_row: RowBytes
    inbox_row: RowBytes
    inbox_rows_per_event: float
    generate_bytes: float
    score_bytes: float
    scored_bytes: float
    generated_bytes: float
    """Bytes of a message's body beside the texts: `GenerateSteps`, `ScoreSteps`, `StepsScored`, `StepsGenerated`."""
    orchestrator_broker_connections: float
    worker_broker_connections: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Costs, and how they were measured."""

    costs: Costs
    how: Mapping[str, Any]
    """Date, command, machine, versions, the load of the machine, and what each load cost."""


def write(measured: Measured, path: Path) -> None:
    """Write costs to a file."""
    path.write_text(
        json.dumps({"costs": asdict(measured.costs), "how": dict(measured.how)}, indent=2) + "\n", encoding="utf-8"
    )


def read(path: Path) -> Measured:
    """Read costs from a file.

    Raises:
        BadCosts: The file is missing or has other content.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Measured(costs=_build(Costs, content["costs"]), how=dict(content["how"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadCosts(
            f"The measured costs in {path} cannot be used ({type(error).__name__}: {error}); write others with"
            " `python -m bench.capacity measure`."
        ) from None


def _build(kind: type[Any], content: Mapping[str, Any]) -> Any:
    hints, names = get_type_hints(kind), {each.name for each in fields(kind)}
    if set(content) != names:
        raise ValueError(f"{kind.__name__} has the fields {', '.join(sorted(names))}")
    return kind(**{name: _value(hints[name], name, content[name]) for name in names})


def _value(kind: type[Any], name: str, content: Any) -> Any:
    if kind is not float:
        return _build(kind, content)
    if isinstance(content, bool) or not isinstance(content, int | float) or not math.isfinite(content) or content < 0:
        raise ValueError(f"{name} is not a number of at least 0")
    return float(content)
