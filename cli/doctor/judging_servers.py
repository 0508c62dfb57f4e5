"""Findings about the disk, the database, the API, the clocks and the broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cli.doctor.findings import Fault, Finding, unchecked
from cli.doctor.remedies import fault_of
from cli.doctor.reports import ApiReport, BrokerReport, DatabaseReport
from cli.doctor.seen import Seen
from services.api.schemas.health import Part
from shared.version import VERSION
from stack.client import NotTheService

LOW_BYTES: Final = 2 * 10**9
"""Free bytes below which the disk of the embedded Postgres is short: twice its write-ahead log under load."""

SKEW_S: Final = 5.0
"""Seconds by which a clock may be off."""

MIGRATE: Final = "python -m migrations upgrade"
SYNCHRONISE: Final = "Synchronise that machine with NTP; no process needs a restart."


def judge_disk(seen: Seen) -> Iterator[Finding]:
    """Judge the space for the embedded Postgres, if there is one here."""
    if seen.disk is None:
        return
    folder, free = seen.disk
    sentence = f"{free / 1e9:.1f} GB are free for {folder}."
    low = Fault(sentence, "Free space: docs/operations/one-machine.md lists what is in .state.")
    facts = {"folder": str(folder), "free_bytes": free}
    if free < LOW_BYTES:
        yield Finding(name="disk", faults=[low], facts=facts)
    else:
        yield Finding(name="disk", sentence=sentence, facts=facts)


def judge_database(seen: Seen) -> Iterator[Finding]:
    """Judge the database and its schema."""
    match seen.database:
        case DatabaseReport() as report:
            part = seen.parts["database"]
            server = report.server
            yield Finding(
                name="database",
                sentence=f"PostgreSQL {server.version} at {seen.database_place} answers in {report.took_ms:.0f} ms, as"
                f" {server.user}.",
                faults=[*_locks(part), *([] if part.is_up else [Fault(part.detail, "Run this again.")])],
                facts={
                    "version": server.version,
                    "user": server.user,
                    "database": server.database,
                    "took_ms": round(report.took_ms, 1),
                    "lock_holders": [each.model_dump(mode="json") for each in part.lock_holders],
                },
            )
            yield _judge_schema(report)
        case None:
            yield from _as_the_api_sees(seen, "database", "TRIM_DATABASE_URL")
            yield from _as_the_api_sees(seen, "schema", "TRIM_DATABASE_URL")
        case error:
            what = f"The database at {seen.database_place}"
            yield Finding(name="database", faults=[fault_of(error, what, "TRIM_DATABASE_URL")])
            yield unchecked("schema", "Unknown while the database is not reached.")


def _locks(part: Part) -> Iterator[Fault]:
    for each in part.lock_holders:
        yield Fault(
            f"{each.application or each.user} (process {each.pid}, {each.state}) has held locks since"
            f" {each.since:%Y-%m-%dT%H:%M:%SZ}; the problems that it has locked wait.",
            "If nobody needs that session, end it.",
            f'psql "$TRIM_DATABASE_URL" -c "SELECT pg_terminate_backend({each.pid})"',
        )


def _judge_schema(report: DatabaseReport) -> Finding:
    from shared.store.compatibility import REVISION, Fit  # noqa: PLC0415 - there is a report, so its library is installed

    schema = report.schema
    facts = {"revision": schema.revision, "needed": REVISION, "oldest_code": schema.oldest_code}
    faults = {
        Fit.MISSING: Fault("The database has no schema.", "Create it.", MIGRATE),
        Fit.TOO_OLD: Fault(
            f"The schema is {schema.revision}, and version {VERSION} needs {REVISION}.",
            "Bring it up to date.",
            MIGRATE,
        ),
        Fit.TOO_NEW: Fault(
            f"The schema is {schema.revision} and allows no version before {schema.oldest_code}; this is {REVISION}.",
            f"Upgrade whatever still runs version {VERSION} (docs/operations/upgrading.md).",
        ),
    }
    if fault := faults.get(schema.fit):
        return Finding(name="schema", faults=[fault], facts=facts)
    newer = ", which is newer and allows it" if str(schema.revision) > REVISION else ""
    return Finding(
        name="schema",
        sentence=f"The schema is {schema.revision}; version {VERSION} needs {REVISION}{newer}.",
        facts=facts,
    )


def _as_the_api_sees(seen: Seen, name: str, variable: str) -> Iterator[Finding]:
    """Judge a part by what the API tells."""
    part = seen.parts.get(name)
    if part is None:
        yield unchecked(name, f"Set {variable} to look at it.")
    elif part.is_up:
        locks = [*_locks(part)]
        yield Finding(name=name, sentence=f"{part.detail} (By the API; {variable} is not set here.)", faults=locks)
    else:
        yield Finding(name=name, faults=[Fault(part.detail, f"Set {variable} here and run this again, to see why.")])


def judge_api(seen: Seen) -> Iterator[Finding]:
    """Judge the API."""
    if not isinstance(seen.api, ApiReport):
        yield Finding(name="api", faults=[_no_api(seen)])
        return
    report = seen.api
    readiness = report.readiness
    faults = []
    if readiness.service_version != VERSION:
        sentence = f"It runs version {readiness.service_version}, and this command is {VERSION}."
        faults.append(Fault(sentence, "Upgrade the older one of the two."))
    if readiness.status == "unavailable":
        down = " ".join(
            each.detail for each in readiness.parts if each.name in {"database", "schema"} and not each.is_up
        )
        is_alone = isinstance(seen.database, DatabaseReport) and seen.is_record_readable
        faults.append(
            Fault(
                f"It refuses submissions: {down}",
                "From here the database is well: compare TRIM_DATABASE_URL of the API with this one, and restart it."
                if is_alone
                else "Mend the database first; the API then resumes by itself.",
            )
        )
    yield Finding(
        name="api",
        sentence=f"{report.address} answers in {report.took_ms:.0f} ms: version {readiness.service_version}.",
        faults=faults,
        facts={
            "address": report.address,
            "version": readiness.service_version,
            "status": readiness.status,
            "took_ms": round(report.took_ms, 1),
        },
    )


def _no_api(seen: Seen) -> Fault:
    assert not isinstance(seen.api, ApiReport)
    if isinstance(seen.api, NotTheService):
        return Fault(f"What answers at {seen.server} is another program.", "Name the service's address with --server.")
    first: BaseException = seen.api
    while first.__cause__ is not None:
        first = first.__cause__
    cause = str(seen.api).rstrip(".") if first is seen.api else type(first).__name__
    return Fault(
        f"No service answers at {seen.server} ({cause}).",
        "Start one (make serve, or python -m services.api), or name its address with --server.",
    )


def judge_clocks(seen: Seen) -> Iterator[Finding]:
    """Judge how far the clocks of this machine and of the workers differ from the database's."""
    if not seen.is_record_readable:
        yield unchecked("clock", "Unknown until the database answers and its schema fits.")
        return
    machines: dict[str, float] = {}
    if isinstance(seen.database, DatabaseReport):
        machines["this machine"] = seen.database.machine_ahead_s
        machines |= {each.name: each.clock_ahead_s for each in seen.database.beats if each.clock_ahead_s is not None}
    else:
        for part in seen.parts.values():
            machines |= part.clocks_ahead_s
    faults = [
        Fault(f"The clock of {name} is {_off(ahead_s)} the database's.", SYNCHRONISE, "timedatectl set-ntp true")
        for name, ahead_s in machines.items()
        if abs(ahead_s) > SKEW_S
    ]
    most = max(machines.values(), key=abs, default=0.0)
    sentence = (
        f"Differences from the database: {abs(most):.1f} s at most, on this machine and {len(machines) - 1} workers."
        if isinstance(seen.database, DatabaseReport)
        else f"No worker's clock is off by more than {SKEW_S:.0f} s. (By the API; TRIM_DATABASE_URL is not set here.)"
    )
    facts = {"ahead_s": {name: round(ahead_s, 3) for name, ahead_s in machines.items()}}
    yield Finding(name="clock", sentence="" if faults else sentence, faults=faults, facts=facts)


