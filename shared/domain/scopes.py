"""What a key of the API allows."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """A part of the API that a key opens. None includes another one."""

    SUBMIT = "submit"
    """Submit and cancel problems and batches."""
    READ = "read"
    """Read problems, batches, their record, and policies."""
    ADMIN = "admin"
    """Manage keys and the versions of policies; with the default tenant, also tenants."""
