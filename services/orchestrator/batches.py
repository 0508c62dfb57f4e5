"""Applies messages, many in one transaction; a bad one, or a problem that is locked, holds up no others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final
from uuid import UUID

from services.orchestrator.applying import Now, Outgoing, change_all, conclude, save
from services.orchestrator.counting import count_events
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.receiving import Heard, bury, receive, seen_process
from services.orchestrator.setting_aside import LOCKED, REFUSED, SetAside
from services.orchestrator.tails import WHOLE, Tails
from shared.backoff import Backoff
from shared.bus.consumer import Delivery
from shared.bus.signing import UNSIGNED, MessageKeys
from shared.bus.topology import DeadLetter
from shared.domain.status import COMMAND_BURIED
from shared.errors import RetryableError, explain
from shared.log import about, about_message, get_logger
from shared.messages import ProblemEvent, WorkerSeen, WorkFailed, drafts_of
from shared.store.database import DatabaseBusy
from shared.store.port import SeenProcess, Store

MAX_REFUSED: Final = 3
"""Maximum number of transactions that the database may refuse while a batch is applied one by one: each may have waited
for a lock. What is left then is set aside."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Result:
    """The outcome of transactions."""

    outgoing: list[Outgoing] = field(default_factory=list)
    """Messages to publish."""
    waits: dict[UUID, Backoff] = field(default_factory=dict)
    """The problems that could not be changed, each with the delays until it is tried again."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of messages."""

    outgoing: list[Outgoing]
    """Messages to publish."""
    settled: Sequence[Delivery]
    """Messages to acknowledge after that; the others are set aside."""


def apply_deliveries(
    store: Store,
    deliveries: Sequence[Delivery],
    *,
    aside: SetAside,
    policies: PolicyCache,
    now: Now,
    tails: Tails = WHOLE,
    keys: MessageKeys = UNSIGNED,
) -> Applied:
    """Apply messages, and those that were set aside and are due again.

    An unusable message becomes a dead letter with its reason. If one message breaks the transaction of the whole batch,
    the messages are applied one by one to find it. Events of a problem that another session has locked are set aside.

    Raises:
        RetryableError: The store is unavailable; what was applied has to be applied again as redelivered.
    """
    heard, buried = receive(deliveries, keys)
    tried = aside.join(heard)
    apply_together = partial(_apply_together, store, policies=policies, tails=tails, now=now)
    try:
        result = policies.loading(partial(apply_together, tried))
    except DatabaseBusy as error:
        _log.warning("batch_isolated", events=len(tried), detail=explain(error))
        result = _apply_one_by_one(tried, policies, apply_together)
    except RetryableError:
        raise
    except Exception:  # noqa: BLE001 - one of the events is to blame
        _log.exception("batch_isolated", events=len(tried))
        result = _apply_one_by_one(tried, policies, apply_together)
    done = aside.settle(heard, tried=tried, waits=result.waits)
    usable = {id(each.delivery) for each in heard}
    unusable = [each for each in deliveries if id(each) not in usable]
    return Applied([*buried, *result.outgoing], [*unusable, *(each.delivery for each in done)])


def _apply_one_by_one(
    heard: Sequence[Heard], policies: PolicyCache, apply_together: Callable[[Sequence[Heard]], _Result]
) -> _Result:
    """Apply the events of a batch that failed together. One that fails alone is buried.

    A problem whose transaction the database refuses is set aside: another session may hold a lock on its steps.

    Raises:
        RetryableError: The store is unavailable.
    """
    result = _Result()
    refused, hears_workers = 0, True
    for each in heard:
        if each.problem_id in result.waits or (each.problem_id is None and not hears_workers):
            continue
        if each.problem_id is not None and refused >= MAX_REFUSED:
            result.waits[each.problem_id] = LOCKED
            continue
        with about_message(each.event):
            try:
                alone = policies.loading(partial(apply_together, [each]))
                result.outgoing.extend(alone.outgoing)
                result.waits.update(alone.waits)
            except DatabaseBusy as error:
                _log.warning("event_set_aside", kind=each.event.kind, detail=explain(error))
                if each.problem_id is None:
                    hears_workers = False  # Other heartbeats would wait for the same lock, and more follow soon.
                else:
                    refused += 1
                    result.waits[each.problem_id] = REFUSED
            except RetryableError:
                raise
            except Exception as error:  # noqa: BLE001 - one bad event must not stop the others
                _log.exception("event_failed", kind=each.event.kind)
                result.outgoing.append(bury(each.delivery, f"it could not be applied ({type(error).__name__})"))
    return result


def _apply_together(store: Store, heard: Sequence[Heard], *, policies: PolicyCache, tails: Tails, now: Now) -> _Result:
    """Apply events in one transaction, in the order of their arrival; leave out those of locked problems.

    Heartbeats are recorded before it in their own transaction: an error after the events' commit would lose the
    commands that follow from them.
    """
    by_problem: dict[UUID, list[tuple[Delivery, ProblemEvent]]] = defaultdict(list)
    seen: dict[str, SeenProcess] = {}
    for each in heard:
        event = each.event
        if isinstance(event, WorkerSeen):
            seen[event.worker] = seen_process(event, now=now())
        else:
            by_problem[event.problem_id].append((each.delivery, event))
    if seen:
        with store.begin() as transaction:
            transaction.record_processes(seen.values())
    if not by_problem:
        return _Result()
    with store.begin() as transaction:
        locked = transaction.lock(by_problem, heard=_ids(by_problem.values()))
        missed = by_problem.keys() - locked.keys()
        skipped = set(transaction.find_existing(missed)) if missed else set[UUID]()
        problems = {problem_id: locked[problem_id] for problem_id in by_problem if problem_id in locked}
        events = {problem_id: [event for _, event in by_problem[problem_id]] for problem_id in problems}
        redelivered = {each for each in problems if any(delivery.is_redelivered for delivery, _ in by_problem[each])}
        changes = [
            replace(each, is_redelivered=each.after.problem_id in redelivered)
            for each in change_all(problems, events, policies=policies, now=now())
        ]
        saved = save(transaction, changes, tails=tails)
    count_events(changes)
    buried = _bury_unknown(by_problem, missed - skipped)
    return _Result([*buried, *conclude(saved)], dict.fromkeys(skipped, LOCKED))


def _bury_unknown(
    by_problem: Mapping[UUID, Sequence[tuple[Delivery, ProblemEvent]]], unknown: Collection[UUID]
) -> Iterator[DeadLetter]:
    """Bury the events of problems that do not exist, except those that report a dead letter: there is one already."""
    for problem_id in by_problem:
        if problem_id in unknown:
            with about(problem_id):
                for delivery, event in by_problem[problem_id]:
                    if not (isinstance(event, WorkFailed) and event.code == COMMAND_BURIED):
                        yield bury(delivery, "there is no such problem")


def _ids(events: Iterable[Sequence[tuple[Delivery, ProblemEvent]]]) -> set[UUID]:
    """Collect the ids that the events at hand may book."""
    ids: set[UUID] = set()
    for each in events:
        for _, event in each:
            ids.add(event.id)
            ids.update(draft.id for draft in drafts_of(event))
    return ids
