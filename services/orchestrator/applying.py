"""Applies events to problems, many in one transaction, and derives the messages to publish."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from uuid import UUID

from services.orchestrator.counting import count_committed, count_events
from services.orchestrator.policy_cache import NotLoaded, PolicyCache
from services.orchestrator.receiving import Heard, bury, receive
from services.orchestrator.shadowing import decide_as_shadows
from services.orchestrator.tracing import export_committed
from shared.bus.consumer import Delivery
from shared.bus.topology import DeadLetter
from shared.domain.artefacts import ModelIds
from shared.domain.decisions import Decider, Decision, Observation, PolicyVersion
from shared.domain.options import PolicyChoice
from shared.domain.status import Status
from shared.errors import PermanentError, RetryableError
from shared.log import about, about_message, get_logger
from shared.machine.commands import next_commands
from shared.machine.state import ControlEvent, State
from shared.machine.transitions import apply, give_up
from shared.messages import (
    Message,
    ProblemEvent,
    WorkCancelled,
    WorkerSeen,
)
from shared.policies.artefact import BadArtefact
from shared.policies.wrapping import Routing
from shared.store.port import Change, LockedProblem, SeenProcess, Store, Transaction

Outgoing = Message | DeadLetter

Controls = Mapping[UUID, Sequence[ControlEvent]]
"""Control events by problem."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """Changes that a transaction has written; `conclude` them once it has committed."""

    changes: Sequence[Change]
    outgoing: list[Outgoing]
    """Messages to publish then."""


class Unreadable(PermanentError):
    """The orchestrator cannot read a problem's row or policy; upgrade the orchestrators before the api."""

    code = "unreadable"


def apply_deliveries(
    store: Store, deliveries: Sequence[Delivery], *, policies: PolicyCache, now: datetime
) -> list[Outgoing]:
    """Apply messages and return what to publish; after the publication the caller acknowledges them.

    An unusable message becomes a dead letter with its reason. If one message breaks the transaction of the whole batch,
    the messages are applied one by one to find it.

    Raises:
        RetryableError: The store is unavailable; nothing was applied.
    """
    heard, buried = receive(deliveries)
    outgoing: list[Outgoing] = [*buried]
    try:
        return outgoing + policies.loading(lambda: _apply_together(store, heard, policies=policies, now=now))
    except RetryableError:
        raise
    except Exception:  # noqa: BLE001 - one of the events is to blame; the loop below finds it
        _log.exception("batch_isolated", events=len(heard))
    for each in heard:
        with about_message(each.event):
            outgoing += _apply_alone(store, each, policies=policies, now=now)
    return outgoing


def apply_controls(transaction: Transaction, controls: Controls, *, policies: PolicyCache, now: datetime) -> Saved:
    """Apply control events in an open transaction.

    Raises:
        NotLoaded: Policies have to be loaded first.
    """
    problems = transaction.lock(controls)
    return _save(transaction, _change_all(problems, controls, policies=policies, now=now))


def fail_problem(transaction: Transaction, problem_id: UUID, error: Exception, *, now: datetime) -> Saved:
    """Fail a problem on which the orchestrator itself fails, in an open transaction."""
    reason = Unreadable(f"The orchestrator failed on it ({type(error).__name__}).")
    locked = transaction.lock([problem_id]).values()
    return _save(transaction, [Change(each, _give_up(each, reason, now=now)) for each in locked])


def conclude(saved: Saved) -> list[Outgoing]:
    """Count and log what a transaction has committed; return what to publish."""
    count_committed(saved.changes)
    export_committed(saved.changes)
    for state in _ended(saved.changes):
        with about(state.problem_id):
            _log.info(
                "problem_ended",
                status=state.status.value,
                stop_reason=state.stop_reason and state.stop_reason.value,
                failure=state.failure and state.failure.code,
                steps=len(state.steps),
                large_out=state.ledger.large_out,
            )
    return saved.outgoing


def _apply_alone(store: Store, heard: Heard, *, policies: PolicyCache, now: datetime) -> list[Outgoing]:
    """Apply one event of a batch that failed together; a second failure buries it.

    Raises:
        RetryableError: The store is unavailable; nothing was applied.
    """
    try:
        return policies.loading(partial(_apply_together, store, [heard], policies=policies, now=now))
    except RetryableError:
        raise
    except Exception as error:  # noqa: BLE001 - one bad event must not stop the others
        _log.exception("event_failed", kind=heard.event.kind)
        return [bury(heard.delivery, f"it could not be applied ({type(error).__name__})")]


def _apply_together(store: Store, heard: Sequence[Heard], *, policies: PolicyCache, now: datetime) -> list[Outgoing]:
    """Apply events in one transaction, in the order of their arrival.

    Heartbeats are recorded before it in their own transaction: an error after the events' commit would lose the
    commands that follow from them.
    """
    by_problem: dict[UUID, list[tuple[Delivery, ProblemEvent]]] = defaultdict(list)
    seen: dict[str, SeenProcess] = {}
    for each in heard:
        event = each.event
        if isinstance(event, WorkerSeen):
            seen[event.worker] = SeenProcess(event.worker, role=event.role, model=event.model, seen_at=event.seen_at)
        else:
            by_problem[event.problem_id].append((each.delivery, event))
    if seen:
        with store.begin() as transaction:
            transaction.record_processes(seen.values())
    if not by_problem:
        return []
    outgoing: list[Outgoing] = []
    with store.begin() as transaction:
        locked = transaction.lock(by_problem, heard=_ids(by_problem.values()))
        problems = {problem_id: locked[problem_id] for problem_id in by_problem if problem_id in locked}
        events = {problem_id: [event for _, event in by_problem[problem_id]] for problem_id in problems}
        redelivered = {each for each in problems if any(delivery.is_redelivered for delivery, _ in by_problem[each])}
        changes = [
            replace(each, is_redelivered=each.after.problem_id in redelivered)
            for each in _change_all(problems, events, policies=policies, now=now)
        ]
        for problem_id, unknown in by_problem.items():
            if problem_id not in problems:
                with about(problem_id):
                    outgoing += [bury(delivery, "there is no such problem") for delivery, _ in unknown]
        saved = _save(transaction, changes)
    count_events(changes)
    return outgoing + conclude(saved)


