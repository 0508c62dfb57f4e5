"""Applies events to problems in an open transaction, and derives the messages to publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from services.orchestrator.counting import count_committed
from services.orchestrator.policy_cache import NotLoaded, PolicyCache
from services.orchestrator.shadowing import decide_as_shadows
from services.orchestrator.tails import WHOLE, Tails, lengthen
from services.orchestrator.tracing import export_committed
from shared.bus.topology import DeadLetter, Past, ReturnedCommand, queue_of
from shared.domain.artefacts import ModelIds
from shared.domain.decisions import Decider, Decision, Observation, PolicyVersion
from shared.domain.options import PolicyChoice
from shared.domain.status import Status
from shared.errors import PermanentError
from shared.log import about, get_logger
from shared.machine.commands import complete, next_commands
from shared.machine.state import ControlEvent, State
from shared.machine.transitions import apply, give_up
from shared.messages import CancelWork, GenerateSteps, Message, PrefixMissing, ProblemEvent, encode
from shared.policies.artefact import BadArtefact
from shared.policies.wrapping import Routing
from shared.store.port import Change, LockedProblem, Transaction

Outgoing = Message | DeadLetter | ReturnedCommand

Controls = Mapping[UUID, Sequence[ControlEvent]]
"""Control events by problem."""

Now = Callable[[], datetime]
"""Reads the clock. A transaction reads it once it holds the locks, for which it may have waited."""

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


def apply_controls(
    transaction: Transaction, controls: Controls, *, policies: PolicyCache, tails: Tails, now: Now
) -> Saved:
    """Apply control events in an open transaction.

    Raises:
        NotLoaded: Policies have to be loaded first.
    """
    problems = transaction.lock(controls)
    return save(transaction, change_all(problems, controls, policies=policies, now=now()), tails=tails)


def fail_problem(transaction: Transaction, problem_id: UUID, error: Exception, *, now: Now) -> Saved:
    """Fail a problem on which the orchestrator itself fails, in an open transaction."""
    reason = Unreadable(f"The orchestrator failed on it ({type(error).__name__}).")
    locked = transaction.lock([problem_id]).values()
    moment = now()
    changes = [Change(each, _give_up(each, reason, now=_within(each, moment))) for each in locked]
    return save(transaction, changes, tails=WHOLE)


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


def change_all(
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
    change = _apply_events(locked, events, policies=policies, now=_within(locked, now))
    return replace(change, shadow_decisions=decide_as_shadows(locked, change.after, policies=policies))


def _within(locked: LockedProblem, now: datetime) -> datetime:
    """Return the time at which a problem's events are applied: now, but never before what its record already holds.

    The clocks of two orchestrators and of the database differ. The times in a record grow all the same.
    """
    state = locked.state
    recorded = (
        locked.submitted_at,
        locked.cancel_requested_at,
        state.started_at,
        # The times of decisions, too: each decision appends a step, issues a request, or ends the problem.
        state.steps[-1].accepted_at if state.steps else None,
        state.request.issued_at if state.request else None,
    )
    return max([now, *(each for each in recorded if each is not None)])


def _apply_events(
    locked: LockedProblem, events: Sequence[ProblemEvent | ControlEvent], *, policies: PolicyCache, now: datetime
) -> Change:
    """Apply a problem's events; a problem that cannot be read fails first, and then books what the events cost."""
    state: State = locked.state
    policy: Decider
    try:
        policy = _routing(locked, policies)
    except Unreadable as error:
        state, policy = _give_up(locked, error, now=now), _NoPolicy()
    heard: list[ProblemEvent] = []
    completed: list[PrefixMissing] = []
    for event in events:
        before, state = state, apply(state, event, policy=policy, now=now)
        if isinstance(event, PrefixMissing) and (whole := complete(state, event.command)) is not None:
            completed.append(event.model_copy(update={"command": lengthen(whole, missing=event)}))
        if state is not before and isinstance(event, ProblemEvent):
            heard.append(event)
    return Change(locked, state, heard=heard, completed=completed)


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


def save(transaction: Transaction, changes: Sequence[Change], *, tails: Tails) -> Saved:
    """Save changes, wake other orchestrators if problems ended, and derive what to publish."""
    transaction.save(changes)
    if _ended(changes):
        transaction.wake_orchestrators()
    return Saved(changes, [message for each in changes for message in _to_publish(each, tails)])


def _ended(changes: Sequence[Change]) -> list[State]:
    """List the problems that ended."""
    return [each.after for each in changes if each.after.status.is_final and not each.locked.state.status.is_final]


def _to_publish(change: Change, tails: Tails) -> list[Outgoing]:
    """Derive the messages that a change requires."""
    completed = {missing.command.id for missing in change.completed}
    commands = [
        command if isinstance(command, CancelWork) else tails.shorten(command, change.after)
        for command in _new_commands(change)
        if isinstance(command, CancelWork) or command.id not in completed
    ]
    return [*commands, *map(_again, change.completed)]


def _new_commands(change: Change) -> Sequence[GenerateSteps | CancelWork]:
    """Derive the commands that a change requires.

    The commands of a redelivered event may have been lost between commit and publication, so they are all derived and
    published again. A mere duplicate publishes nothing: it would double the work of every later step.
    """
    before, after = change.locked.state, change.after
    if change.is_redelivered:
        return next_commands(after)
    if after is before:
        return ()
    known = next_commands(before)
    return [command for command in next_commands(after) if command not in known]


def _again(missing: PrefixMissing) -> ReturnedCommand:
    """Return a command to the queue from which a worker took it; what happened to it before still counts."""
    role, past = queue_of(missing.command), Past(missing.runs, missing.losses, missing.alone)
    return ReturnedCommand(role, encode(missing.command), past)  # type: ignore[arg-type] # the queue of a command
