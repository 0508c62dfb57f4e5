"""Applies events to problems, many in one transaction, and derives what has to be published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import Connection

from shared.bus.consumer import Delivery
from shared.bus.topology import DELIVERY_LIMIT, QUEUES, DeadLetter
from shared.domain.commands import next_commands
from shared.domain.state import ControlEvent, State
from shared.domain.transitions import apply
from shared.errors import RetryableError
from shared.log import get_logger
from shared.messages import Event, Message, ProblemEvent, UndecodableMessage, WorkerSeen, decode
from shared.store.admission import SeenProcess, record_processes
from shared.store.database import Database, wake_orchestrators
from shared.store.reasoning import LockedProblem, lock_problems, save_states

Outgoing = Message | DeadLetter

Controls = Mapping[UUID, Sequence[ControlEvent]]
"""What is due, by problem."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Heard:
    delivery: Delivery
    event: Event


def apply_deliveries(database: Database, deliveries: Sequence[Delivery]) -> list[Outgoing]:
    """Apply messages and return what to publish; then they may be acknowledged.

    A message that cannot be used goes to the dead letters with its reason. One that breaks the transaction of all is
    found by applying them one by one.

    Raises:
        DatabaseUnavailable: Nothing was applied.
    """
    outgoing: list[Outgoing] = []
    heard: list[_Heard] = []
    for delivery in deliveries:
        if delivery.deliveries > DELIVERY_LIMIT:
            outgoing.append(_bury(delivery, f"it was delivered {delivery.deliveries} times and never settled"))
            continue
        try:
            heard.append(_Heard(delivery, _decode(delivery.body)))
        except UndecodableMessage as error:
            outgoing.append(_bury(delivery, error.reason))
    try:
        return outgoing + _apply_together(database, heard)
    except RetryableError:
        raise
    except Exception:  # noqa: BLE001 - one of the events is to blame, and it is found below
        _log.exception("batch_isolated", events=len(heard))
    for each in heard:
        try:
            outgoing += _apply_together(database, [each])
        except RetryableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, it must not stop the others
            _log.exception("event_failed", kind=each.event.kind)
            outgoing.append(_bury(each.delivery, f"it could not be applied ({type(error).__name__})"))
    return outgoing


def apply_controls(connection: Connection, wanted: Controls) -> list[Outgoing]:
    """Apply what the orchestrator itself found due, inside an open transaction; return what to publish at commit."""
    now = datetime.now(UTC)
    problems = lock_problems(connection, wanted)
    changes: list[tuple[LockedProblem, State]] = []
    for problem_id, locked in problems.items():
        state = locked.state
        for event in wanted[problem_id]:
            state = apply(state, event, decide=locked.policy.decide, now=now)
        changes.append((locked, state))
    save_states(connection, changes)
    _after(connection, changes)
    return [each for locked, state in changes for each in _news(locked.state, state)]


def _apply_together(database: Database, heard: Sequence[_Heard]) -> list[Outgoing]:
    """Apply events in one transaction, in the order in which they came.

    Signs of life go before it, in one of their own: an error after the events' commit would lose what they call for.
    """
    now = datetime.now(UTC)
    outgoing: list[Outgoing] = []
    by_problem: dict[UUID, list[tuple[Delivery, ProblemEvent]]] = defaultdict(list)
    seen: dict[str, SeenProcess] = {}
    for each in heard:
        event = each.event
        if isinstance(event, WorkerSeen):
            seen[event.worker] = SeenProcess(event.worker, role=event.role, model=event.model, seen_at=event.seen_at)
        else:
            by_problem[event.problem_id].append((each.delivery, event))
    if seen:
        with database.begin() as connection:
            record_processes(connection, seen.values())
    if not by_problem:
        return []
    with database.begin() as connection:
        problems = lock_problems(connection, by_problem, heard=_ids(by_problem.values()))
        changes: list[tuple[LockedProblem, State]] = []
        for problem_id, events in by_problem.items():
            locked = problems.get(problem_id)
            if locked is None:
                reason = "there is no such problem, or it cannot be read"
                outgoing += [_bury(delivery, reason) for delivery, _ in events]
                continue
            state = locked.state
            is_redelivered = False
            for delivery, happened in events:
                state = apply(state, happened, decide=locked.policy.decide, now=now)
                is_redelivered |= delivery.is_redelivered
            changes.append((locked, state))
            # A redelivered event may be one whose commands were lost between commit and publication: they are
            # derived and sent again. A mere double is not: it would double the work of every later step too.
            outgoing += next_commands(state) if is_redelivered else _news(locked.state, state)
        save_states(connection, changes)
        _after(connection, changes)
    return outgoing


def _ids(events: Iterable[Sequence[tuple[Delivery, ProblemEvent]]]) -> set[UUID]:
    """Collect the ids that the events at hand may book."""
    ids: set[UUID] = set()
    for each in events:
        for _, event in each:
            ids.add(event.id)
            ids.update(draft.id for draft in event.drafts)
    return ids


def _after(connection: Connection, changes: Sequence[tuple[LockedProblem, State]]) -> None:
    """Make room known when problems ended, and log how they did."""
    ended = [state for locked, state in changes if state.status.is_final and not locked.state.status.is_final]
    if ended:
        wake_orchestrators(connection, to="admit")
    for state in ended:
        _log.info(
            "problem_ended",
            problem_id=str(state.problem_id),
            status=state.status.value,
            stop_reason=state.stop_reason and state.stop_reason.value,
            failure=state.failure and state.failure.code,
            steps=len(state.steps),
            large_out=state.ledger.large_out,
        )


def _news(before: State, after: State) -> list[Outgoing]:
    """Address the commands that a change calls for and that are not out yet."""
    if after is before:
        return []
    known = next_commands(before)
    return [command for command in next_commands(after) if command not in known]


def _decode(raw: bytes) -> Event:
    event = decode(raw)
    if not isinstance(event, QUEUES["events"]):
        raise UndecodableMessage(raw, f"{event.kind} does not belong on this queue")
    return event  # type: ignore[return-value]


def _bury(delivery: Delivery, reason: str) -> DeadLetter:
    _log.error("message_buried", queue="events", reason=reason)
    return DeadLetter("events", delivery.body, reason)