def _change_all(
    problems: Mapping[UUID, LockedProblem],
    events: Mapping[UUID, Sequence[ProblemEvent | ControlEvent]],
    *,
    policies: PolicyCache,
    now: datetime,
) -> list[Change]:
    """Apply the events of many problems, in the order of the problems.

    Raises:
        NotLoaded: Policies have to be loaded first. It names those of all problems, so that the transaction is repeated
            once and not for each of them.
    """
    changes: list[Change] = []
    missing: list[PolicyChoice] = []
    for problem_id, locked in problems.items():
        try:
            with about(problem_id):
                changes.append(_change(locked, events[problem_id], policies=policies, now=now))
        except NotLoaded as error:
            missing += error.choices
    if missing:
        raise NotLoaded(missing)
    return changes


def _change(
    locked: LockedProblem, events: Sequence[ProblemEvent | ControlEvent], *, policies: PolicyCache, now: datetime
) -> Change:
    """Apply a problem's events, and let its shadows decide on what was decided."""
    state, heard = _apply_events(locked, events, policies=policies, now=now)
    return Change(locked, state, shadow_decisions=decide_as_shadows(locked, state, policies=policies), heard=heard)


def _apply_events(
    locked: LockedProblem, events: Sequence[ProblemEvent | ControlEvent], *, policies: PolicyCache, now: datetime
) -> tuple[State, list[ProblemEvent]]:
    """Apply a problem's events; a problem that cannot be read fails first, and then books what the events cost.

    Returns:
        The state after them, and those from workers that changed it.
    """
    state: State = locked.state
    policy: Decider
    try:
        policy = _routing(locked, policies)
    except Unreadable as error:
        state, policy = _give_up(locked, error, now=now), _NoPolicy()
    heard: list[ProblemEvent] = []
    for event in events:
        before, state = state, apply(state, event, policy=policy, now=now)
        if state is not before and isinstance(event, ProblemEvent):
            heard.append(event)
    return state, heard


class _NoPolicy:
    """Stands in for a policy that cannot be built: a problem that has ended needs no decision."""

    @property
    def version(self) -> PolicyVersion:
        """Refuse."""
        raise AssertionError("a problem that has ended is decided")

    @property
    def models(self) -> ModelIds | None:
        """Refuse."""
        raise AssertionError("a problem that has ended is decided")

    def decide(self, _observation: Observation) -> Decision:
        """Refuse."""
        raise AssertionError("a problem that has ended is decided")

    def before_draft(self, _observation: Observation) -> Decision | None:
        """Refuse."""
        raise AssertionError("a problem that has ended is decided")


def _routing(locked: LockedProblem, policies: PolicyCache) -> Routing:
    """Return what decides a problem's steps.

    Raises:
        NotLoaded: Its policy has to be loaded first.
        Unreadable: Its row or its policy cannot be read.
    """
    if locked.defect is not None:
        raise Unreadable(f"Its row cannot be read ({locked.defect}); upgrade the orchestrators before the api.")
    try:
        routing = policies.routing_of(locked.policy)
    except BadArtefact as error:
        raise Unreadable(f"Its policy cannot decide. {error}") from error
    except PermanentError as error:
        said = f"Its policy cannot be built ({type(error).__name__})"
        raise Unreadable(f"{said}; upgrade the orchestrators before the api.") from error
    if routing.policy.revision != locked.policy.revision and locked.state.status is Status.QUEUED:
        # Logged once, at the admission. Each decision records the revision that took it, so the audit stays true.
        _log.warning(
            "policy_revision_differs",
            policy=routing.policy.name,
            submitted=locked.policy.revision,
            deciding=routing.policy.revision,
        )
    return routing


def _give_up(locked: LockedProblem, error: Unreadable, *, now: datetime) -> State:
    if not locked.state.status.is_final:
        _log.error("problem_unreadable", detail=str(error))
    return give_up(locked.state, detail=str(error), now=now)


def _save(transaction: Transaction, changes: Sequence[Change]) -> Saved:
    """Save changes, wake other orchestrators if problems ended, and derive what to publish."""
    transaction.save(changes)
    if _ended(changes):
        transaction.wake_orchestrators()
    return Saved(changes, [command for each in changes for command in _to_publish(each)])


def _ended(changes: Sequence[Change]) -> list[State]:
    """List the problems that ended."""
    return [each.after for each in changes if each.after.status.is_final and not each.locked.state.status.is_final]


def _to_publish(change: Change) -> list[Outgoing]:
    """Derive the commands that a change requires.

    The commands of a redelivered event may have been lost between commit and publication, so they are all derived and
    published again. A mere duplicate publishes nothing: it would double the work of every later step.
    """
    before, after = change.locked.state, change.after
    if change.is_redelivered:
        return list(next_commands(after))
    if after is before:
        return []
    known = next_commands(before)
    return [command for command in next_commands(after) if command not in known]


def _ids(events: Iterable[Sequence[tuple[Delivery, ProblemEvent]]]) -> set[UUID]:
    """Collect the ids that the events at hand may book."""
    ids: set[UUID] = set()
    for each in events:
        for _, event in each:
            ids.add(event.id)
            if not isinstance(event, WorkCancelled):
                ids.update(draft.id for draft in event.drafts)
    return ids
