"""Who writes steps, and which parts worker processes play."""

from __future__ import annotations

from enum import StrEnum


class Author(StrEnum):
    """A model that writes steps; also the author of a step."""

    SMALL = "small"
    LARGE = "large"


class WorkerRole(StrEnum):
    """The part that a worker process plays: it takes the commands of this role's queue."""

    SMALL = "small"
    LARGE = "large"
    PRM = "prm"
