"""Finds out which parts of the service are up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final

from sqlalchemy.exc import TimeoutError as PoolTimeout

from services.api.schemas import health as schemas
from services.api.schemas.health import Part, PartName, Readiness, UnfitWorker
from shared.domain.demonstration import RUNNING, has_demonstration
from shared.domain.roles import WorkerRole
from shared.errors import RetryableError
from shared.heartbeats import silence_s
from shared.settings import Settings
from shared.store import queries
from shared.store.admission import BROKER
from shared.store.compatibility import REVISION, Fit, read_schema
from shared.store.database import Database
from shared.store.lock_holders import LockHolder, find_lock_holders
from shared.store.presence import count_waiting
from shared.store.process_table import Process
from shared.version import VERSION

HEARTBEATS: Final[tuple[PartName, ...]] = ("orchestrator", "broker", *WorkerRole)
"""Parts that are up while their heartbeats arrive. Orchestrators report the broker, and forward those of workers."""


_HIDDEN: Final = "A request with a key that has the scope `read` shows the details."

SKEW_S: Final = 5.0
"""Seconds by which a worker's clock may be off before readiness names it."""


def read_readiness(database: Database, settings: Settings) -> Readiness:
    """Read the state of every part. Submissions need only the database; without other parts, problems wait."""
    parts = list(_read_parts(database, silence_s=silence_s(settings)))
    down = [part.name for part in parts if not part.is_up]
    if "database" in down or "schema" in down:
        return Readiness(status="unavailable", down=down, parts=parts, service_version=VERSION)
    is_demonstration = has_demonstration(model for part in parts for model in part.models)
    return Readiness(
        status="degraded" if down else "ready",
        down=down,
        parts=parts,
        service_version=VERSION,
        note=RUNNING if is_demonstration else None,
    )


def summarise(readiness: Readiness) -> Readiness:
    """Reduce what readiness shows to what everyone may see: which parts are up, and no names or messages of them."""
    parts = [Part(name=each.name, is_up=each.is_up, detail=_HIDDEN) for each in readiness.parts]
    return readiness.model_copy(update={"parts": parts})


def _read_parts(database: Database, *, silence_s: float) -> Iterator[Part]:
    holders: list[LockHolder] = []
    try:
        with database.session() as session:
            holders = find_lock_holders(session.connection())  # First: they may hold up what follows.
            schema = read_schema(session.connection())
            is_compatible = schema.fit is Fit.COMPATIBLE
            # An incompatible schema may lack the table.
            processes = queries.list_processes(session) if is_compatible else []
            waiting = count_waiting(session.connection()) if is_compatible else {}
            now = queries.read_clock(session)
    except (RetryableError, PoolTimeout) as error:
        detail = str(error) if isinstance(error, RetryableError) else "All connections to the database are in use."
        yield _describe_database(detail, holders, is_up=False)
        for name in ("schema", *HEARTBEATS):
            yield Part(name=name, is_up=False, detail="Unknown while the database is down.")
        return
    yield _describe_database("The database answers.", holders, is_up=True)
    detail = str(schema.error or f"The schema is {schema.revision}; this version needs {REVISION} or newer.")
    yield Part(name="schema", is_up=is_compatible, detail=detail)
    passed_at = _passed_at(processes, now=now, silence_s=silence_s)
    for name in HEARTBEATS:
        known = [each for each in processes if each.role == name]
        is_worker = name in frozenset(WorkerRole)
        part = _describe(
            name, known, now=passed_at if is_worker else now, silence_s=silence_s, waiting=waiting.get(name, 0)
        )
        if is_worker and passed_at < now:
            as_of = f"As of {passed_at:%Y-%m-%dT%H:%M:%SZ}, before the broker stopped passing heartbeats: "
            part = part.model_copy(update={"detail": as_of + part.detail})
        yield part


def _passed_at(processes: Sequence[Process], *, now: datetime, silence_s: float) -> datetime:
    """Return until when the broker passed heartbeats of workers: now, unless it is away or accepts no messages.

    Silence after that says nothing about workers.
    """
    broker = max((each for each in processes if each.role == BROKER), key=lambda each: each.seen_at, default=None)
    if broker is None:
        return now
    if broker.unfit is not None:
        return min(now, broker.unfit.since)
    return now if _ago_s(broker, now) <= silence_s else broker.seen_at


def _describe_database(detail: str, holders: Sequence[LockHolder], *, is_up: bool) -> Part:
    sentences = [
        f"{each.application or each.user} (process {each.pid}, {each.state}) has held locks since "
        f"{each.since:%Y-%m-%dT%H:%M:%SZ}: what it has locked waits."
        for each in holders
    ]
    shown = [schemas.LockHolder.model_validate(asdict(each)) for each in holders]
    return Part(name="database", is_up=is_up, detail=" ".join([detail, *sentences]), lock_holders=shown)


def _describe(name: PartName, known: Sequence[Process], *, now: datetime, silence_s: float, waiting: int) -> Part:
    beating = [each for each in known if _ago_s(each, now) <= silence_s]
    unfit = [
        UnfitWorker(name=each.name, code=why.code, detail=why.detail, since=why.since)
        for each in beating
        if (why := each.unfit) is not None
    ]
    clocks = {each.name: each.clock_ahead_s for each in beating if abs(each.clock_ahead_s or 0) > SKEW_S}
    fit = [f"{each.name} ({_ago_s(each, now):.0f} s ago)" for each in beating if each.unfit is None]
    sentences = [f"Heartbeats: {', '.join(fit)}."] if fit else []
    if not beating:
        sentences.append(f"No heartbeat in the last {silence_s:.0f} s.")
    sentences += [
        f"{each.name} is unfit since {each.since:%Y-%m-%dT%H:%M:%SZ} ({each.code}): {each.detail}" for each in unfit
    ]
    sentences += [f"The clock of {each} is {ahead_s:+.0f} s off." for each, ahead_s in clocks.items()]
    if waiting:
        sentences.append(f"{waiting} problems wait for it.")
    return Part(
        name=name,
        is_up=bool(fit),
        detail=" ".join(sentences),
        models=sorted({each.model for each in beating if each.model is not None}),
        unfit=unfit,
        clocks_ahead_s=clocks,
        waiting=waiting,
    )


def _ago_s(process: Process, now: datetime) -> float:
    return (now - process.seen_at).total_seconds()