def _off(ahead_s: float) -> str:
    return f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'}"


def judge_broker(seen: Seen) -> Iterator[Finding]:
    """Judge the broker."""
    match seen.broker:
        case BrokerReport() as report:
            yield _judge_broker(seen, report)
        case None:
            yield from _as_the_api_sees(seen, "broker", "TRIM_BROKER_URL")
        case error:
            yield Finding(
                name="broker", faults=[fault_of(error, f"The broker at {seen.broker_place}", "TRIM_BROKER_URL")]
            )


def _judge_broker(seen: Seen, report: BrokerReport) -> Finding:
    state, parts = report.state, seen.parts
    faults = []
    if state.takes_messages is False:
        faults.append(
            Fault(
                "It takes no messages: an alarm of memory or disk is set.",
                "Find out what is short, and free some (docs/operations/runbooks/TrimBrokerAlarm.md).",
                "rabbitmq-diagnostics alarms",
            )
        )
    elif seen.is_record_readable and parts["orchestrator"].is_up and not parts["broker"].is_up:
        faults.append(
            Fault(
                f"Orchestrators do not reach it: {parts['broker'].detail}",
                "Compare TRIM_BROKER_URL of the orchestrators with this one.",
            )
        )
    takes = " and takes messages" if state.takes_messages else ""
    return Finding(
        name="broker",
        sentence=f"{state.product} {state.version} at {seen.broker_place} answers in {report.took_ms:.0f} ms{takes}.",
        faults=faults,
        facts={
            "product": state.product,
            "version": state.version,
            "takes_messages": state.takes_messages,
            "took_ms": round(report.took_ms, 1),
        },
    )
