"""Compares the speed of this checkout with that of another one, in turns.

    python -m bench.versions ../before

Both services run at the same time, and solve as many problems in turns, so both meet the same moods of the machine:
one works while the other has nothing to do. Two services of one version differ by some per cent as well, for as long as
they run; so both are started several times, and the standard error is that between the starts. With `--vllm` they run
the bundled models in vLLM; otherwise a scripted engine that takes no time. TRIM_DATABASE_URL and TRIM_BROKER_URL name
the servers; the default is the standard ports on this machine. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
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
    parser.add_argument("--starts", type=positive, default=6, help="starts of both (%(default)s)")
    parser.add_argument("--turns", type=positive, default=4, help="turns of each in a start (%(default)s)")
    arguments = parser.parse_args()
    with reporting_interrupts("bench-versions"):
        run(partial(benchmark, **vars(arguments)), role="bench-versions")


def benchmark(
    _settings: Settings, *, other: Path, vllm: Path | None, problems: int, in_flight: int, starts: int, turns: int
) -> None:
    """Measure both with each lookahead, and print the results."""
    if not (other / "bench").is_dir():
        raise NoCheckout(f"{other} is no checkout of this project; make one with git worktree add.")
    arguments = [str(in_flight), *([str(vllm)] if vllm else [])]
    measured: dict[int, list[_Start]] = {lookahead: [] for lookahead in LOOKAHEADS}
    for start in range(starts):
        checkouts = (other, ROOT)
        with ExitStack() as stack:
            # The one that starts first may get the better place.
            running = {
                index: stack.enter_context(_version(checkouts[index], arguments))
                for index in ((0, 1) if start % 2 == 0 else (1, 0))
            }
            versions = running[0], running[1]
            for version in versions:
                _solve(version, WARM_UP, LOOKAHEADS[-1])
            for lookahead in LOOKAHEADS:
                measured[lookahead].append(_measure(versions, problems, lookahead=lookahead, turns=turns))
                print(
                    f"start {start + 1}, lookahead {lookahead}: ratio {measured[lookahead][-1].ratio:.3f}", flush=True
                )
    result: dict[str, Any] = {"problems": problems, "in_flight": in_flight, "starts": starts, "turns": turns}
    for lookahead in LOOKAHEADS:
        result |= _summary(measured[lookahead], lookahead)
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


@dataclass(frozen=True, slots=True)
class _Start:
    """What both versions did between a start and its end: the other one first."""

    solved: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]

    @property
    def speeds(self) -> tuple[float, float]:
        """Steps per second of both, means over the turns."""
        theirs, ours = (fmean(each["steps"] / each["seconds"] for each in solved) for solved in self.solved)
        return theirs, ours

    @property
    def ratio(self) -> float:
        """Mean of our speed as a share of theirs in the same turn."""
        return fmean(
            (ours["steps"] / ours["seconds"]) / (theirs["steps"] / theirs["seconds"])
            for theirs, ours in zip(*self.solved, strict=True)
        )


def _measure(versions: Sequence[subprocess.Popen[str]], problems: int, *, lookahead: int, turns: int) -> _Start:
    """Have both solve problems in turns, in alternating order."""
    both: tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]] = ([], [])
    for turn in range(turns):
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            both[index].append(_solve(versions[index], problems, lookahead))
    return _Start(both)


def _summary(starts: Sequence[_Start], lookahead: int) -> dict[str, Any]:
    """Print and return the means over the starts."""
    ratios = [each.ratio for each in starts]
    error = stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None
    theirs, ours = (fmean(each.speeds[index] for each in starts) for index in (0, 1))
    shown = "unknown after one start" if error is None else f"{error:.3f}"
    print(
        f"lookahead {lookahead}: {theirs:.1f} steps/s before, {ours:.1f} now; ratio {fmean(ratios):.3f}"
        f" (standard error {shown})",
        flush=True,
    )
    ending = f"_lookahead{lookahead}"
    return {
        f"before_steps_per_s{ending}": round(theirs, 1),
        f"now_steps_per_s{ending}": round(ours, 1),
        f"ratio{ending}": round(fmean(ratios), 3),
        f"standard_error{ending}": None if error is None else round(error, 3),
        f"before_cpu_ms{ending}": _cpu_ms([solved for each in starts for solved in each.solved[0]]),
        f"now_cpu_ms{ending}": _cpu_ms([solved for each in starts for solved in each.solved[1]]),
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
