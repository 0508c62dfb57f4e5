"""Policies as the API describes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class PolicyDescription(BaseModel):
    """A policy that a submission can name."""

    name: str = Field(description="Name of the policy.")
    revision: int = Field(description="Revision of the policy's code.")
    description: str = Field(description="Summary of what the policy decides.")
    parameters: dict[str, Any] = Field(description="JSON schema of the policy's parameters.")
