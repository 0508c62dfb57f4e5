"""Which models are the bundled ones, and what the service notes on their work: it is a demonstration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

DIGESTS: Final = frozenset({"20119e97", "8d88a38d", "2898d8d7", "149cf884"})
"""First digits of the SHA-256 digests of the bundled models' weights, with which the embedded engine's ids end."""

BUNDLED: Final = (
    "the bundled demonstration models, which solve five kinds of arithmetic stories and nothing else; use your own"
    " models for other problems."
)

WRITTEN: Final = f"Written by {BUNDLED}"
"""Note on a problem."""

RUNNING: Final = f"This service runs {BUNDLED}"
"""Note on the service."""


def has_demonstration(models: Iterable[str]) -> bool:
    """Tell whether one of some models, named by their ids, is a bundled one, in whichever folder."""
    return any(model.startswith("embedded/") and model.rpartition("@")[2] in DIGESTS for model in models)
