"""Prints the plans of the model, and its comparison with the service."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from bench.capacity.checking import Comparison
from bench.capacity.inputs import Engines, Workload
from bench.capacity.plans import Plan
from bench.capacity.rig import Run

Row = tuple[str, Callable[[Plan], float]]

ROWS: Mapping[str, Sequence[Row]] = {
    "Work": (
        ("accepted steps/s", lambda plan: plan.work.steps_per_s),
        ("solved problems/s", lambda plan: plan.work.problems_per_s),
        ("TRIM_WINDOW, at least", lambda plan: plan.work.window),
        ("seconds from step to step", lambda plan: plan.work.step_seconds),
    ),
    "GPU workers": (
        ("PRM GPUs", lambda plan: plan.other_gpus.prm),
        ("large GPUs", lambda plan: plan.other_gpus.large),
        ("prefilled tokens/s of the PRM", lambda plan: plan.other_gpus.prm_tokens_per_s),
        ("decoded tokens/s of the large model", lambda plan: plan.other_gpus.large_tokens_per_s),
        ("CPU cores of all workers, without engines", lambda plan: plan.worker_cores),
    ),
    "Orchestrators": (
        ("orchestrators", lambda plan: plan.orchestrators.count),
        ("CPU cores", lambda plan: plan.orchestrators.cores),
        ("events/s", lambda plan: plan.orchestrators.events_per_s),
        ("events per transaction", lambda plan: plan.orchestrators.events_per_transaction),
    ),
    "Broker": (
        ("messages/s", lambda plan: plan.broker.messages_per_s),
        ("MB/s in, and the same out", lambda plan: plan.broker.mb_per_s),
        ("CPU cores, one node", lambda plan: plan.broker.cores),
        ("MB of messages in flight", lambda plan: plan.broker.mb_in_flight),
        ("connections", lambda plan: plan.broker.connections),
    ),
    "Database": (
        ("transactions/s", lambda plan: plan.database.transactions_per_s),
        ("CPU cores", lambda plan: plan.database.cores),
        ("connections, at most", lambda plan: plan.database.connections),
        ("MB/s of write-ahead log", lambda plan: plan.database.wal_mb_per_s),
        ("GB/day that stay", lambda plan: plan.database.kept_gb_per_day),
        ("GB of the inbox, one day", lambda plan: plan.database.inbox_gb),
    ),
    "API": (
        ("api processes", lambda plan: plan.apis.count),
        ("CPU cores", lambda plan: plan.apis.cores),
    ),
}


def show_plans(console: Console, plans: Sequence[Plan], *, workload: Workload, engines: Engines) -> None:
    """Print one column for each number of small GPUs."""
    console.print(_title(workload, engines) + "\n", highlight=False)
    table = Table(box=box.MARKDOWN)
    table.add_column("small GPUs")
    for plan in plans:
        table.add_column(str(plan.small_gpus), justify="right")
    for section, rows in ROWS.items():
        table.add_row(f"**{section}**")
        for name, value in rows:
            table.add_row(name, *(number(value(plan)) for plan in plans))
    console.print(table)


def _title(workload: Workload, engines: Engines) -> str:
    return (
        f"Steps of {workload.step_tokens:g} tokens, {workload.problem_steps:g} per problem,"
        f" {workload.escalated:.0%} escalated, lookahead {workload.lookahead:g}. Tokens/s per GPU:"
        f" small {engines.small.tokens_per_s:,g}, PRM {engines.prm.tokens_per_s:,g},"
        f" large {engines.large.tokens_per_s:,g}."
    )


def show_comparisons(console: Console, compared: Sequence[Sequence[Comparison]]) -> None:
    """Print predicted and measured values: medians of each configuration's observations, with their range."""
    table = Table(box=box.MARKDOWN)
    for name in ("small GPUs", "orchestrators", "", "predicted", "measured (range)", "error"):
        table.add_column(name, justify="right" if name != "" else "left")
    for observations in compared:
        planned = observations[0].planned
        columns = zip(*(list(each.rows()) for each in observations), strict=True)
        for place, rows in enumerate(columns):
            predicted, measured = (statistics.median(row[at] for row in rows) for at in (1, 2))
            spread = f"{number(measured)} ({number(min(row[2] for row in rows))}-{number(max(row[2] for row in rows))})"
            labels = (str(planned.small_gpus), str(planned.orchestrators.count)) if place == 0 else ("", "")
            table.add_row(*labels, rows[0][0], number(predicted), spread, f"{predicted / measured - 1:+.0%}")
        for name, value in (
            ("sessions waiting for locks", lambda each: each.observed.waiting),
            ("cores of other processes", lambda each: each.observed.other_cores),
        ):
            table.add_row("", "", name, "", number(statistics.median(map(value, observations))), "")
    console.print(table)


def show_drains(console: Console, drained: Mapping[int, Sequence[Run]], predicted: float) -> None:
    """Print how fast orchestrators apply waiting events while no worker runs."""
    console.print(f"\nOrchestrators alone; one is predicted to apply {predicted:,.0f} events/s.\n", highlight=False)
    table = Table(box=box.MARKDOWN)
    for name in (
        "orchestrators",
        "events/s, fastest run",
        "events/s, median",
        "CPU ms per event: all",
        "events per transaction",
    ):
        table.add_column(name, justify="right")
    for orchestrators, runs in drained.items():
        table.add_row(
            str(orchestrators),
            number(max(run.steps_per_s for run in runs)),
            number(statistics.median(run.steps_per_s for run in runs)),
            number(statistics.median(sum(run.cpu_s.values()) * 1000 / run.steps for run in runs)),
            number(statistics.median(run.steps / run.transactions for run in runs)),
        )
    console.print(table)


def number(value: float) -> str:
    """Format a number with three significant digits."""
    if isinstance(value, int) or abs(value) >= 100:  # noqa: PLR2004 - three digits before the point
        return f"{value:,.0f}"
    return f"{value:.3g}"
