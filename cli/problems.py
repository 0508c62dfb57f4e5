"""`trim problems`: the problems of a service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer

from cli.following import follow
from cli.output import print_json, print_table
from cli.progress import note
from cli.service import AsJson, JsonLines, Limit, Service
from cli.solutions import SolutionPrinter, local_time, policy_name
from trim_client import Conditions, Problem

app = typer.Typer(help="Problems of a service.", no_args_is_help=True)

ProblemId = Annotated[UUID, typer.Argument(metavar="ID", help="Id of the problem.", show_default=False)]


@app.callback()
def problems() -> None:
    """Problems of a service."""


@app.command("list")
def list_problems(
    *,
    server: Service,
    status: Annotated[str | None, typer.Option(help="Only problems with this status, such as `failed`.")] = None,
    policy: Annotated[str | None, typer.Option(metavar="NAME", help="Only problems with this policy.")] = None,
    arm: Annotated[str | None, typer.Option(metavar="NAME", help="Only problems of this arm.")] = None,
    batch: Annotated[UUID | None, typer.Option(metavar="ID", help="Only problems of this batch.")] = None,
    verdict: Annotated[str | None, typer.Option(help="Only problems with this verdict, such as `incorrect`.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List problems, newest first."""
    conditions = Conditions(status=status, policy=policy, arm=arm, batch_id=batch, verdict=verdict)
    with server as client:
        found = list(client.problems.list(**conditions, limit=limit))
    if as_json:
        print_json([each.model_dump(mode="json") for each in found])
        return
    columns = ("problem", "status", "policy", "steps", "escalated", "answer", "verdict", "submitted")
    print_table(columns, [_row(each) for each in found], less=("policy", "steps", "escalated", "submitted"))


@app.command()
def show(problem_id: ProblemId, *, server: Service, as_json: AsJson = False) -> None:
    """Show a problem: its question, its steps so far with their decisions, and what it cost."""
    with server as client:
        problem = client.problems.get(problem_id)
        steps = list(client.problems.steps(problem_id))
        decisions = list(client.problems.decisions(problem_id))
    if as_json:
        print_json(
            {
                "problem": problem.model_dump(mode="json"),
                "steps": [each.model_dump(mode="json") for each in steps],
                "decisions": [each.model_dump(mode="json") for each in decisions],
            }
        )
        return
    printer = SolutionPrinter()
    printer.fields([("question", problem.question.strip() or "erased"), *_choices(problem)])
    printer.blank()
    for decision in decisions:
        printer.decide(decision)
    for step in steps:
        printer.step(step)
    printer.end(problem)
    if problem.note is not None:
        note(f"Note: {problem.note}")


@app.command()
def watch(problem_id: ProblemId, *, server: Service, as_json: JsonLines = False) -> None:
    """Show the steps of a problem as they come, from the first, and then how it ends. Ctrl-C does not cancel it."""
    with server as client:
        problem = follow(client, problem_id, as_json=as_json)
    if not problem.has_succeeded:
        raise typer.Exit(1)


@app.command()
def cancel(
    problem_ids: Annotated[list[UUID], typer.Argument(metavar="ID...", help="Ids of problems.", show_default=False)],
    *,
    server: Service,
) -> None:
    """Cancel problems. Those that have ended stay as they are."""
    with server as client:
        for each in problem_ids:
            found = client.problems.cancel(each)
            note(f"{each} had ended: {found.status}." if found.has_ended else f"{each} is cancelled.")


def _row(problem: Problem) -> Sequence[str]:
    return (
        str(problem.id),
        problem.status,
        problem.policy.name,
        str(problem.steps),
        str(problem.escalations),
        problem.answer or "-",
        (problem.verdict or "-").replace("_", " "),
        local_time(problem.created_at),
    )


def _choices(problem: Problem) -> Sequence[tuple[str, str]]:
    found = [("policy", policy_name(problem))]
    if problem.waits_for:
        found.append(("waits for", "; ".join(f"{each.role}: {each.detail}" for each in problem.waits_for)))
    return found
