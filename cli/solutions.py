"""How commands print a solution: who wrote each step, its score, why, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from rich.console import Console
from rich.text import Text

from cli.output import printable
from cli.reasons import figure, sentence
from trim_client import Decision, Ledger, Problem, Step

STYLES = {"small": "cyan", "large": "magenta", "accept": "green", "escalate": "yellow"}
"""Colours of authors and actions; each is also named in words."""

NUMBER_CHARS, AUTHOR_CHARS, SCORE_CHARS = 4, 6, 8
INDENT = NUMBER_CHARS + AUTHOR_CHARS + SCORE_CHARS + 3
NAME_CHARS = 9
NARROWEST = 30
"""Least number of characters of a line of text, also on a narrow terminal."""


class SolutionPrinter:
    """Prints a solution on standard output, as it comes or from its record. Only a terminal gets colours and breaks."""

    def __init__(self) -> None:
        self._console = Console(markup=False, highlight=False)
        self._decisions: dict[int, list[Decision]] = {}
        self._has_heading = False

    def decide(self, decision: Decision) -> None:
        """Note a decision; it is printed with the step that follows from it."""
        self._decisions.setdefault(decision.step, []).append(decision)

    def step(self, step: Step) -> None:
        """Print a step, and under it the decisions that led to it."""
        if not self._has_heading:
            self._line(_columns("step", "author", "score"), Text("text, and the decision on its draft"), style="bold")
            self._has_heading = True
        decisions = self._decisions.pop(step.step, [])
        score = step.score if step.score is not None else _score_of(step, decisions)
        prefix = _columns(str(step.step), step.author, figure(score))
        prefix.stylize(STYLES.get(step.author, ""), NUMBER_CHARS + 1, NUMBER_CHARS + 1 + AUTHOR_CHARS)
        self._line(prefix, Text(printable(step.text.strip())))
        for each in decisions:
            if each.action == "escalate" and each.draft is not None and each.draft.text:
                draft = " ".join(printable(each.draft.text).split())
                self._line(Text(), Text(f"draft: {draft}", style="dim"))
            self._line(Text(), Text(sentence(each), style=STYLES.get(each.action, "")))

    def end(self, problem: Problem) -> None:
        """Print how a problem ended: answer, verdict and cost."""
        self.blank()
        self.fields(summary(problem))

    def fields(self, values: Iterable[tuple[str, str]]) -> None:
        """Print values beside their names."""
        for name, value in values:
            self._line(Text(f"{name:<{NAME_CHARS}}", style="bold"), Text(printable(value)), indent=NAME_CHARS + 1)

    def blank(self) -> None:
        """Print an empty line."""
        self._console.print()

    def _line(self, prefix: Text, text: Text, *, style: str = "", indent: int = INDENT) -> None:
        """Print text beside a prefix; its further lines are below its first."""
        width = max(NARROWEST, self._console.width - indent)
        lines = text.wrap(self._console, width) if self._console.is_terminal else text.split("\n", allow_blank=True)
        for line in lines or [Text()]:
            prefix.pad_right(indent - len(prefix))
            shown = Text.assemble(prefix, line, style=style)
            shown.rstrip()
            self._console.print(shown, soft_wrap=True)
            prefix = Text()


def summary(problem: Problem) -> Iterator[tuple[str, str]]:
    """Yield what a person wants to know of a problem, by name."""
    if not problem.has_succeeded:
        yield "status", problem.status
    if problem.failure is not None:
        yield "failure", f"{problem.failure.code}: {problem.failure.detail}"
    if problem.has_ended:
        yield "answer", problem.answer if problem.answer is not None else "none"
    if problem.reference is not None and problem.verdict is not None:
        yield "verdict", f"{problem.verdict.replace('_', ' ')} (the reference is {problem.reference})"
    escalations = "1 escalation" if problem.escalations == 1 else f"{problem.escalations} escalations"
    yield "steps", f"{problem.steps}, with {escalations} to the large model"
    yield "tokens", cost(problem.ledger)
    if (took := duration(problem)) is not None:
        yield "time", took
    yield "problem", str(problem.id)


def policy_name(problem: Problem) -> str:
    """Return the policy of a problem with its version and parameters."""
    policy = problem.policy
    name = policy.name if policy.version is None else f"{policy.name}@{policy.version}"
    parameters = ", ".join(f"{key} {value}" for key, value in policy.parameters.items())
    return f"{name} ({parameters})" if parameters else name


def local_time(time: datetime) -> str:
    """Return a time as the clock of this machine shows it."""
    return f"{time.astimezone():%Y-%m-%d %H:%M}"


def cost(ledger: Ledger) -> str:
    """Return the tokens of each model in a sentence."""
    unused = ledger.small_discarded + ledger.small_wasted
    small = f"small {ledger.small_tokens:,}" + (f" ({unused:,} not used)" if unused else "")
    large = f"large {ledger.large_tokens:,}" + (f" ({ledger.large_wasted:,} not used)" if ledger.large_wasted else "")
    estimated = ledger.small_estimated or ledger.large_estimated or ledger.prm_estimated
    prm = f"PRM {ledger.prm_tokens + ledger.prm_estimated:,}"
    return f"{large}, {small}, {prm}" + ("; partly estimated" if estimated else "")


def duration(problem: Problem) -> str | None:
    """Return how long a problem waited and took; `None` before it began."""
    if problem.started_at is None:
        return None
    queued = _seconds(problem.created_at, problem.started_at)
    if problem.finished_at is None:
        return f"queued for {queued}"
    return f"{_seconds(problem.started_at, problem.finished_at)}, after {queued} in the queue"


def _score_of(step: Step, decisions: list[Decision]) -> float | None:
    """Return the score with which a draft became this step."""
    kept = [each.observation.score for each in decisions if each.action == "accept" and step.author == "small"]
    return kept[-1] if kept else None


def _columns(number: str, author: str, score: str) -> Text:
    return Text(f"{number:>{NUMBER_CHARS}} {author:<{AUTHOR_CHARS}} {score:>{SCORE_CHARS}}")


def _seconds(start: datetime, end: datetime) -> str:
    seconds = (end - start).total_seconds()
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004 - two minutes
