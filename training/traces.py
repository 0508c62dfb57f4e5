"""What policies are fitted to: traces, which are step-labelled solutions, and rewrites."""

from __future__ import annotations

from dataclasses import dataclass

from shared.domain.roles import Author


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One complete solution of one problem, with what is known of each step.

    Raises:
        ValueError: It has no step, its parts differ in length, or the first error is not one of its steps.
    """

    question: str
    scores: tuple[float, ...]
    """PRM score of each step."""
    tokens: tuple[int, ...]
    """Tokens of each step, as engines report them."""
    authors: tuple[Author, ...]
    first_error: int | None
    """Index of the first wrong step; `None` if all are right."""

    def __post_init__(self) -> None:
        if not self.scores or not len(self.scores) == len(self.tokens) == len(self.authors):
            raise ValueError(
                "a trace has one score, token count and author for each of its steps, and at least one step"
            )
        if self.first_error is not None and not 0 <= self.first_error < len(self.scores):
            raise ValueError(f"step {self.first_error} cannot be the first error of {len(self.scores)} steps")

    @property
    def judged(self) -> int:
        """Number of steps that were right or the first error; later ones have no right prefix to be right after."""
        return len(self.scores) if self.first_error is None else self.first_error + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """A large step in place of a draft."""

    draft_tokens: int
    """Tokens of the draft."""
    tokens: int
    """Tokens of the large step."""
    is_right: bool | None
    """Whether the large step is right, if the draft was wrong after right steps and that is known."""
