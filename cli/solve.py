"""`trim solve`: one question, its steps as they come, and its answer."""

from __future__ import annotations

import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, NoReturn

import typer

from cli.choices import DeadlineS, Lookahead, PolicyText, SamplingSeed, Temperature, Threshold, chosen
from cli.errors import Interrupted
from cli.following import follow
from cli.output import print_line
from cli.progress import note
from cli.service import JsonLines, Service
from cli.solutions import policy_name
from trim_client import Client, Options, Problem, TrimClientError

CANCEL_TIMEOUT_S = 5.0
"""Seconds for a request that cancels: the user has asked to stop."""


def solve(
    question: Annotated[str, typer.Argument(help="Question; `-` reads it from standard input.", show_default=False)],
    *,
    server: Service,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="ANSWER", help="Correct answer, for the verdict.")
    ] = None,
    policy: PolicyText = None,
    threshold: Threshold = None,
    lookahead: Lookahead = None,
    temperature: Temperature = None,
    seed: SamplingSeed = None,
    deadline_s: DeadlineS = None,
    as_json: JsonLines = False,
) -> None:
    """Solve a question, and show each step as it comes: who wrote it, its PRM score, and why it was kept or rewritten.

    Ctrl-C cancels the problem. The exit status is 0 if it has a solution, right or wrong.
    """
    options = chosen(
        policy=policy,
        threshold=threshold,
        lookahead=lookahead,
        temperature=temperature,
        seed=seed,
        deadline_s=deadline_s,
    )
    text = _read(question)
    with server as client, _stopping_signals():
        problem = _solve(client, text, reference, options, as_json=as_json)
    if not problem.has_succeeded:
        raise typer.Exit(1)


def _solve(client: Client, text: str, reference: str | None, options: Options, *, as_json: bool) -> Problem:
    key = uuid.uuid4().hex
    problem: Problem | None = None
    try:
        problem = client.problems.submit(text, reference=reference, idempotency_key=key, **options)
        if as_json:
            print_line({"event": "submitted", "problem": problem.model_dump(mode="json")})
        else:
            note(f"Problem {problem.id}, solved by the policy {policy_name(problem)}; Ctrl-C cancels it.")
            _warn(client)
        return follow(client, problem.id, as_json=as_json)
    except KeyboardInterrupt:
        _cancel(client, text, reference, options, key=key, problem=problem)


def _warn(client: Client) -> None:
    """Name the parts of the service that are down: the problem may wait for them."""
    with suppress(TrimClientError):
        if down := client.health.ready().down:
            note(f"Not up: {', '.join(down)}. The problem waits if it needs them.")


def _cancel(
    client: Client, text: str, reference: str | None, options: Options, *, key: str, problem: Problem | None
) -> NoReturn:
    """Cancel a problem, also one whose submission was not answered yet: its key finds it."""
    hasty = client.with_options(timeout=CANCEL_TIMEOUT_S, max_retries=1)
    try:
        problem = problem or hasty.problems.submit(text, reference=reference, idempotency_key=key, **options)
        cancelled = hasty.problems.cancel(problem.id)
    except TrimClientError as error:
        goes_on = f"Stopped, but the problem {problem.id if problem else ''} could not be cancelled: {error}"
        raise Interrupted(goes_on) from error
    if cancelled.has_ended:
        raise Interrupted(f"Stopped; the problem {problem.id} had ended ({cancelled.status}).")
    raise Interrupted(f"Stopped; the problem {problem.id} is cancelled. `trim problems show {problem.id}` shows it.")


def _read(question: str) -> str:
    text = sys.stdin.read() if question == "-" else question
    if not text.strip():
        raise typer.BadParameter("The question is blank.")
    return text.strip()


@contextmanager
def _stopping_signals() -> Iterator[None]:
    """Treat SIGTERM and a closed terminal as Ctrl-C, so that they cancel too."""

    def interrupt(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    handlers = {each: signal.signal(each, interrupt) for each in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
