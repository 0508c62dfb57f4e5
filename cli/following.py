"""Shows a problem while it is solved: as text for people, or as lines of JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from uuid import UUID

from rich.status import Status

from cli.output import print_line
from cli.progress import console, note
from cli.solutions import SolutionPrinter
from trim_client import Client, DecisionMade, Ended, Event, Problem, StepAccepted


class View(Protocol):
    """Shows what happens to a problem."""

    def hear(self, event: Event) -> None:
        """Show an event."""


class JsonView:
    """Prints each event as one line of JSON."""

    def hear(self, event: Event) -> None:
        """Print an event."""
        print_line(event_fields(event))


class TextView:
    """Prints steps and decisions as text; on a terminal, standard error shows what the problem waits for."""

    def __init__(self, waiting: Status | None) -> None:
        self._waiting, self._printer = waiting, SolutionPrinter()

    def hear(self, event: Event) -> None:
        """Print an event. The sign of waiting leaves the terminal meanwhile."""
        if self._waiting is not None:
            self._waiting.stop()
        match event:
            case DecisionMade(decision):
                self._printer.decide(decision)
                if decision.action == "escalate":
                    self._wait_for(f"step {decision.step}: the large model writes")
            case StepAccepted(step):
                self._printer.step(step)
                self._wait_for(f"step {step.step + 1}")
            case Ended(problem):
                self._printer.end(problem)
                if problem.note is not None:
                    note(f"Note: {problem.note}")

    def _wait_for(self, what: str) -> None:
        if self._waiting is not None:
            self._waiting.update(what)
            self._waiting.start()


@contextmanager
def view(*, as_json: bool) -> Iterator[View]:
    """Yield what shows a problem."""
    if as_json:
        yield JsonView()
    elif console.is_terminal:
        with console.status("waiting for the first step") as waiting:
            yield TextView(waiting)
    else:
        yield TextView(None)


def follow(client: Client, problem_id: UUID, *, as_json: bool) -> Problem:
    """Show a problem from its first event to its end, and return it.

    Raises:
        TrimClientError: The service refused it, or did not answer.
    """
    with view(as_json=as_json) as shown:
        for event in client.problems.stream(problem_id):
            shown.hear(event)
            if isinstance(event, Ended):
                return event.problem
    raise AssertionError("a stream ends with the end of its problem")


def event_fields(event: Event) -> Mapping[str, Any]:
    """Return an event as JSON has it: its kind, and under this name what the API returns."""
    match event:
        case DecisionMade(decision):
            return {"event": "decision", "decision": decision.model_dump(mode="json")}
        case StepAccepted(step):
            return {"event": "step", "step": step.model_dump(mode="json")}
        case Ended(problem):
            return {"event": "end", "problem": problem.model_dump(mode="json")}
