"""Compares the speed of this checkout with that of another one, in turns.

    python -m bench.versions ../before

Both services run at the same time, and solve as many problems in turns, so both meet the same moods of the machine:
one works while the other has nothing to do. With `--vllm` they run the bundled models in vLLM; otherwise a scripted
engine that takes no time. TRIM_DATABASE_URL and TRIM_BROKER_URL name the servers; the default is the standard ports on
this machine. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from bench.arguments import interpreter, positive
from bench.turns import LOOKAHEADS
from shared.errors import PermanentError, RetryableError
from shared.process import run
from shared.settings import Settings
from stack.interrupts import reporting_interrupts

ROOT = Path(__file__).resolve().parent.parent

WARM_UP = 30
"""Problems that each service solves before the measurement."""


class VersionEnded(RetryableError):
    """One of the services ended unexpectedly; what it wrote is above."""

    code = "version_ended"


class NoCheckout(PermanentError):
    """The folder is no checkout of this project."""

    code = "no_checkout"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.versions", description="Compare with another checkout.")
    parser.add_argument("other", type=Path, help="the other checkout, such as a worktree of an earlier commit")
    parser.add_argument("--vllm", type=interpreter, metavar="PYTHON", help="interpreter that has vLLM")
    parser.add_argument("--problems", type=positive, default=100, help="problems in a turn (%(default)s)")
    parser.add_argument("--in-flight", type=positive, default=16, help="problems in flight (%(default)s)")
    parser.add_argument("--turns", type=positive, default=12, help="turns of each (%(default)s)")
    arguments = parser.parse_args()
    with reporting_interrupts("bench-versions"):
        run(partial(benchmark, **vars(arguments)), role="bench-versions")


def benchmark(
    _settings: Settings, *, other: Path, vllm: Path | None, problems: int, in_flight: int, turns: int
) -> None:
    """Measure both with each lookahead, and print the results."""
    if not (other / "bench").is_dir():
        raise NoCheckout(f"{other} is no checkout of this project; make one with git worktree add.")
    arguments = [str(in_flight), *([str(vllm)] if vllm else [])]
    result: dict[str, Any] = {"problems": problems, "in_flight": in_flight, "turns": turns}
    with ExitStack() as stack:
        versions = [stack.enter_context(_version(each, arguments)) for each in (other, ROOT)]
        for version in versions:
            _solve(version, WARM_UP, LOOKAHEADS[-1])
        for lookahead in LOOKAHEADS:
            result |= _compare(versions, problems, lookahead=lookahead, turns=turns)
    print(json.dumps(result))


@contextmanager
def _version(checkout: Path, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run the service of a checkout for the duration of the block."""
    process = subprocess.Popen(
        [sys.executable, "-P", str(ROOT / "bench" / "one_version.py"), *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _read(process)
        yield process
    finally:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()  # It ends in good order then.
        process.wait()


def _read(process: subprocess.Popen[str]) -> Any:
    """Read the next line of JSON.

    Raises:
        VersionEnded: There is none.
    """
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(("{", '"')):
            return json.loads(line)
    raise VersionEnded


def _solve(process: subprocess.Popen[str], problems: int, lookahead: int) -> Mapping[str, Any]:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # It has ended; reading tells.
        process.stdin.write(f"{problems} {lookahead}\n")
        process.stdin.flush()
    solved: Mapping[str, Any] = _read(process)
    return solved


def _compare(versions: Sequence[subprocess.Popen[str]], problems: int, *, lookahead: int, turns: int) -> dict[str, Any]:
    """Compare in turns, in alternating order; return the means."""
    both: tuple[list[Mapping[str, Any]], ...] = ([], [])
    for turn in range(turns):
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            both[index].append(_solve(versions[index], problems, lookahead))
    speeds = [[each["steps"] / each["seconds"] for each in solved] for solved in both]
    ratios = [ours / theirs for theirs, ours in zip(*speeds, strict=True)]
    error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
    theirs, ours = (statistics.fmean(each) for each in speeds)
    print(
        f"lookahead {lookahead}: {theirs:.1f} steps/s before, {ours:.1f} now; ratio {statistics.fmean(ratios):.3f}"
        f" (standard error {error:.3f})",
        flush=True,
    )
    ending = f"_lookahead{lookahead}"
    return {
        f"before_steps_per_s{ending}": round(theirs, 1),
        f"now_steps_per_s{ending}": round(ours, 1),
        f"ratio{ending}": round(statistics.fmean(ratios), 3),
        f"standard_error{ending}": round(error, 3),
        f"before_cpu_ms{ending}": _cpu_ms(both[0]),
        f"now_cpu_ms{ending}": _cpu_ms(both[1]),
    }


def _cpu_ms(solved: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the CPU milliseconds of each role for a step."""
    steps = sum(each["steps"] for each in solved)
    return {
        name: round(sum(each["cpu_s"][name] for each in solved) * 1000 / steps, 2)
        for name in sorted(solved[0]["cpu_s"])
    }


if __name__ == "__main__":
    main()
