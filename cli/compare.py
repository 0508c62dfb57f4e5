"""`trim compare`: two solutions of one question, or two policies of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.estimates import cost, lacks_interval, number, p_value, percent
from cli.output import print_json, print_table
from cli.service import AsJson, Limit, Server
from evaluation.prices import read_prices
from evaluation.resampling import NO_INTERVAL
from evaluation.runs.divergence import compare_problems
from evaluation.runs.folder import RunFolder
from evaluation.runs.rows import TrialRow
from evaluation.runs.summary import Results
from stack.client import Api

TEXT_CHARS = 200
"""Characters of a step that a table shows."""


def compare(
    first: Annotated[str, typer.Argument(help="Id of a problem, or with --in the name of a policy.")],
    second: Annotated[str, typer.Argument(help="What to compare it with.")],
    *,
    server: Server,
    run: Annotated[Path | None, typer.Option("--in", help="Folder of `trim evaluate` with both policies.")] = None,
    prices: Annotated[Path | None, typer.Option(help="Price table (JSON or TOML), for the true cost.")] = None,
    limit: Limit = 5,
    as_json: AsJson = False,
) -> None:
    """Compare two problems with one question, or two policies of a run: the difference, and where solutions part."""
    with server as api:
        if run is None:
            found = compare_problems(api, *(_problem_id(each) for each in (first, second)))
        else:
            found = _compare_policies(api, run, first, second, prices=prices, limit=limit)
    if as_json:
        print_json(found)
    elif run is None:
        _print_problems(found)
    else:
        _print_policies(found)


def _problem_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no id of a problem; name the run's folder with --in.") from error


def _compare_policies(
    api: Api, path: Path, first: str, second: str, *, prices: Path | None, limit: int
) -> dict[str, Any]:
    folder = RunFolder(path)
    plan = folder.manifest().plan
    for label in (first, second):
        if label not in plan.policies:
            raise typer.BadParameter(f"{label!r} is no policy of the run; it has {', '.join(plan.policies)}.")
    results = Results(plan, folder.results(plan), read_prices(prices) if prices else None)
    differing = [pair for pair in results.pairs(first, second) if _outcome(pair[0]) != _outcome(pair[1])]
    # Those of which one is right and the other is wrong tell most.
    differing.sort(key=lambda pair: pair[0].verdict == pair[1].verdict)
    shown = [
        {"id": one.id, "seed": one.seed, **compare_problems(api, one.problem_id, other.problem_id)}
        for one, other in differing[:limit]
    ]
    return {"difference": results.difference(first, second), "differing": len(differing), "problems": shown}


def _outcome(row: TrialRow) -> object:
    return row.verdict, row.answer, row.ledger.large_out


def _print_policies(found: Mapping[str, Any]) -> None:
    difference = found["difference"]
    print(f"{difference['first']} minus {difference['second']}\n")
    forms = {
        "accuracy": percent,
        "large_tokens": number,
        "share": percent,
        "pgr": percent,
        "dibc": number,
        "escalation_rate": percent,
        "cost": cost,
    }
    print_table(
        ("metric", "difference"), [(name, form(difference[name])) for name, form in forms.items() if name in difference]
    )
    if any(lacks_interval(difference[name]) for name in forms if name in difference):
        print(f"\n{NO_INTERVAL}")
    first, second = difference["only_first_solved"], difference["only_second_solved"]
    print(f"\nSolved only by the first: {first}, only by the second: {second}.")
    print(f"p-value of such a difference in accuracy between equally good policies: {p_value(difference['p_value'])}")
    print(f"{found['differing']} solutions differ in verdict, answer or large tokens.")
    for each in found["problems"]:
        print(f"\nProblem {each['id']}, seed {each['seed']}")
        _print_problems(each)


def _print_problems(found: Mapping[str, Any]) -> None:
    columns = ("problem_id", "status", "answer", "verdict", "steps", "escalations", "large_tokens")
    rows = [[str(found[side][name]) for name in columns] for side in ("first", "second")]
    print_table(columns, rows)
    if (divergence := found["divergence"]) is None:
        print("The solutions have the same steps.")
        return
    print(f"They part at step {divergence['step']} (counted from 0):")
    for side in ("first", "second"):
        step = divergence[side]
        print(f"  {side}: {_step(step, found[side])}")
        for decision in step["decisions"]:
            print(f"    {_decision(decision)}")


def _step(step: Mapping[str, Any], solution: Mapping[str, Any]) -> str:
    if step["author"] is not None:
        return f"{step['author']}: {_short(step['text'])}"
    return "no such step" if solution["failure"] is None else f"failed ({solution['failure']})"


def _decision(decision: Mapping[str, Any]) -> str:
    numbers = {"value": decision["value"], "compared with": decision["compared_with"], **decision["numbers"]}
    known = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items() if value is not None)
    draft = "" if decision["draft"] is None else f"; draft: {_short(decision['draft'])}"
    return f"{decision['action']} ({decision['reason']}{': ' if known else ''}{known}){draft}"


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= TEXT_CHARS else f"{line[:TEXT_CHARS]}..."
