"""Between messages: admits queued problems, ends cancelled and expired ones, and requests overdue steps again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from services.orchestrator.applying import Controls, Outgoing, Saved, apply_controls, conclude, fail_problem
from services.orchestrator.counting import count_swept
from services.orchestrator.policy_cache import PolicyCache
from shared.errors import RetryableError
from shared.log import about, get_logger
from shared.machine.state import CancelRequested, DeadlinePassed, ProblemAdmitted, RequestOverdue
from shared.store.port import Store, Transaction

SWEEP_LIMIT: Final = 200
"""Maximum number of problems in one transaction of the sweeper."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The result of one sweep."""

    outgoing: list[Outgoing]
    """Messages to publish."""
    is_full: bool
    """Whether it found as many problems as one transaction takes, so that more may be waiting."""


def admit(store: Store, *, window: int, policies: PolicyCache, now: datetime) -> Sweep:
    """Start queued problems, up to the window."""

    def find(transaction: Transaction) -> Controls:
        return {
            each.problem_id: [CancelRequested()] if each.is_cancelling else [DeadlinePassed(), ProblemAdmitted()]
            for each in transaction.next_queued(window=window, limit=SWEEP_LIMIT)
        }

    return _apply_found(store, find, policies=policies, now=now)


def attend(store: Store, *, policies: PolicyCache, now: datetime) -> Sweep:
    """Attend to problems that are to be cancelled, past their deadline, or overdue."""

    def find(transaction: Transaction) -> Controls:
        return {
            each.problem_id: [CancelRequested()] if each.is_cancelling else [DeadlinePassed(), RequestOverdue()]
            for each in transaction.find_attention(now=now, limit=SWEEP_LIMIT)
        }

    return _apply_found(store, find, policies=policies, now=now)


def _apply_found(
    store: Store, find: Callable[[Transaction], Controls], *, policies: PolicyCache, now: datetime
) -> Sweep:
    """Find problems and apply their control events, in one transaction."""

    def apply_all() -> Sweep:
        with store.begin() as transaction:
            found = find(transaction)
            saved = apply_controls(transaction, found, policies=policies, now=now)
        return Sweep(_conclude(saved), is_full=len(found) >= SWEEP_LIMIT)

    try:
        return policies.loading(apply_all)
    except RetryableError:
        raise
    except Exception:  # noqa: BLE001 - one of the problems is to blame
        _log.exception("controls_isolated")
        return _apply_one_by_one(store, find, policies=policies, now=now)


def _apply_one_by_one(
    store: Store, find: Callable[[Transaction], Controls], *, policies: PolicyCache, now: datetime
) -> Sweep:
    """Apply control events with one transaction for each problem, and fail a problem that raises.

    Each transaction searches again: another orchestrator may have filled the window, or taken the problem.
    """
    with store.begin() as transaction:
        wanted = list(find(transaction))
    outgoing: list[Outgoing] = []
    applied = 0
    for problem_id in wanted:
        try:
            with about(problem_id):
                outgoing += policies.loading(partial(_apply_one, store, find, problem_id, policies=policies, now=now))
            applied += 1
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
    now: datetime,
) -> list[Outgoing]:
    """Apply the control events of one problem, if the search still finds it."""
    with store.begin() as transaction:
        found = find(transaction)
        if problem_id not in found:
            return []
        saved = apply_controls(transaction, {problem_id: found[problem_id]}, policies=policies, now=now)
    return _conclude(saved)


def _fail(store: Store, problem_id: UUID, error: Exception, *, now: datetime) -> list[Outgoing]:
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
