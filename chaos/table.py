"""Prints the outcomes of scenarios: one table, then the facts, the bars that were missed, and how to repeat the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from chaos.measuring import Figures
from chaos.scene import Outcome

COLUMNS: Mapping[str, Callable[[Figures], str]] = {
    "problems": lambda figures: str(figures.problems),
    "succeeded": lambda figures: str(figures.succeeded),
    "lost": lambda figures: str(figures.lost),
    "doubled": lambda figures: str(figures.doubled),
    "failed innocents": lambda figures: str(figures.failed_innocents),
    "small bought twice": lambda figures: f"{figures.small_twice:.2%}",
    "large bought twice": lambda figures: f"{figures.large_twice:.2%}",
    "longest gap, s": lambda figures: f"{figures.longest_gap_s:.1f}",
}


def show(console: Console, outcomes: Sequence[Outcome], *, repeat: str) -> None:
    """Print outcomes.

    Args:
        console: Where to.
        outcomes: The outcomes, in order.
        repeat: Command that repeats the run.
    """
    table = Table(box=box.MARKDOWN)
    table.add_column("scenario", no_wrap=True)
    for name in (*COLUMNS, "invariants"):
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    for each in outcomes:
        table.add_row(each.name, *_cells(each))
    console.print(table)
    for each in outcomes:
        for sentence in (*each.facts, *([f"skipped: {each.skipped}"] if each.skipped else [])):
            _line(console, f"{each.name}: {sentence}")
    for each in outcomes:
        for sentence in (*each.missed, *each.failed_checks):
            _line(console, f"MISSED  {each.name}: {sentence}")
    _line(console, f"Repeat with: {repeat}")


def _cells(outcome: Outcome) -> list[str]:
    if outcome.figures is None:
        return ["-"] * (len(COLUMNS) + 1)
    holds = f"{len(outcome.failed_checks)} broken" if outcome.failed_checks else "hold"
    return [*(cell(outcome.figures) for cell in COLUMNS.values()), holds]


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
