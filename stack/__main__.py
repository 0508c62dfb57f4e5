"""Runs the whole service on one machine: `python -m stack run` or `python -m stack serve`."""

from __future__ import annotations

import argparse
import fcntl
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console

import migrations
from shared.errors import RetryableError
from shared.process import one_sentence
from shared.settings import Settings
from shared.store.admission import BROKER, forget_processes
from shared.store.database import Database
from stack.client import Api
from stack.postgres import EmbeddedPostgres
from stack.roles import ROLES, Roles, node_name
from stack.sample import run_sample

EXIT_STOPPED = 130
"""Exit status after Ctrl-C in the middle of something, as a shell has it."""

STATE = Path(".state")
"""Where the embedded Postgres and the logs live; safe to delete while nothing runs."""


class StateInUse(RetryableError):
    """Another stack runs in this folder, with its data under .state; stop it first, or run in another checkout."""

    code = "state_in_use"


class PortTaken(RetryableError):
    """Another program listens on the API's port; stop it, or set TRIM_API_PORT."""

    code = "port_taken"


def main() -> None:
    """Run the stack."""
    parser = argparse.ArgumentParser(prog="python -m stack", description="The whole service on one machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="solve the bundled sample and print what it cost")
    commands.add_parser("serve", help="serve until Ctrl-C")
    arguments = parser.parse_args()
    # SIGTERM unwinds like Ctrl-C, so that nothing is left running.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt_once)
    console = Console()
    with one_sentence("stack"):
        try:
            with running_stack(Settings(), console, any_port=arguments.command == "run") as (api, roles):
                if arguments.command == "run":
                    run_sample(api, roles, console)
                else:
                    serve(api, roles, console)
        except KeyboardInterrupt:
            console.print("Stopped.")
            if arguments.command == "run":
                sys.exit(EXIT_STOPPED)


def interrupt_once(_number: int, _frame: object) -> NoReturn:
    """Unwind, once: who presses Ctrl-C again waits for the clean-up all the same."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def unwind_on_signals() -> None:
    """Have Ctrl-C, SIGTERM and the end of the terminal unwind, but for what this process was told to ignore."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt_once)


@contextmanager
def stopped_in_a_sentence(program: str) -> Iterator[None]:
    """Have Ctrl-C unwind the block and end the program with one sentence."""
    unwind_on_signals()
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: Stopped before the end; nothing is left behind.\n")
        sys.exit(EXIT_STOPPED)


@contextmanager
def running_stack(settings: Settings, console: Console, *, any_port: bool) -> Iterator[tuple[Api, Roles]]:
    """Run servers and roles for as long as the block does.

    Servers named by TRIM_DATABASE_URL and TRIM_BROKER_URL are used; what is not named is embedded.
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
        with closing(Database(database_url)) as database, database.begin() as connection:
            # What processes of an earlier stack said a moment ago says nothing of those that are started now.
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
    """Run every role for as long as the block does, which begins once all of them are up.

    Args:
        settings: Those of this process.
        environment: Settings of the roles on top of them: database, broker and the API's port at least.
        tell: Told what is waited for, where that takes long.
    """
    with (
        Api(f"http://{settings.api_host}:{environment['TRIM_API_PORT']}") as api,
        Roles(environment, STATE / "logs") as roles,
    ):
        api.wait_until_ready(roles.check, tell=tell)
        yield api, roles


@contextmanager
def state_folder() -> Iterator[None]:
    """Have the state folder for this process alone for as long as the block does.

    Raises:
        StateInUse: Another stack has it.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateInUse from None
        yield


def free_port(host: str, port: int) -> int:
    """Check that the API can listen on a port, before anything is started; 0 finds one where it can.

    Raises:
        PortTaken: It cannot.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # A server socket as the API will open it: a port whose last connections are only now timing out is free.
        with socket.create_server(address[:2], family=family) as probe:
            found: int = probe.getsockname()[1]
    except OSError as error:
        said = f"The API cannot listen on port {port} of {host}"
        raise PortTaken(f"{said}; stop what listens there, or set TRIM_API_PORT or TRIM_API_HOST.") from error
    return found


def serve(api: Api, roles: Roles, console: Console) -> None:
    """Stay until Ctrl-C; a role that ends is started again."""
    where = f"(try {api.address}/v1/policies , logs are in {STATE}/logs , Ctrl-C stops)"
    console.print(f"Serving:  {api.address} {where}", soft_wrap=True, highlight=False)
    while True:
        for sentence in roles.mend():
            console.print(sentence, soft_wrap=True, highlight=False)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
