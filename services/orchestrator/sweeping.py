"""Between messages: admits queued problems, ends or repeats what is due, and tells problems which roles are away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

from services.orchestrator.applying import Controls, Now, Outgoing, Saved, apply_controls, conclude, fail_problem
from services.orchestrator.counting import count_swept
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.presence import RolesRead
from services.orchestrator.tails import WHOLE, Tails
from shared.domain.roles import WorkerRole
from shared.errors import RetryableError, explain
from shared.log import about, get_logger
from shared.machine.state import (
    CancelRequested,
    ControlEvent,
    DeadlinePassed,
    ProblemAdmitted,
    RequestOverdue,
    RolesAway,
)
from shared.observe import metrics
from shared.store.database import DatabaseBusy
from shared.store.port import Store, Transaction

SWEEP_LIMIT: Final = 200
"""Maximum number of problems in one transaction of the sweeper."""

MAX_REFUSED: Final = 3
"""Maximum number of problems in one sweep whose transactions the database may refuse: each may wait for a lock."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The result of one sweep."""

    outgoing: list[Outgoing]
    """Messages to publish."""
    is_full: bool
    """Whether it found as many problems as one transaction takes, so that more may be waiting."""


def take_turns(*sweeps: Callable[[], Sweep]) -> Iterator[list[Outgoing]]:
    """Run sweeps in turn, one transaction at a time, until none finds more; yield what each has to publish.

    Thousands of deadlines that pass together hold up no admission, and thousands of admissions no cancellation.
    """
    is_full = True
    while is_full:
        is_full = False
        for sweep in sweeps:
            with metrics.SWEEP_SECONDS.time():
                swept = sweep()
            is_full = is_full or swept.is_full
            yield swept.outgoing


def admit(
    store: Store,
    *,
    window: int,
    policies: PolicyCache,
    now: Now,
    tails: Tails = WHOLE,
    away: Callable[[], Collection[WorkerRole]] = tuple,
) -> Sweep:
    """Start queued problems, up to the window.

    Args:
        store: The store.
        window: Maximum number of problems that go on at the same time.
        policies: Builds what decides.
        tails: Shortens commands.
        now: Reads the clock.
        away: Returns the roles that are away; problems that would wait for them are passed over.
    """

    def find(transaction: Transaction) -> Controls:
        return {
            each: [DeadlinePassed(), ProblemAdmitted()]
            for each in transaction.next_queued(now=now(), window=window, limit=SWEEP_LIMIT, away=away())
        }

    return _apply_found(store, find, policies=policies, tails=tails, now=now)


def attend(store: Store, *, roles: RolesRead, policies: PolicyCache, now: Now, tails: Tails = WHOLE) -> Sweep:
    """Attend to problems that are to be cancelled, past their deadline, or overdue.

    Overdue ones first learn which roles are away: no request is repeated that only waits for a worker.
    """

    def find(transaction: Transaction) -> Controls:
        moment = now()
        found = transaction.find_attention(now=moment, limit=SWEEP_LIMIT)
        away = roles(transaction, moment) if found else None
        told: list[ControlEvent] = [] if away is None else [RolesAway(away)]
        overdue: list[ControlEvent] = [DeadlinePassed(), *told, RequestOverdue()]
        return {each.problem_id: [CancelRequested()] if each.is_cancelling else overdue for each in found}

    return _apply_found(store, find, policies=policies, tails=tails, now=now)


def tell_roles(store: Store, *, roles: RolesRead, policies: PolicyCache, now: Now, tails: Tails = WHOLE) -> Sweep:
    """Tell problems that a role that they need is away, or that one that they know to be away is back."""

    def find(transaction: Transaction) -> Controls:
        away = roles(transaction, now())
        if away is None:
            return {}
        untold = transaction.find_untold(away.keys(), limit=SWEEP_LIMIT)
        return {each.problem_id: [DeadlinePassed(), RolesAway(away)] for each in untold}

    return _apply_found(store, find, policies=policies, tails=tails, now=now)


def _apply_found(
    store: Store, find: Callable[[Transaction], Controls], *, policies: PolicyCache, tails: Tails, now: Now
) -> Sweep:
    """Find problems and apply their control events, in one transaction."""

    def apply_all() -> Sweep:
        with store.begin() as transaction:
            found = find(transaction)
            saved = apply_controls(transaction, found, policies=policies, tails=tails, now=now)
        return Sweep(_conclude(saved), is_full=len(found) >= SWEEP_LIMIT)

    try:
        return policies.loading(apply_all)
    except DatabaseBusy as error:
        _log.warning("controls_isolated", detail=explain(error))
    except RetryableError:
        raise
    except Exception:  # noqa: BLE001 - one of the problems is to blame
        _log.exception("controls_isolated")
    return _apply_one_by_one(store, find, policies=policies, tails=tails, now=now)


def _apply_one_by_one(
    store: Store, find: Callable[[Transaction], Controls], *, policies: PolicyCache, tails: Tails, now: Now
) -> Sweep:
    """Apply control events with one transaction for each problem, and fail a problem that raises.

    Each transaction searches again: another orchestrator may have filled the window, or taken the problem.
    """
    with store.begin() as transaction:
        wanted = list(find(transaction))
    outgoing: list[Outgoing] = []
    applied = refused = 0
    for problem_id in wanted:
        try:
            with about(problem_id):
                outgoing += policies.loading(
                    partial(_apply_one, store, find, problem_id, policies=policies, tails=tails, now=now)
                )
            applied += 1
        except DatabaseBusy as error:
            # Another session holds a lock on something of the problem. A later sweep finds it again.
            with about(problem_id):
                _log.warning("control_postponed", detail=explain(error))
            refused += 1
            if refused == MAX_REFUSED:
                return Sweep(outgoing, is_full=False)
        except RetryableError:
            # What is committed must still be published; the next sweep meets the same error.
            return Sweep(outgoing, is_full=False)
        except Exception as error:  # noqa: BLE001 - one bad problem must not stop the others
            with about(problem_id):
                _log.exception("control_failed")
                outgoing += _fail(store, problem_id, error, now=now)
    return Sweep(outgoing, is_full=len(wanted) >= SWEEP_LIMIT and applied > 0)


def _apply_one(
    store: Store,
    find: Callable[[Transaction], Controls],
    problem_id: UUID,
    *,
    policies: PolicyCache,
    tails: Tails,
    now: Now,
) -> list[Outgoing]:
    """Apply the control events of one problem, if the search still finds it."""
    with store.begin() as transaction:
        found = find(transaction)
        if problem_id not in found:
            return []
        saved = apply_controls(transaction, {problem_id: found[problem_id]}, policies=policies, tails=tails, now=now)
    return _conclude(saved)


def _fail(store: Store, problem_id: UUID, error: Exception, *, now: Now) -> list[Outgoing]:
    """Fail a problem that raises; if even that raises, leave it, so that it stops no other problem."""
    try:
        with store.begin() as transaction:
            saved = fail_problem(transaction, problem_id, error, now=now)
        return _conclude(saved)
    except RetryableError:
        return []  # The next sweep finds it again.
    except Exception:  # noqa: BLE001 - an operator has to look at its row
        _log.exception("problem_stuck")
        return []


def _conclude(saved: Saved) -> list[Outgoing]:
    """Count and log what a sweep's transaction has committed; return what to publish."""
    count_swept(saved.changes)
    return conclude(saved)
