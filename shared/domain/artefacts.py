"""Artefacts of fitted policies, as they travel and are stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIds:
    """The models that a fitted policy belongs to, as drafts and scorings name them."""

    small: str
    large: str
    prm: str

    def find_other(self, used: Iterable[tuple[str, str]]) -> str | None:
        """Name the first role and model that did work although another model was fitted on, as part of a sentence.

        Args:
            used: Role (`small`, `large` or `prm`) and model of each piece of work.
        """
        fitted = {"small": self.small, "large": self.large, "prm": self.prm}
        for role, found in used:
            if found != fitted[role]:
                return f"was fitted on the {role} model {fitted[role]}, not {found}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedArtefact:
    """A policy's artefact; `shared.policies.artefact` reads it."""

    policy: str
    """Name of the policy that uses it."""
    digest: str
    """SHA-256 of the card without its time; the card holds that of the arrays."""
    card: str
    """JSON."""
    arrays: bytes
    """Content of a `.npz` file."""
    models: ModelIds
