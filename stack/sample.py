"""Solves the bundled sample with several policies over REST, and prints the cost of each."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shared.errors import TrimError
from stack.client import Api
from stack.roles import Roles
from stack.solving import solve_with

SAMPLE = Path(__file__).resolve().parent.parent / "models" / "sample.jsonl"

POLICIES: Mapping[str, Mapping[str, Any]] = {
    "threshold 0.5": {"name": "threshold", "parameters": {"threshold": 0.5}},
    "pomdp": {"name": "pomdp", "parameters": {}},
    "small-only": {"name": "small-only", "parameters": {}},
    "large-only": {"name": "large-only", "parameters": {}},
}
"""Policies by their names in the table."""

GREEDY = {"temperature": 0.0, "seed": 0}
"""Sampling without randomness, so that two runs show the same figures."""


class SampleUnsolved(TrimError):
    """Problems of the sample ended without a solution; see the logs under .state/logs."""

    code = "sample_unsolved"


def run_sample(api: Api, roles: Roles, console: Console) -> None:
    """Solve the sample with every policy, then print the table."""
    problems = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    console.print(f"Solving {len(problems)} problems with {len(POLICIES)} policies at {api.address}")
    started = time.monotonic()
    results = solve_with(POLICIES, problems, {"sampling": GREEDY}, api=api, roles=roles, console=console)
    console.print(_table(results))
    console.print(_summary(results, time.monotonic() - started))
    unsolved = sum(batch["size"] - batch["statuses"].get("succeeded", 0) for batch in results.values())
    if unsolved:
        raise SampleUnsolved(f"{unsolved} problems ended without a solution; see the logs under .state/logs.")


def _table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="The same problems, policy by policy")
    table.add_column("policy", no_wrap=True)
    for title in ("accuracy", "steps", "escalated", "large\ntokens", "share of\nlarge-only", "small\ntokens"):
        table.add_column(title, justify="right", no_wrap=True)
    whole = results["large-only"]["ledger"]["large_out"]
    for title, batch in results.items():
        ledger, size = batch["ledger"], batch["size"]
        correct = batch["verdicts"].get("correct", 0)
        table.add_row(
            title,
            f"{correct / size:.1%}",
            str(batch["steps"]),
            str(batch["escalations"]),
            str(ledger["large_out"]),
            f"{ledger['large_out'] / whole:.1%}" if whole else "-",
            str(ledger["small_kept"] + ledger["small_discarded"] + ledger["small_wasted"]),
        )
    return table


def _summary(results: Mapping[str, Mapping[str, Any]], seconds: float) -> str:
    ours, whole = next(iter(results.values())), results["large-only"]
    saved = 1 - ours["ledger"]["large_out"] / max(1, whole["ledger"]["large_out"])
    return f"Large tokens saved: {saved:.1%}. Solved in {seconds:.1f} s."
