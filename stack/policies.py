"""Registers the fitted policies that ship with the bundled models; `python -m stack.policies` does so by itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from shared.policies.artefact import Artefact
from shared.process import reporting_errors
from shared.settings import MODELS, Settings
from shared.store.database import Database
from shared.store.policy_versions import register
from stack.artefact_files import read_artefact

BUNDLED = MODELS / "policies"
"""Folder of the artefacts: `PRM/POLICY.json` and `PRM/POLICY.npz`. `recipe.policies` makes them."""

COMMAND: Final = "python -m recipe.policies"
"""Command that makes the artefacts, as their cards name it."""


def read_artefacts(folder: Path = BUNDLED) -> Iterator[Artefact]:
    """Read the artefacts in a folder, in the order of their names.

    Raises:
        BadArtefact: One of them is damaged.
    """
    for card in sorted(folder.glob("*/*.json")):
        yield read_artefact(card)


def register_bundled(database: Database) -> None:
    """Register the bundled artefacts that are not registered yet.

    A new one becomes the default in place of an earlier bundled one. A default that the user made stays.
    """
    with database.session() as session:
        for artefact in read_artefacts():
            register(session, artefact.encoded, supersedes=COMMAND)


def main() -> None:
    """Register them in the database of TRIM_DATABASE_URL."""
    with reporting_errors("policies"), closing(Database(Settings().require_database_url())) as database:
        register_bundled(database)
        sys.stdout.write("The policies that ship with the bundled models are registered.\n")


if __name__ == "__main__":
    main()
