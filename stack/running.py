"""Runs servers and roles on one machine for the duration of a block."""

from __future__ import annotations

import math
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import migrations
from services.api.access.exposure import check_exposure, describe_keys
from shared.addresses import http_url
from shared.domain.demonstration import BUNDLED
from shared.domain.roles import WorkerRole
from shared.engines.role_settings import model_of
from shared.errors import RetryableError
from shared.observe.probe import LOOPBACKS
from shared.settings import MODELS, Settings
from shared.store.admission import BROKER, forget_processes
from shared.store.database import Database
from stack.client import Api
from stack.policies import register_bundled
from stack.postgres import EmbeddedPostgres, forget_other_servers
from stack.roles import ROLES, Roles, node_name
from stack.state import LOGS, STATE, state_folder
from trim_client.addresses import DEFAULT_SERVER

EXPLAIN_AFTER_S = 10.0
"""Seconds after which `serve` shows what a role that is still down logs; models take seconds to load."""


DEMONSTRATION_QUESTION = (
    "Amy has 46 beads. 1) Amy finds 45 more beads. 2) Amy loses 49 beads. 3) Amy finds 34 more beads."
    " How many beads does Amy have now?"
)
"""Question of a kind that the bundled models solve; the small one is mostly wrong at one step."""


class PortTaken(RetryableError):
    """Another program listens on the API's port; stop it, or set TRIM_API_PORT."""

    code = "port_taken"


@contextmanager
def running_stack(
    settings: Settings, tell: Callable[[str], object], *, any_port: bool, problems_may_wait: bool
) -> Iterator[tuple[Api, Roles]]:
    """Run the whole service for the duration of the block.

    TRIM_DATABASE_URL and TRIM_BROKER_URL name servers to use; a server that is not named is embedded.

    Args:
        settings: Settings of this process.
        tell: Receives a line about each thing that the user may want to know.
        any_port: Whether the API may listen on any port.
        problems_may_wait: Whether the block may begin before every role is ready.
    """
    with ExitStack() as stack:
        stack.enter_context(state_folder())
        port = free_port(settings.api_host, 0 if any_port else settings.api_port)
        check_exposure(settings)
        check_servers: Callable[[], None] = lambda: None  # noqa: E731
        if settings.database_url:
            database_url = settings.require_database_url()
            tell("Database: the server of TRIM_DATABASE_URL")
        else:
            forget_other_servers()
            postgres = EmbeddedPostgres(STATE / "postgres")
            database_url = stack.enter_context(postgres)
            check_servers = postgres.check
            tell(f"Database: embedded Postgres in {STATE}/postgres (make psql)")
        if settings.broker_url:
            broker_url = settings.require_broker_url()
            tell("Broker:   the server of TRIM_BROKER_URL")
        else:
            broker_url = database_url.replace("postgresql", "pgmq", 1)
            tell("Broker:   pgmq on the same Postgres")
        tell(f"Schema:   {migrations.upgrade(database_url)}")
        if _runs_bundled(settings):
            tell(f"Models:   {BUNDLED}")
        tell(f"Keys:     {describe_keys(settings)}")
        _prepare(database_url)
        environment = {"TRIM_DATABASE_URL": database_url, "TRIM_BROKER_URL": broker_url, "TRIM_API_PORT": str(port)}
        running = running_roles(
            settings, environment, tell=tell, check_servers=check_servers, problems_may_wait=problems_may_wait
        )
        yield stack.enter_context(running)


def _prepare(database_url: str) -> None:
    with closing(Database(database_url)) as database:
        register_bundled(database)
        with database.begin() as connection:
            # Heartbeats of an earlier stack would make roles look ready before they have started.
            forget_processes(connection, names=[*(node_name(role) for role in ROLES), BROKER])


def _runs_bundled(settings: Settings) -> bool:
    """Tell whether a role runs a bundled model."""
    folders = [Path(model_of(settings, role)).resolve().parent for role in WorkerRole]
    return settings.engine == "embedded" and MODELS in folders


