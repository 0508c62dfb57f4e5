"""Prints the table of the overhead benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.design import STEPS


def show(console: Console, result: Mapping[str, Any], *, problems: int, repeats: int) -> None:
    """Print the table: medians, with the range of the repetitions."""
    table = Table(
        title=f"Overhead, {STEPS} steps per problem, {problems} problems at once, median of {repeats} (range)"
    )
    for title in ("", "this service", "plain design", "ideal (in memory)"):
        table.add_column(title, justify="right" if title else "left")

    def add(title: str, *names: str) -> None:
        table.add_row(title, *(_cell(result, name) for name in names))

    ideal_ms = round(1000 / result["ideal_steps_per_s"], 2)
    table.add_row(
        "sequential, ms per step",
        _cell(result, "sequential_ms_per_step"),
        _cell(result, "plain_sequential_ms_per_step"),
        str(ideal_ms),
    )
    add("saturated, steps/s", "steps_per_s", "plain_steps_per_s", "ideal_steps_per_s")
    add("as a multiple of the plain design", "ratio_to_plain")
    add("saturated, lookahead 4, steps/s", "steps_per_s_lookahead4")
    add("messages per step", "messages_per_step", "plain_messages_per_step")
    add("transactions per step", "transactions_per_step", "plain_transactions_per_step")
    ours, theirs = result["cpu_ms_per_step"], result["plain_cpu_ms_per_step"]
    for name in {**ours, **theirs}:
        table.add_row(f"CPU ms per step, {name}", str(ours.get(name, "")), str(theirs.get(name, "")))
    console.print(table)


def _cell(result: Mapping[str, Any], name: str) -> str:
    text = f"{result[name]:,}"
    if (spread := result.get(f"{name}_range")) is None:
        return text
    return f"{text} ({spread[0]:,}-{spread[1]:,})"
