"""What each server tells, read without any judgement."""

# ruff: noqa: PLC0415 - the servers' libraries are imported only where they are needed

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cli.errors import requiring
from services.api.schemas.health import Readiness
from shared.clock import SYSTEM_CLOCK
from shared.settings import Settings
from stack.client import Api, ApiRefused, NotTheService

if TYPE_CHECKING:
    from shared.bus.broker_state import BrokerState
    from shared.store.compatibility import Schema
    from shared.store.diagnosis import Server
    from shared.store.process_table import Process


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiReport:
    """What the API tells."""

    address: str
    took_ms: float
    readiness: Readiness
    policies: Mapping[str, str | None] | str
    """For each fitted policy its default version for the running models, if there is one; or why that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The newest heartbeat of a process."""

    name: str
    role: str
    seen_at: datetime
    clock_ahead_s: float | None
    is_fit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseReport:
    """What the database tells."""

    server: Server
    took_ms: float
    machine_ahead_s: float
    """Seconds by which the clock of this machine is ahead of the server's."""
    schema: Schema
    readiness: Readiness
    """The parts of the service as an API on this database would see them."""
    beats: Sequence[Beat]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerReport:
    """What the broker tells."""

    took_ms: float
    state: BrokerState


def ask_api(api: Api) -> ApiReport:
    """Read health and policies from the API.

    Raises:
        Unreachable: Nothing answers.
        NotTheService: Something else does.
    """
    began = time.monotonic()
    answer = api.readiness()
    took_ms = _ms_since(began)
    if answer is None:
        api.get("/health/live")  # It raises the reason.
    try:
        readiness = Readiness.model_validate(answer)
    except ValidationError:
        raise NotTheService(f"What answers at {api.address} is not this service; check --server.") from None
    return ApiReport(address=api.address, took_ms=took_ms, readiness=readiness, policies=_read_policies(api))


def _read_policies(api: Api) -> Mapping[str, str | None] | str:
    found: dict[str, str | None] = {}
    try:
        for policy in api.get("/v1/policies"):
            if policy["has_versions"]:
                name = policy["name"]
                found[name] = _read_default(api, name)
    except ApiRefused as error:
        return str(error)
    return found


def _read_default(api: Api, name: str) -> str | None:
    try:
        return f"{name}@{api.get(f'/v1/policies/{name}/default')['version']}"
    except ApiRefused as error:
        if error.reason not in {"no_default_policy_version", "not_found"}:
            raise
        return None


def ask_database(settings: Settings) -> DatabaseReport:
    """Read the state of the service from its database.

    Raises:
        DatabaseUnavailable: It does not answer, or refuses.
        NotInstalled: The driver is missing.
    """
    with requiring("store"):
        from services.api.readiness import read_readiness
        from shared.store import queries
        from shared.store.compatibility import read_schema
        from shared.store.database import Database
        from shared.store.diagnosis import read_server
    url = settings.require_database_url()
    with closing(Database(url, name="doctor", lock_timeout_s=2, pool_size=1, statement_timeout_s=5)) as database:
        with database.begin() as connection:
            read_server(connection)  # The first statement of a connection takes longer.
            asked_at, began = SYSTEM_CLOCK.now(), time.monotonic()
            server = read_server(connection)
            took_ms = _ms_since(began)
            schema = read_schema(connection)
        readiness = read_readiness(database, settings)
        beats: Sequence[Beat] = ()
        if readiness.status != "unavailable":
            with database.session() as session:
                beats = [_beat(each) for each in queries.list_processes(session)]
    ahead_s = (asked_at - server.now).total_seconds() + took_ms / 2000
    return DatabaseReport(
        server=server, took_ms=took_ms, machine_ahead_s=ahead_s, schema=schema, readiness=readiness, beats=beats
    )


def _beat(process: Process) -> Beat:
    return Beat(
        name=process.name,
        role=process.role,
        seen_at=process.seen_at,
        clock_ahead_s=process.clock_ahead_s,
        is_fit=process.unfit is None,
    )


def ask_broker(settings: Settings) -> BrokerReport:
    """Read the state of the broker.

    Raises:
        BrokerUnavailable: It does not answer, or refuses.
        NotInstalled: The client is missing.
    """
    with requiring("bus"):
        from shared.bus.broker_state import read_broker
    began = time.monotonic()
    state = read_broker(settings)
    return BrokerReport(took_ms=_ms_since(began), state=state)


def _ms_since(began: float) -> float:
    return 1000 * (time.monotonic() - began)
