"""Findings about orchestrators, workers, queues, dead letters and policies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cli.doctor.findings import Fault, Finding, unchecked
from cli.doctor.reports import ApiReport, Beat, BrokerReport, DatabaseReport
from cli.doctor.seen import Seen
from services.api.schemas.health import Part, UnfitWorker
from shared.domain.roles import WorkerRole
from shared.heartbeats import silence_s
from stack.roles import ROLES

_REMEDIES: Final = {
    "access_denied": "Give the workers a new key of the model server (docs/operations/rotating-credentials.md).",
    "broker_blocked": "Free memory or disk of the broker (docs/operations/runbooks/TrimBrokerAlarm.md).",
}
"""What mends an unfit worker, by its code."""


def judge_roles(seen: Seen) -> Iterator[Finding]:
    """Judge the orchestrators and each role of workers."""
    for role in ("orchestrator", *WorkerRole):
        part = seen.parts.get(role)
        if part is None or not seen.is_record_readable:
            yield unchecked(str(role), "Unknown until the database answers and its schema fits.")
        else:
            yield _judge_role(seen, part)


def _judge_role(seen: Seen, part: Part) -> Finding:
    beats = [each for each in _beats(seen) if each.role == part.name]
    faults = [_unfit(each) for each in part.unfit]
    if not part.is_up and not part.unfit:
        faults.append(Fault(_silence(seen, beats), *_start(seen, part)))
    waiting = f"{part.waiting} problems wait for it." if part.waiting else ""
    models = f"Model: {', '.join(part.models)}." if part.models else ""
    return Finding(
        name=str(part.name),
        sentence=" ".join(each for each in (part.detail if not faults else waiting, models) if each),
        faults=faults,
        facts={
            "is_up": part.is_up,
            "models": part.models,
            "waiting": part.waiting,
            "unfit": [each.model_dump(mode="json") for each in part.unfit],
            "processes": {each.name: each.seen_at.isoformat() for each in beats},
        },
    )


def _unfit(worker: UnfitWorker) -> Fault:
    since = f"{worker.since:%Y-%m-%dT%H:%M:%SZ}"
    remedy = "Mend what this sentence names; the worker tries again by itself and resumes."
    return Fault(
        f"{worker.name} takes no commands since {since} ({worker.code}): {worker.detail}",
        _REMEDIES.get(worker.code, remedy),
    )


def _silence(seen: Seen, beats: list[Beat]) -> str:
    silent = f"No heartbeat of it in the last {silence_s(seen.settings):.0f} s"
    if not beats:
        return f"{silent}, nor before."
    newest = max(beats, key=lambda each: each.seen_at)
    return f"{silent}; {newest.name} was seen last, at {newest.seen_at:%Y-%m-%dT%H:%M:%SZ}."


def _start(seen: Seen, part: Part) -> tuple[str, str]:
    """Return what to do about a silent role, with the command."""
    command = f"python {' '.join(ROLES[str(part.name)])}"
    if isinstance(seen.broker, Exception):
        return "Mend the broker first: heartbeats and commands come through it.", ""
    if part.name != "orchestrator" and not seen.parts["orchestrator"].is_up:
        return "Start an orchestrator first: it records the heartbeats. If this stays, start a worker.", command
    return "Look for its end in its log, and start it.", command


def _beats(seen: Seen) -> list[Beat]:
    return list(seen.database.beats) if isinstance(seen.database, DatabaseReport) else []


def judge_queues(seen: Seen) -> Iterator[Finding]:
    """Judge each queue, and the dead letters of all."""
    if not isinstance(seen.broker, BrokerReport):
        reason = "TRIM_BROKER_URL is not set here" if seen.broker is None else "The broker is not reached"
        yield unchecked("queues", f"{reason}, so queues and dead letters were not looked at.")
        return
    for state in seen.broker.state.queues:
        consumers = _consumers(seen, state.role)
        faults = []
        if not state.exists:
            faults.append(
                Fault(
                    f"The broker has no queue {state.name}.",
                    "Start an orchestrator, which declares it; or set TRIM_QUEUE_PREFIX to that of the service.",
                )
            )
        elif state.consumers == 0:
            unheard = f"Nobody takes from {state.name}, where {state.ready} wait."
            faults.append(Fault(unheard, *_subscribe(seen, state.role)))
        held = "" if state.unacknowledged is None else f", {state.unacknowledged} unacknowledged"
        subscribed = "" if state.consumers is None else f", {state.consumers} consumers"
        named = f" ({', '.join(consumers)})" if consumers else ""
        yield Finding(
            name=f"queue {state.role}",
            sentence="" if faults else f"{state.ready} ready{held}{subscribed}{named}.",
            faults=faults,
            facts={
                "name": state.name,
                "exists": state.exists,
                "ready": state.ready,
                "unacknowledged": state.unacknowledged,
                "consumers": state.consumers,
                "processes": consumers,
            },
        )
    yield _judge_dead_letters(seen.broker)


def _consumers(seen: Seen, queue: str) -> list[str]:
    """Name the processes that take from a queue, as their heartbeats tell."""
    role = queue if queue in frozenset(WorkerRole) else "orchestrator"
    now = seen.database.server.now if isinstance(seen.database, DatabaseReport) else None
    return [
        each.name
        for each in _beats(seen)
        if each.role == role
        and each.is_fit
        and now
        and (now - each.seen_at).total_seconds() <= silence_s(seen.settings)
    ]


def _subscribe(seen: Seen, queue: str) -> tuple[str, str]:
    """Return what to do about a queue without consumers, with the command."""
    role = queue if queue in frozenset(WorkerRole) else "orchestrator"
    if consumers := _consumers(seen, queue):
        return (
            f"{consumers[0]} sends heartbeats: restart it, or compare its TRIM_BROKER_URL and TRIM_QUEUE_PREFIX with"
            " those of this shell."
        ), ""
    if (part := seen.parts.get(role)) is not None and not part.is_up and seen.is_record_readable:
        return f"Mend {role}, above.", ""
    return "Start one.", f"python {' '.join(ROLES[role])}"


def _judge_dead_letters(broker: BrokerReport) -> Finding:
    counts = {str(each.role): each.dead for each in broker.state.queues}
    found = ", ".join(f"{count} of {role}" for role, count in counts.items() if count)
    if not found:
        return Finding(name="dead letters", sentence="There are none.", facts={"counts": counts})
    fault = Fault(f"The service could not use some messages: {found}.", "See why.", "trim dead-letters list")
    return Finding(name="dead letters", faults=[fault], facts={"counts": counts})


def judge_policies(seen: Seen) -> Iterator[Finding]:
    """Tell which policies have a default version for the running models."""
    if not isinstance(seen.api, ApiReport) or isinstance(seen.api.policies, str):
        reason = seen.api.policies if isinstance(seen.api, ApiReport) else "The API is not reached."
        yield unchecked("policies", f"Unknown: {reason}")
        return
    fitting = [each for each in seen.api.policies.values() if each is not None]
    lacking = [name for name, version in seen.api.policies.items() if version is None]
    sentences = []
    if fitting:
        sentences.append(f"Defaults for the running models: {', '.join(fitting)}.")
    if lacking:
        sentences.append(f"None for {', '.join(lacking)}: submissions that name it without a version are refused.")
    yield Finding(name="policies", sentence=" ".join(sentences), facts={"defaults": dict(seen.api.policies)})
