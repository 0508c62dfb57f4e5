"""Registers the fitted policies that ship with the bundled models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shared.policies.artefact import Artefact
from shared.settings import MODELS
from shared.store.database import Database
from shared.store.policy_versions import register
from stack.artefact_files import read_artefact

BUNDLED = MODELS / "policies"
"""Folder of the artefacts: `PRM/POLICY.json` and `PRM/POLICY.npz`. `recipe.policies` makes them."""


def read_artefacts(folder: Path = BUNDLED) -> Iterator[Artefact]:
    """Read the artefacts in a folder, in the order of their names.

    Raises:
        BadArtefact: One of them is damaged.
    """
    for card in sorted(folder.glob("*/*.json")):
        yield read_artefact(card)


def register_bundled(database: Database) -> None:
    """Register the bundled artefacts that are not registered yet."""
    with database.session() as session:
        for artefact in read_artefacts():
            register(session, artefact.encoded)
