"""Runs the whole service on one machine: `python -m stack run` or `python -m stack serve`."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

import migrations
from shared.errors import TrimError
from shared.settings import Settings
from stack.client import Api
from stack.postgres import EmbeddedPostgres
from stack.roles import Roles
from stack.sample import run_sample

STATE = Path(".state")
"""Where the embedded Postgres and the logs live; safe to delete while nothing runs."""


def main() -> None:
    """Run the stack."""
    parser = argparse.ArgumentParser(prog="python -m stack", description="The whole service on one machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="solve the bundled sample and print what it cost")
    commands.add_parser("serve", help="serve until Ctrl-C")
    arguments = parser.parse_args()
    # SIGTERM unwinds like Ctrl-C, so that nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    try:
        with running_stack(Settings(), console, any_port=arguments.command == "run") as (api, roles):
            if arguments.command == "run":
                run_sample(api, roles, console)
            else:
                serve(api, roles, console)
    except TrimError as error:
        print(f"stack: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Stopped.")


@contextmanager
def running_stack(settings: Settings, console: Console, *, any_port: bool) -> Iterator[tuple[Api, Roles]]:
    """Run servers and roles for as long as the block does.

    Servers named by TRIM_DATABASE_URL and TRIM_BROKER_URL are used; what is not named is embedded.
    """
    with ExitStack() as stack:
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
        migrations.upgrade(database_url)
        port = _free_port() if any_port else settings.api_port
        api = stack.enter_context(Api(f"http://{settings.api_host}:{port}"))
        environment = {
            "TRIM_DATABASE_URL": database_url,
            "TRIM_BROKER_URL": broker_url,
            "TRIM_API_PORT": str(port),
        }
        roles = stack.enter_context(Roles(environment, STATE / "logs"))
        api.wait_until_ready(roles.check)
        yield api, roles


def serve(api: Api, roles: Roles, console: Console) -> None:
    """Stay until Ctrl-C, or until a role ends."""
    console.print(f"Serving:  {api.address} (try {api.address}/v1/policies; logs in {STATE}/logs; Ctrl-C stops)")
    while True:
        roles.check()
        time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
