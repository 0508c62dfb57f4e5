"""Migrates, compares and verifies the database of TRIM_DATABASE_URL."""

from __future__ import annotations

import argparse
import signal
import sys

from sqlalchemy import make_url

import migrations
from migrations.phases import Phase
from migrations.verifying import verify
from shared.process import EXIT_BROKEN, parser, reporting_errors
from shared.settings import Settings


def _parse() -> argparse.Namespace:
    program = parser("migrations", "Migrate and check the database. It needs TRIM_DATABASE_URL.")
    commands = program.add_subparsers(dest="command", required=True)
    commands.add_parser("upgrade", help="bring the database to the newest revision")
    commands.add_parser("check", help="compare the database with what the code describes")
    verifying = commands.add_parser("verify", help="check that nothing is missing from the record of the problems")
    verifying.add_argument("--allow-open", action="store_true", help="accept problems that have not ended")
    down = commands.add_parser("downgrade", help="take the database back to a revision")
    down.add_argument("revision", help="a revision's number, or base for an empty database")
    new = commands.add_parser("new", help="write the file of the next migration")
    new.add_argument("phase", type=Phase, choices=[*Phase], help="expand or contract")
    new.add_argument("name", help="what it does, such as 'add leases'")
    return program.parse_args()


def main() -> None:
    """Run one command."""
    arguments = _parse()
    # The first process of a container ignores signals without a handler. It has not migrated, so others must not start.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with reporting_errors("migrations"):
        if arguments.command == "new":
            migrations.new(arguments.phase, arguments.name)
            return
        settings = Settings()
        url = settings.require_database_url()
        if arguments.command == "upgrade":
            schema = migrations.upgrade(url)  # first: it refuses a URL that cannot be parsed
            sys.stdout.write(f"Database {make_url(url).database}: schema {schema}.\n")
        elif arguments.command == "check":
            migrations.check(url)
        elif arguments.command == "verify":
            if not verify(settings, allow_open=arguments.allow_open, tell=sys.stdout.write):
                sys.exit(EXIT_BROKEN)
        else:
            migrations.downgrade(url, arguments.revision)


if __name__ == "__main__":
    main()
