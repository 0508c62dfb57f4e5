"""One of the services that `bench.versions` compares: it solves problems whenever a line of standard input asks for it.

It runs with the code of the checkout that is its working directory, so it uses only what has long been in `bench`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from bench.engines import on_vllm
from bench.servers import servers
from bench.service import Service, running_service
from recipe.problems.drawing import Split, draw
from shared.settings import Settings

Solve = Callable[[int, int], dict[str, Any]]
"""Solves a number of problems with a lookahead; returns steps and seconds, and the CPU seconds of each role."""


@contextmanager
def scripted(in_flight: int) -> Iterator[Solve]:
    """Run the service with a scripted engine without delay."""
    with (
        servers(Settings()) as (server_url, broker_url),
        running_service(server_url, broker_url, Service, window=in_flight) as service,
    ):

        def solve(problems: int, lookahead: int) -> dict[str, Any]:
            timing = service.time(problems, lookahead=lookahead)
            return {"steps": timing.steps, "seconds": timing.seconds, "cpu_s": dict(timing.cpu_s)}

        yield solve


@contextmanager
def with_vllm(in_flight: int, python: str) -> Iterator[Solve]:
    """Run the service with the bundled models in vLLM."""
    settings = Settings()
    for name in [name for name in os.environ if name.startswith("TRIM_")]:
        del os.environ[name]  # `settings` has their values; the measured roles must not inherit them.
    stories = draw(Split.TEST)
    with on_vllm(settings, Path(python), in_flight) as service:

        def solve(problems: int, lookahead: int) -> dict[str, Any]:
            drawn = [
                {"question": story.question, "reference": str(story.answer)} for story in islice(stories, problems)
            ]
            before = _cpu_s()
            solved = service.solve(drawn, lookahead=lookahead)
            spent = {name: seconds - before[name] for name, seconds in _cpu_s().items()}
            return {"steps": solved.steps, "seconds": solved.seconds, "cpu_s": spent}

        yield solve


def _cpu_s() -> dict[str, float]:
    """Return the CPU seconds of each role so far, with those of the processes that it has started."""
    return {
        role.cmdline()[-1].removeprefix("services."): sum(
            sum(each.cpu_times()[:2]) for each in [role, *role.children(recursive=True)]
        )
        for role in psutil.Process().children()
    }


def main() -> None:
    """Solve until standard input ends."""
    in_flight, *python = sys.argv[1:]
    with with_vllm(int(in_flight), *python) if python else scripted(int(in_flight)) as solve:
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            print(json.dumps(solve(*map(int, line.split()))), flush=True)


if __name__ == "__main__":
    main()
