"""Lets a problem's shadows decide on what its policy decided.

They decide after the events are applied, from the records of the decisions. What they decide is stored in the same
transaction and read by nothing here: the problem goes on as it would without them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from services.orchestrator.policy_cache import SHADOW_LOADS, NotLoaded, PolicyCache, TooManyLoads
from shared.domain.decisions import DecidedBy, Decision, DecisionRecord, PolicyVersion
from shared.domain.options import PolicyChoice
from shared.domain.shadows import Shadow, ShadowRecord, Skip, Skipped
from shared.domain.steps import Step
from shared.errors import PermanentError
from shared.log import get_logger
from shared.machine.state import State
from shared.policies.shadowing import check_shadow, decide_as_shadow
from shared.policies.wrapping import Routing
from shared.store.port import LockedProblem

_log = get_logger(__name__)


def decide_as_shadows(
    locked: LockedProblem,
    after: State,
    *,
    policies: PolicyCache,
    used_s: Callable[[], float] = time.thread_time,
) -> tuple[ShadowRecord, ...]:
    """Return what a problem's shadows decide beside its new decisions; there is one record for each pair.

    A rule's decision has no shadows: there was nothing for a policy to judge.

    Args:
        locked: The problem, with its shadows.
        after: The problem after events were applied, with the new decisions.
        policies: Builds the shadows.
        used_s: Returns the processor time that this thread has used, in seconds. On a busy machine, time of day would
            skip shadows that were only waiting for the processor.

    Raises:
        NotLoaded: Shadows have to be loaded first; it names all of them.
    """
    decided = [each for each in after.decisions if each.decided_by is DecidedBy.POLICY]
    if not decided or not locked.shadows:
        return ()
    shadows = _build_all(locked, policies)
    return tuple(
        record
        for each in decided
        for record in _decide_all(each, shadows, after.steps, limit_s=policies.shadow_time_s, used_s=used_s)
    )


def _build_all(locked: LockedProblem, policies: PolicyCache) -> list[tuple[PolicyVersion, Routing | Skipped]]:
    shadows: list[tuple[PolicyVersion, Routing | Skipped]] = []
    missing: list[PolicyChoice] = []
    for each in locked.shadows:
        try:
            shadows.append((_version(each), _build(each, locked, policies)))
        except NotLoaded as error:
            missing += error.choices
    if missing:
        raise NotLoaded(missing)
    return shadows


def _version(shadow: Shadow) -> PolicyVersion:
    """Return what is known of a shadow that is not built."""
    choice = shadow.policy
    return PolicyVersion(name=choice.name, revision=choice.revision, parameters_digest="", version=choice.version)


def _build(shadow: Shadow, locked: LockedProblem, policies: PolicyCache) -> Routing | Skipped:
    try:
        if shadow.defect is not None:
            return _unusable(f"Its row cannot be read ({shadow.defect}); upgrade the orchestrators before the api.")
        routing = policies.routing_of(shadow.policy, is_shadow=True)
        # Another revision of its code may need more than the one at submission.
        check_shadow(routing, locked.state.options.plan, policy=locked.policy.name)
    except NotLoaded:
        raise
    except TooManyLoads:
        detail = (
            f"It is not loaded yet: at most {SHADOW_LOADS} shadows are loaded at a time. A later decision may have it."
        )
        return Skipped(reason=Skip.NO_TIME, detail=detail)
    except PermanentError as error:
        return _unusable(str(error))
    except Exception as error:  # noqa: BLE001 - a shadow never harms its problem
        _log.warning("shadow_unusable", policy=shadow.policy.name, exc_info=error)
        return _unusable(f"It cannot be built ({type(error).__name__}).")
    return routing


def _unusable(detail: str) -> Skipped:
    return Skipped(reason=Skip.UNUSABLE, detail=detail)


def _decide_all(
    record: DecisionRecord,
    shadows: Sequence[tuple[PolicyVersion, Routing | Skipped]],
    steps: Sequence[Step],
    *,
    limit_s: float,
    used_s: Callable[[], float],
) -> Iterator[ShadowRecord]:
    """Ask the shadows of one decision in turn, until their time is used up.

    Nothing interrupts a shadow that has begun, so the time is exceeded by one decision at most.
    """
    began = used_s()
    for place, (version, shadow) in enumerate(shadows):
        outcome: Decision | Skipped
        if isinstance(shadow, Skipped):
            outcome = shadow
        elif place > 0 and used_s() - began >= limit_s:
            detail = f"The shadows before it took {1000 * limit_s:g} ms or more (TRIM_SHADOW_TIME_MS)."
            outcome = Skipped(reason=Skip.NO_TIME, detail=detail)
        else:
            outcome = _decide(shadow, record, steps)
        yield ShadowRecord(
            number=record.number,
            shadow=place,
            policy=version if isinstance(shadow, Skipped) else shadow.version,
            outcome=outcome,
            agrees=outcome.action is record.decision.action if isinstance(outcome, Decision) else None,
            decided_at=record.decided_at,
        )


def _decide(shadow: Routing, record: DecisionRecord, steps: Sequence[Step]) -> Decision | Skipped:
    try:
        return decide_as_shadow(shadow, record, steps)
    except Exception as error:  # noqa: BLE001 - a shadow never harms its problem
        _log.warning("shadow_crashed", policy=shadow.policy.name, exc_info=error)
        return Skipped(reason=Skip.CRASHED, detail=f"It raised an error ({type(error).__name__}).")
