"""The load of a scenario: scripted problems with questions that differ, each submitted with a key."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from chaos.deployment import PATIENCE_S, Deployment, NeverHappened
from stack.client import ApiRefused, Unreachable

STEPS = 8
ESCALATED = (2, 5)
"""Steps that the large model rewrites."""


def script(*, step_ms: float) -> dict[str, Any]:
    """Write the script of all problems: eight steps of one duration, two of them escalated, each scored."""
    durations = {"small_ms": step_ms, "large_ms": step_ms, "prm_ms": step_ms / 5}
    steps = [
        {"small": f"Step {index}, as it was drafted.", "large": f"Step {index}, as it should be written.",
         "score": 0.1 if index in ESCALATED else 0.9, **durations}
        for index in range(STEPS - 1)
    ]  # fmt: skip
    return {"default": [*steps, {"small": "So it is \\boxed{7}.", **durations}]}


class Load:
    """The problems of a scenario, as their client knows them."""

    def __init__(self, deployment: Deployment, **choices: Any) -> None:
        """Prepare a load.

        Args:
            deployment: Solves the problems.
            **choices: Options of all problems, as `POST /v1/batches` takes them.
        """
        self._deployment = deployment
        self._choices = {"policy": {"name": "threshold", "parameters": {"threshold": 0.5}}, **choices}
        self._batches: dict[str, Sequence[Mapping[str, Any]]] = {}
        self.questions: list[str] = []

    def submit(self, count: int, *, more: Sequence[Mapping[str, Any]] = ()) -> None:
        """Submit a batch of problems, with given ones in its middle."""
        first = len(self.questions)
        problems: list[Mapping[str, Any]] = [
            {"question": f"What is problem {number}?", "reference": "7"} for number in range(first, first + count)
        ]
        problems[count // 2 : count // 2] = more
        key = f"batch-{len(self._batches)}"
        self._batches[key] = problems
        self.questions += [each["question"] for each in problems]
        self._deployment.api.submit(problems, self._choices, key=key)

    def submit_again(self) -> None:
        """Submit each batch again with its key, as a client does that cannot know which of them were stored.

        Raises:
            NeverHappened: The API accepted no submission in time.
        """
        until = time.monotonic() + PATIENCE_S
        for key, problems in self._batches.items():
            while True:
                try:
                    self._deployment.api.submit(problems, self._choices, key=key)
                    break
                except (ApiRefused, Unreachable) as error:
                    if time.monotonic() > until:
                        raise NeverHappened(f"No submission was accepted in {PATIENCE_S:.0f} s: {error}") from error
                time.sleep(0.1)

    def wait_for_steps(self, count: int) -> None:
        """Wait until a number of further steps have been accepted."""
        goal = self.count_steps() + count
        self._deployment.until(lambda: self.count_steps() >= goal)

    def count_steps(self) -> int:
        """Count the accepted steps."""
        return int(self._deployment.rows("SELECT count(*) AS steps FROM steps")[0]["steps"])

    def is_open(self) -> bool:
        """Tell whether a problem has not ended."""
        return bool(self._deployment.rows("SELECT 1 FROM problems WHERE finished_at IS NULL LIMIT 1"))

    def must_last(self) -> None:
        """Check that problems are still queued.

        Raises:
            NeverHappened: None are, so what was to be disturbed had ended.
        """
        if not self._deployment.rows("SELECT 1 FROM problems WHERE status = 'queued' LIMIT 1"):
            raise NeverHappened("The load ended before the disturbance did; run it with more problems (--problems).")

    def finish(self, *, patience_s: float) -> None:
        """Wait until all problems have ended, or until time is up."""
        until = time.monotonic() + patience_s
        while self.is_open() and time.monotonic() < until:
            time.sleep(0.1)
