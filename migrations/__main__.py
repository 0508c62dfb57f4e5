"""Runs migrations on the database of TRIM_DATABASE_URL."""

from __future__ import annotations

import argparse
import sys

from sqlalchemy import make_url

import migrations
from migrations.phases import Phase
from shared.process import reporting_errors
from shared.settings import Settings


def main() -> None:
    """Run one migration command."""
    parser = argparse.ArgumentParser(prog="python -m migrations", description="Migrate the database.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("upgrade", help="bring the database to the newest revision")
    commands.add_parser("check", help="compare the database with what the code describes")
    down = commands.add_parser("downgrade", help="take the database back to a revision")
    down.add_argument("revision", help="a revision's number, or base for an empty database")
    new = commands.add_parser("new", help="write the file of the next migration")
    new.add_argument("phase", type=Phase, choices=[*Phase], help="expand or contract")
    new.add_argument("name", help="what it does, such as 'add leases'")
    arguments = parser.parse_args()
    with reporting_errors("migrations"):
        if arguments.command == "new":
            migrations.new(arguments.phase, arguments.name)
            return
        url = Settings().require_database_url()
        if arguments.command == "upgrade":
            sys.stdout.write(f"Database {make_url(url).database}: schema {migrations.upgrade(url)}.\n")
        elif arguments.command == "check":
            migrations.check(url)
        else:
            migrations.downgrade(url, arguments.revision)


if __name__ == "__main__":
    main()