@contextmanager
def running_roles(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    tell: Callable[[str], object] = lambda _: None,
    check_servers: Callable[[], None] = lambda: None,
    problems_may_wait: bool = False,
) -> Iterator[tuple[Api, Roles]]:
    """Run every role for the duration of the block, which begins once all of them are ready.

    Args:
        settings: Settings of this process.
        environment: Variables that the roles get in addition; at least database, broker and port of the API.
        tell: Receives sentences about what takes long.
        check_servers: Raises if a server of the roles has ended.
        problems_may_wait: Whether the block begins once submissions are accepted.
    """
    host = LOOPBACKS.get(settings.api_host, settings.api_host)
    # A key in the environment may be one of another service, which this one would refuse.
    key = os.environ.get("TRIM_API_KEY") if settings.api_keys == "required" else None
    with (
        Api(http_url(host, int(environment["TRIM_API_PORT"])), is_here=True, key=key) as api,
        Roles(environment, LOGS, check_servers=check_servers, tell=tell) as roles,
    ):
        api.wait_until_ready(
            roles.check, tell=lambda down: tell(f"Waiting for {down}"), problems_may_wait=problems_may_wait
        )
        yield api, roles


def free_port(host: str, port: int) -> int:
    """Check that the API can listen on a port, before anything starts; 0 finds a free one.

    Raises:
        PortTaken: The API cannot listen there.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # The same options as the API's own socket: a port is free although old connections are in TIME_WAIT.
        with socket.create_server(address[:2], family=family) as probe:
            found: int = probe.getsockname()[1]
    except OSError as error:
        refusal = f"The API cannot listen on port {port} of {host}"
        raise PortTaken(f"{refusal}; stop what listens there, or set TRIM_API_PORT or TRIM_API_HOST.") from error
    return found


def _why_down(name: str, readiness: Mapping[str, Any], roles: Roles) -> str:
    """Return what its worker reports, or else the last line of its log."""
    reported = [
        unfit["detail"] for part in readiness.get("parts", ()) if part["name"] == name for unfit in part["unfit"]
    ]
    return f"it reports: {reported[0]}" if reported else f"its log: {roles.last_line(name)}"


def first_command(address: str, *, is_demonstration: bool) -> str:
    """Return the command that a newcomer runs next, as the shell in this folder takes it."""
    program = Path(sys.executable).with_name("trim")
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    server = "" if address == DEFAULT_SERVER else f" --server {shlex.quote(address)}"
    question = DEMONSTRATION_QUESTION if is_demonstration else "your question"
    return f'{shlex.quote(str(program))} solve "{question}"{server}'


def serve(api: Api, roles: Roles, tell: Callable[[str], object]) -> None:
    """Serve until Ctrl-C; restart roles that end, and tell which are not up: problems may not need them."""
    tell(f"Serving:  {api.address} (try {api.address}/v1/policies , logs are in {LOGS} , Ctrl-C stops)")
    down: list[str] | None = None
    explain_at = math.inf
    has_shown_command = False
    while True:
        for sentence in roles.mend():
            tell(sentence)
            down = None
        readiness = api.readiness() if down != [] else None
        if readiness is not None and readiness["down"] != down:
            down = readiness["down"]
            explain_at = time.monotonic() + EXPLAIN_AFTER_S
            waiting = f"{', '.join(down)} not up yet; problems that need them wait, fitted policies may be refused"
            tell(f"Waiting:  {waiting}" if down else "Ready:    every role is up")
            if not down and not has_shown_command:
                tell(f"Try:      {first_command(api.address, is_demonstration=readiness.get('note') is not None)}")
                has_shown_command = True
        if down and time.monotonic() > explain_at:
            explain_at = math.inf
            for name in set(down) & set(ROLES):
                tell(f"{name} is still down; {_why_down(name, readiness or {}, roles)}")
        time.sleep(0.5)
