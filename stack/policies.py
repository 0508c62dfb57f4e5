"""Registers the fitted policies that ship with the bundled models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.policies.artefact import Artefact
from shared.settings import MODELS
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
