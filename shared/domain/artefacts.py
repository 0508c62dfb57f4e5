"""Artefacts of fitted policies, as they travel and are stored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIds:
    """The models that a fitted policy belongs to, as drafts and scorings name them."""

    small: str
    large: str
    prm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedArtefact:
    """A policy's artefact; `shared.policies.artefact` reads it."""

    policy: str
    """Name of the policy that uses it."""
    digest: str
    """SHA-256 of the card, which holds that of the arrays."""
    card: str
    """JSON."""
    arrays: bytes
    """Content of a `.npz` file."""
    models: ModelIds
