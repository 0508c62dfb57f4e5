"""A scorer that knows the solution, as a perfect PRM would."""

from __future__ import annotations

from recipe.problems.checker import first_error
from recipe.problems.story import parse
from shared.cancellation import Cancellation
from shared.engines.port import Meter, Scores, ScoringRequest


class ExactChecker:
    """Scores the first wrong step 0, and every other step 1."""

    model_id = "exact-checker"

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:  # noqa: ARG002 - nothing is metered
        """Compare the newest steps with the solution."""
        cancellation.raise_if_cancelled()
        expected, steps = parse(request.question).steps, request.steps
        ends = range(len(steps) - request.newest + 1, len(steps) + 1)
        return Scores(values=[float(first_error(expected, steps[:end]) != end - 1) for end in ends], tokens=0)

    def check(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
