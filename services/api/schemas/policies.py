"""Policies as the API describes them."""

from __future__ import annotations

from typing import Any

from pydantic import AwareDatetime, Base64Bytes, BaseModel, ConfigDict, Field

from services.api.schemas.pages import Page


class PolicyDescription(BaseModel):
    """A policy that a submission can name."""

    name: str = Field(description="Name of the policy.")
    revision: int = Field(description="Revision of the policy's code.")
    description: str = Field(description="Summary of what the policy decides.")
    parameters: dict[str, Any] = Field(description="JSON schema of the policy's parameters.")
    has_versions: bool = Field(
        description="Whether the policy is fitted to models, so that it decides with one of several versions."
    )


class FittedOn(BaseModel):
    """The models that a version was fitted on. It decides on the work of no others."""

    small: str = Field(description="Name and version of the small model.")
    large: str = Field(description="Name and version of the large model.")
    prm: str = Field(description="Name and version of the PRM.")


class PolicyVersion(BaseModel):
    """A version of a fitted policy: what it learned, from what, for which models. It never changes."""

    policy: str = Field(description="Name of the policy.")
    version: int = Field(description="Number of the version among those of the policy, from 1.")
    digest: str = Field(description="SHA-256 digest of the version's artefact, without the time of its fit.")
    models: FittedOn = Field(description="Models that it was fitted on.")
    card: dict[str, Any] = Field(description="Data, settings, metrics and command of the fit.")
    is_default: bool = Field(description="Whether submissions without a version get it while its models run.")
    registered_at: AwareDatetime = Field(description="Time at which it was registered.")
    retired_at: AwareDatetime | None = Field(
        description="Time at which it was withdrawn from new submissions; null if it was not."
    )


class PolicyArtefact(BaseModel):
    """What a version decides with: its card, and its arrays as base64.

    Both parts are in one JSON object, so that they travel together, under the same limit, checks and errors as every
    other body. Base64 makes the arrays a third longer, which is little at their sizes of kilobytes.
    """

    model_config = ConfigDict(extra="forbid")

    card: dict[str, Any] = Field(description="Models, data, settings, metrics and command of the fit.")
    arrays: Base64Bytes = Field(description="Content of the `.npz` file, in base64.")


class PolicyVersionPage(Page[PolicyVersion]):
    """One page of versions."""
