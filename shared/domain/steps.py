"""The accepted steps of a trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from shared.domain.drafts import Finish
from shared.domain.roles import Author


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One accepted step of the trajectory."""

    index: int
    author: Author
    text: str
    finish: Finish
    tokens: int
    """Tokens decoded for it, as the engine counted them."""
    score: float | None = None
    """PRM score; a large step gets its score with the next draft, the last step of a solution may have none."""
    model: str
    worker: str
    waited_ms: float
    worked_ms: float
    accepted_at: datetime
    estimated_tokens: int = 0
    """Further tokens decoded for it, of requests for which a server reported no count."""

    @property
    def length(self) -> int:
        """Its tokens, counted or estimated: what limits apply to."""
        return self.tokens + self.estimated_tokens
