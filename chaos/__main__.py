"""Repeats the bad days of the service on real processes, and measures what they cost.

    python -m chaos --seed 1 lock blips

TRIM_TEST_DATABASE_URL and TRIM_TEST_BROKER_URL name the servers, as for the tests; the default is the standard ports on
this machine. Databases, queues and processes are deleted at the end, also after Ctrl-C. It exits with 1 if a bar is
missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from chaos.running import run
from chaos.scenarios import SCENARIOS, describe
from chaos.scene import BLIPS, Ground
from chaos.servers import find_postgres, find_rabbitmq
from shared.process import EXIT_BROKEN, reporting_errors
from stack.interrupts import reporting_interrupts

LOGS = Path(".state/chaos")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _parse() -> argparse.Namespace:
    described = "\n".join(f"  {name:20} {describe(name)}" for name in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description=f"Disturb the service on real processes, and measure what that costs.\n\nscenarios:\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help="scenarios to run; all by default")
    parser.add_argument("--seed", type=int, default=1, help="seed of what is drawn (%(default)s)")
    parser.add_argument("--blips", type=_positive, default=BLIPS, help="number of blips of the broker (%(default)s)")
    parser.add_argument("--problems", type=_positive, help="problems of each scenario; by default what it needs")
    parser.add_argument("--logs", type=Path, default=LOGS, help="folder of logs, kept if a bar is missed (%(default)s)")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.scenarios if name not in SCENARIOS]:
        parser.error(f"no scenario {unknown[0]}; choose from {', '.join(SCENARIOS)}")
    return arguments


def main() -> None:
    """Run the scenarios."""
    arguments = _parse()
    with reporting_interrupts("chaos"), reporting_errors("chaos"):
        ground = Ground(
            server_url=find_postgres(),
            broker_url=find_rabbitmq(),
            seed=arguments.seed,
            folder=arguments.logs,
            problems=arguments.problems,
            blips=arguments.blips,
        )
        if not run(ground, arguments.scenarios or list(SCENARIOS), Console(width=132)):
            sys.exit(EXIT_BROKEN)


if __name__ == "__main__":
    main()
