"""`trim evaluate`: solves a file of problems with several policies, and compares accuracy and cost."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.estimates import cost, lacks_interval, number, p_value, percent, seconds
from cli.output import print_json, print_table
from cli.progress import note, showing_progress
from cli.service import AsJson, Server
from evaluation.prices import read_prices
from evaluation.problems import BadLine, KnownProblem, read_problems
from evaluation.resampling import NO_INTERVAL
from evaluation.runs.folder import RESULTS, RunFolder
from evaluation.runs.plan import MAX_SEEDS, Plan
from evaluation.runs.rows import TrialRow
from evaluation.runs.solving import Solving
from evaluation.runs.summary import Results
from evaluation.runs.versions import check_versions
from evaluation.study import Study
from stack.client import Api

BAD_LINES_SHOWN = 5

COLUMNS = ("policy", "accuracy", "large tokens", "PGR", "dIBC", "escalated", "latency p50", "p90", "p against large")


def evaluate(
    file: Annotated[Path, typer.Argument(help="Problems with answers, one JSON object a line.")],
    *,
    into: Annotated[Path, typer.Option(help="Folder of the run. The same command continues a run that was stopped.")],
    server: Server,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY",
            help="Policy such as `pomdp@3:large_token_price=0.002,budget=300`: name, version, parameters and wrappers."
            " Repeat the option; small-only and large-only are always added.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=MAX_SEEDS, help="Solutions of each problem by each policy.")] = 3,
    first: Annotated[int | None, typer.Option(min=1, help="Number of problems from the beginning of the file.")] = None,
    prices: Annotated[Path | None, typer.Option(help="Price table (JSON or TOML), for the true cost.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature; 0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Probability mass to sample from.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Number of likely tokens to sample from; 0 is no limit.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Maximum number of steps of a solution.")] = None,
    max_step_tokens: Annotated[int | None, typer.Option(help="Maximum number of tokens of a step.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Number of tokens at which a solution ends.")] = None,
    lookahead: Annotated[str | None, typer.Option(help="Steps to draft ahead: a number, or `unlimited`.")] = None,
    step_timeout_s: Annotated[float | None, typer.Option("--step-timeout", help="Seconds for one step.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Write a page with pictures into the folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Solve a file of problems with several policies, and compare their accuracy and cost."""
    if report:
        _check_reports()
    table = read_prices(prices) if prices else None
    found = read_problems(file)
    _report_bad_lines(file, found.bad_lines)
    options = {
        "sampling": _given(temperature=temperature, top_p=top_p, top_k=top_k),
        "limits": _given(max_steps=max_steps, max_step_tokens=max_step_tokens, max_tokens=max_tokens),
        **_given(lookahead=_number_or_word(lookahead), step_timeout_s=step_timeout_s),
    }
    plan = Plan.of(found, name=file.name, seeds=seeds, policies=policy or (), options=options, first=first)
    with server as api:
        rows = _solve(api, RunFolder(into), plan, found.problems)
    results = Results(plan, rows, table)
    if report:
        _write_report(results.study, into)
    summary = {
        "folder": str(into),
        "bad_lines": [{"line": each.line, "reason": each.reason} for each in found.bad_lines],
        **results.summary(),
    }
    _report_endings(summary["policies"])
    if as_json:
        print_json(summary)
    else:
        _print(summary)
        note(f"Results: {into / RESULTS}")
    if summary["without_solutions"]:
        note(f"No solution by {', '.join(summary['without_solutions'])}: the figures say nothing about these policies.")
        raise typer.Exit(1)


def _solve(api: Api, folder: RunFolder, plan: Plan, problems: Sequence[KnownProblem]) -> list[TrialRow]:
    with folder.locked():
        solving = Solving(api, folder, plan, problems)
        if not solving.has_ended:
            check_versions(api, plan.candidates)
        try:
            with showing_progress() as show:
                move = show("solutions")
                return solving.run(lambda done: move(done, plan.trials), tell=note)
        except KeyboardInterrupt:
            note("The service solves what it has; repeat the command to continue.")
            raise


def _check_reports() -> None:
    """Refuse a report that could not be written, before anything is solved."""
    if importlib.util.find_spec("matplotlib") is None:
        raise typer.BadParameter("reports need matplotlib; install '.[reports]', or omit --report.")


def _write_report(study: Study, folder: Path) -> None:
    from evaluation.report.writing import write_report  # noqa: PLC0415 - matplotlib is optional, and slow to load

    page = write_report({"run": study}, folder / "report", title=study.title)
    note(f"Report: {page}")


def _given(**options: object) -> dict[str, Any]:
    """Return the options that were given; the service has defaults for the others."""
    return {name: value for name, value in options.items() if value is not None}


def _number_or_word(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _report_bad_lines(file: Path, bad_lines: Sequence[BadLine]) -> None:
    for bad in bad_lines[:BAD_LINES_SHOWN]:
        note(f"{file}, line {bad.line} is left out: {bad.reason}")
    if (more := len(bad_lines) - BAD_LINES_SHOWN) > 0:
        note(f"{file}: {more} more lines are left out; --json lists them.")


def _report_endings(policies: Sequence[Mapping[str, Any]]) -> None:
    """Name what counts as unsolved although nobody judged it wrong."""
    for each in policies:
        for ending, count in each["endings"].items():
            note(f"{each['policy']}: {count} solutions are missing ({ending}); they count as unsolved.")
        if unverified := each["verdicts"].get("unverified", 0):
            note(f"{each['policy']}: {unverified} answers differ from the reference in form; they count as unsolved.")


def _print(summary: Mapping[str, Any]) -> None:
    policies = summary["policies"]
    has_cost = "cost" in policies[0]
    print(f"{summary['title']}\n")
    columns = (*COLUMNS, "cost") if has_cost else COLUMNS
    rows = [
        (
            each["policy"],
            percent(each["accuracy"]),
            percent(each["share"]),
            percent(each["pgr"]),
            number(each["dibc"]),
            percent(each["escalation_rate"]),
            *(seconds(each["latency_s"].get(name)) for name in ("p50", "p90")),
            p_value(each["p_value_against_large"]),
            *([cost(each["cost"])] if has_cost else []),
        )
        for each in policies
    ]
    print_table(columns, rows)
    if summary["curves"]:
        print()
        names = ("cpt50", "cpt80", "cpt95", "apgr")
        curves = [(each["policy"], *(percent(each[name]) for name in names)) for each in summary["curves"]]
        print_table(("curve", "CPT50", "CPT80", "CPT95", "APGR"), curves)
    estimates = [each for row in (*policies, *summary["curves"]) for each in row.values() if isinstance(each, dict)]
    if any("undefined" in each and lacks_interval(each) for each in estimates):
        print(f"\n{NO_INTERVAL}")
