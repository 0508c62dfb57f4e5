"""Policies, and versions of those that are fitted to models."""

from __future__ import annotations

import base64
from typing import Any

from pydantic import AwareDatetime

from trim_client.models.base import Model


class PolicyDescription(Model):
    """A policy that a submission can name."""

    name: str
    revision: int
    description: str
    parameters: dict[str, Any]
    """JSON schema of the policy's parameters."""
    has_versions: bool


class FittedOn(Model):
    """The models that a version was fitted on. It decides on the work of no others."""

    small: str
    large: str
    prm: str


class PolicyVersion(Model):
    """A version of a fitted policy. It never changes."""

    policy: str
    version: int
    digest: str
    models: FittedOn
    card: dict[str, Any]
    """Data, settings, metrics and command of the fit."""
    is_default: bool
    registered_at: AwareDatetime
    retired_at: AwareDatetime | None


class PolicyArtefact(Model):
    """What a version decides with: its card, and its arrays as base64."""

    card: dict[str, Any]
    arrays: str

    @property
    def npz(self) -> bytes:
        """Content of the `.npz` file with the arrays."""
        return base64.b64decode(self.arrays)
