"""Runs servers and roles on one machine for the duration of a block."""

from __future__ import annotations

import fcntl
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from rich.console import Console

import migrations
from shared.addresses import http_url
from shared.errors import RetryableError
from shared.settings import Settings
from shared.store.admission import BROKER, forget_processes
from shared.store.database import Database
from stack.client import Api
from stack.policies import register_bundled
from stack.postgres import EmbeddedPostgres
from stack.roles import ROLES, Roles, node_name

STATE = Path(".state")
"""Folder of the embedded Postgres and the logs; safe to delete while no stack runs."""


class StateInUse(RetryableError):
    """Another stack runs in this folder, with its data under .state; stop it, or run in another checkout."""

    code = "state_in_use"


class PortTaken(RetryableError):
    """Another program listens on the API's port; stop it, or set TRIM_API_PORT."""

    code = "port_taken"


@contextmanager
def running_stack(settings: Settings, console: Console, *, any_port: bool) -> Iterator[tuple[Api, Roles]]:
    """Run the whole service for the duration of the block.

    TRIM_DATABASE_URL and TRIM_BROKER_URL name servers to use; a server that is not named is embedded.
    """
    with ExitStack() as stack:
        stack.enter_context(state_folder())
        port = free_port(settings.api_host, 0 if any_port else settings.api_port)
        if settings.database_url:
            database_url = settings.require_database_url()
            console.print("Database: the server of TRIM_DATABASE_URL")
        else:
            database_url = stack.enter_context(EmbeddedPostgres(STATE.resolve() / "postgres"))
            console.print(f"Database: embedded Postgres in {STATE}/postgres")
        if settings.broker_url:
            broker_url = settings.require_broker_url()
            console.print("Broker:   the server of TRIM_BROKER_URL")
        else:
            broker_url = database_url.replace("postgresql", "pgmq", 1)
            console.print("Broker:   pgmq on the same Postgres")
        console.print(f"Schema:   {migrations.upgrade(database_url)}", highlight=False)
        with closing(Database(database_url)) as database:
            register_bundled(database)
            with database.begin() as connection:
                # Heartbeats of an earlier stack would make roles look ready before they have started.
                forget_processes(connection, names=[*(node_name(role) for role in ROLES), BROKER])
        environment = {
            "TRIM_DATABASE_URL": database_url,
            "TRIM_BROKER_URL": broker_url,
            "TRIM_API_PORT": str(port),
        }
        yield stack.enter_context(
            running_roles(settings, environment, tell=lambda down: console.print(f"Waiting for {down}"))
        )


@contextmanager
def running_roles(
    settings: Settings, environment: Mapping[str, str], *, tell: Callable[[str], object] = lambda _: None
) -> Iterator[tuple[Api, Roles]]:
    """Run every role for the duration of the block, which begins once all of them are ready.

    Args:
        settings: Settings of this process.
        environment: Variables that the roles get in addition; at least database, broker and port of the API.
        tell: Receives the names of parts that take long to become ready.
    """
    with (
        Api(http_url(settings.api_host, int(environment["TRIM_API_PORT"]))) as api,
        Roles(environment, STATE / "logs") as roles,
    ):
        api.wait_until_ready(roles.check, tell=tell)
        yield api, roles


@contextmanager
def state_folder() -> Iterator[None]:
    """Lock the state folder for the duration of the block.

    Raises:
        StateInUse: Another stack holds the lock.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateInUse from None
        yield


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


def serve(api: Api, roles: Roles, console: Console) -> None:
    """Serve until Ctrl-C; restart roles that end."""
    where = f"(try {api.address}/v1/policies , logs are in {STATE}/logs , Ctrl-C stops)"
    console.print(f"Serving:  {api.address} {where}", soft_wrap=True, highlight=False)
    while True:
        for sentence in roles.mend():
            console.print(sentence, soft_wrap=True, highlight=False)
        time.sleep(0.5)
