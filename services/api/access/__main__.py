"""Creates keys without the API, such as the first one: `python -m services.api.access create-key NAME`."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from services.api.access.creating import create
from shared.domain.scopes import Scope
from shared.process import parser, reporting_errors
from shared.settings import Settings
from shared.store.database import Database


def _parse() -> argparse.Namespace:
    program = parser("services.api.access", "Create a key of the API and print it. It needs TRIM_DATABASE_URL.")
    commands = program.add_subparsers(dest="command", required=True)
    creating = commands.add_parser("create-key", help="create a key and print it on standard output, once")
    creating.add_argument("name", help="name of the key, for people")
    creating.add_argument(
        "--scope", action="append", type=Scope, choices=[*Scope], help="what the key allows; repeatable, default all"
    )
    creating.add_argument("--tenant", default="default", help="name or id of its tenant; default %(default)s")
    creating.add_argument("--expires-in-days", type=float, help="days until it expires; by default it does not")
    return program.parse_args()


if __name__ == "__main__":
    arguments = _parse()
    with reporting_errors("access"), closing(Database(Settings().require_database_url())) as database:
        made = create(
            database,
            arguments.name,
            tenant=arguments.tenant,
            scopes=arguments.scope or [*Scope],
            expires_in_days=arguments.expires_in_days,
        )
        sys.stdout.write(f"{made.text}\n")
