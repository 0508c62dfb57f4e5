"""Whether a worker can do its work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """Why a worker takes no commands for now."""

    code: str
    """Code of the error that made it unfit, such as `access_denied`."""
    detail: str
    """One sentence for people: what is wrong, and what to change."""
    since: datetime
    """When it became unfit."""
