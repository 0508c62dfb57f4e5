"""Runs scenarios one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence

import psycopg
from rich.console import Console

from chaos.deployment import NeverHappened
from chaos.scenarios import SCENARIOS
from chaos.scene import Ground, Outcome
from chaos.table import show
from shared.errors import TrimError, explain


def run(
    ground: Ground,
    names: Sequence[str],
    console: Console,
    *,
    scenarios: Mapping[str, Callable[[Ground], Outcome]] = SCENARIOS,
) -> bool:
    """Run scenarios, print what was measured, and return whether every bar was met.

    The logs of a scenario that misses a bar are kept.

    Args:
        ground: What the scenarios share.
        names: Names of the scenarios, in order.
        console: Where to print.
        scenarios: The scenarios by name.
    """
    outcomes = []
    for name in names:
        console.print(f"{name} ...", highlight=False)
        outcome = _carry_out(name, scenarios[name], ground)
        outcomes.append(outcome)
        if is_met(outcome):
            shutil.rmtree(ground.folder / name, ignore_errors=True)
        else:
            console.print(f"The logs of {name} are in {ground.folder / name}.", highlight=False, soft_wrap=True)
    repeat = f"make chaos SEED={ground.seed} SCENARIOS='{' '.join(names)}' ARGS='{ground.options}'"
    show(console, outcomes, repeat=repeat.removesuffix(" ARGS=''"))
    return all(map(is_met, outcomes))


def is_met(outcome: Outcome) -> bool:
    """Tell whether a scenario met every bar; one that was skipped did."""
    return not outcome.missed and not outcome.failed_checks


def _carry_out(name: str, scenario: Callable[[Ground], Outcome], ground: Ground) -> Outcome:
    shutil.rmtree(ground.folder / name, ignore_errors=True)
    try:
        return scenario(ground)
    except TrimError as error:
        return Outcome(name=name, missed=[f"it could not be carried out: {explain(error)}"])
    except (NeverHappened, psycopg.Error) as error:
        return Outcome(name=name, missed=[f"it could not be carried out: {error}"])
    except KeyboardInterrupt:
        shutil.rmtree(ground.folder / name, ignore_errors=True)
        raise
