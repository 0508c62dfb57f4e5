"""Measures what the service leaves of its engines' speed.

    python -m bench.engines --python .venv-vllm/bin/python

With vLLM: problems are solved by the service (api, orchestrator, RabbitMQ, Postgres, and three workers with vLLM in
process) and by a bare loop on three engines of vLLM in one program, in turns, with the same number in flight; by the
service once step by step, as the loop does, and once with the small model drafting ahead. `--python` names the
interpreter that has vLLM. With steps as long as a GPU takes for them (60 tokens at 10 ms, scripted): the same service
beside a loop that calls the scripted engine. The last line is one JSON object.

TRIM_DATABASE_URL and TRIM_BROKER_URL name the servers; without them, the standard ports on this machine are used.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from bench.arguments import positive
from bench.servers import servers
from models.on_vllm import ARGUMENTS, ENVIRONMENT
from models.problems.drawing import Split, draw
from shared.domain.values import Role, Sampling
from shared.engines.port import Cancellation, GenerationRequest, ScoringRequest
from shared.engines.scripted import Script, ScriptedGenerator, ScriptedScorer
from shared.errors import RetryableError
from shared.process import run
from shared.settings import Settings
from stack.__main__ import EXIT_STOPPED, free_port, unwind_on_signals
from stack.client import Api
from stack.roles import Roles
from stack.scratch import scratch_database, scratch_prefix, scratch_queues
from stack.solving import wait_until_ended

LIMITS = {"max_steps": 16, "max_step_tokens": 96}
POLICY = {"name": "threshold", "parameters": {"threshold": 0.5}}
CHOICES = {"policy": POLICY, "limits": LIMITS, "sampling": {"temperature": 0.0}}
AHEAD = {**CHOICES, "lookahead": 4}

STEPS = 8
STEP_TOKENS, TOKEN_MS = 60, 10.0
"""A step on a GPU."""
GPU_PROBLEMS, GPU_IN_FLIGHT = 320, 64

START_TIMEOUT_S = 300.0
"""Until three engines of vLLM have started on two cores."""

LEAST_ACCURACY = 0.95

WORKERS = ("small", "prm", "large")


class NotSolved(RetryableError):
    """Problems of the benchmark were not solved; the service's log says why."""

    code = "not_solved"


class BareEnded(RetryableError):
    """The bare loop ended by itself."""

    code = "bare_ended"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description="Measure the service on its engines.")
    parser.add_argument("--python", type=_interpreter, required=True, help="interpreter that has vLLM")
    parser.add_argument("--problems", type=positive, default=100, help="problems of a run (%(default)s)")
    parser.add_argument("--in-flight", type=positive, default=16, help="problems at a time (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=3, help="turns (%(default)s)")
    arguments = parser.parse_args()
    unwind_on_signals()
    try:
        run(partial(benchmark, **vars(arguments)), role="bench-engines")
    except KeyboardInterrupt:
        sys.stderr.write("bench-engines: Stopped before the end; nothing is left behind.\n")
        sys.exit(EXIT_STOPPED)


def _interpreter(text: str) -> Path:
    if shutil.which(text) is None:
        raise argparse.ArgumentTypeError(f"there is no program {text}; make bench-engines installs one and names it")
    return Path(text)


def benchmark(settings: Settings, *, python: Path, problems: int, in_flight: int, repeats: int) -> None:
    """Measure, and print what came out."""
    stories = [
        {"question": story.question, "reference": str(story.answer)} for story in islice(draw(Split.TEST), problems)
    ]
    result: dict[str, Any] = {"problems": problems, "in_flight": in_flight}
    print(f"Starting three engines of vLLM twice; then {problems} problems, {in_flight} at a time.", flush=True)
    with on_vllm(settings, python, in_flight) as service, Bare.started(python, in_flight) as bare:
        turns = [service.turn(stories, bare=partial(bare.clock, stories)) for _ in range(repeats + 1)][1:]
        result |= medians(turns, "bare_engine_steps_per_s", prefix="") | {"accuracy": service.accuracy}
        if service.accuracy < LEAST_ACCURACY:
            raise NotSolved(f"The service on vLLM solved {service.accuracy:.0%} of the problems; its models do 99 %.")
    computed = json.loads(_output(python, "-m", "bench.prefill"))
    result |= {"prm_prefilled_tokens_step2": computed[1], "prm_prefilled_tokens_step12": computed[11]}
    print(f"The PRM computed {computed} tokens at the steps of one solution.", flush=True)
    shape = f"{STEP_TOKENS} tokens at {TOKEN_MS:g} ms"
    print(f"Now {GPU_PROBLEMS} problems, {GPU_IN_FLIGHT} at a time, with steps of {shape}.", flush=True)
    with on_script(settings) as service:
        questions = [{"question": f"What is problem {index}?"} for index in range(GPU_PROBLEMS)]
        turns = [service.turn(questions, bare=clock_script) for _ in range(repeats)]
        result |= medians(turns, "bare_gpu_shaped_steps_per_s", prefix="gpu_shaped_")
    print(json.dumps(result))


@dataclass(frozen=True)
class Turn:
    """Steps per second, one after the other."""

    bare: float
    service: float
    ahead: float
    """Of the service with the small model drafting ahead."""


def medians(turns: Sequence[Turn], bare: str, *, prefix: str) -> dict[str, float]:
    """Sum up turns: the speeds, and the shares of the bare one that the service reaches, turn by turn."""
    for turn in turns:
        print(
            f"  bare {turn.bare:.1f} steps/s, service {turn.service:.1f} ({turn.service / turn.bare:.1%}),"
            f" with lookahead {turn.ahead:.1f} ({turn.ahead / turn.bare:.1%})",
            flush=True,
        )
    return {
        bare: round(statistics.median(turn.bare for turn in turns), 1),
        f"{prefix}steps_per_s": round(statistics.median(turn.service for turn in turns), 1),
        f"{prefix}share_of_bare": round(statistics.median(turn.service / turn.bare for turn in turns), 3),
        f"{prefix}steps_per_s_lookahead4": round(statistics.median(turn.ahead for turn in turns), 1),
        f"{prefix}share_of_bare_lookahead4": round(statistics.median(turn.ahead / turn.bare for turn in turns), 3),
    }


class Bare:
    """The bare loop, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    @contextmanager
    def started(cls, python: Path, in_flight: int) -> Iterator[Bare]:
        """Run it for as long as the block does."""
        with tempfile.TemporaryDirectory() as folder, (Path(folder) / "bare.log").open("w") as log:
            process = subprocess.Popen(
                [str(python), "-m", "bench.bare", str(in_flight)],
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
            try:
                yield cls(process, Path(log.name))
            finally:
                process.terminate()
                process.wait()

    def clock(self, stories: Sequence[Mapping[str, str]]) -> float:
        """Solve problems; return steps per second.

        Raises:
            BareEnded: The process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([story["question"] for story in stories]) + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith('{"steps"'):
                timed = json.loads(line)
                return float(timed["steps"] / timed["seconds"])
        raise BareEnded(f"The bare loop ended by itself; the end of what it said: {self._log.read_text()[-1000:]}")


class Service:
    """A running service, and how fast it is."""

    def __init__(self, api: Api, roles: Roles, database_url: str) -> None:
        self._api = api
        self._roles = roles
        self._database_url = database_url
        self.accuracy = 1.0
        """Of the run that solved the fewest."""

    def turn(self, problems: Sequence[Mapping[str, str]], *, bare: Callable[[], float]) -> Turn:
        """Have problems solved by the bare loop and by the service, in this order.

        Raises:
            NotSolved: A problem ended without a solution.
        """
        return Turn(bare(), self.clock(problems, CHOICES), self.clock(problems, AHEAD))

    def clock(self, problems: Sequence[Mapping[str, str]], choices: Mapping[str, Any]) -> float:
        """Solve problems; return steps per second, from the submission to the last end by the database's clock.

        Raises:
            NotSolved: A problem ended without a solution.
        """
        batch_id = self._api.submit(problems, choices)
        batch = wait_until_ended(batch_id, api=self._api, roles=self._roles)
        if batch["statuses"].get("succeeded", 0) != len(problems):
            raise NotSolved(f"Problems of the benchmark ended as {batch['statuses']}.")
        self.accuracy = min(self.accuracy, batch["verdicts"].get("correct", 0) / len(problems))
        with psycopg.connect(self._database_url) as connection:
            query = "SELECT extract(epoch FROM max(finished_at) - min(created_at)) FROM problems WHERE batch_id = %s"
            row = connection.execute(query, (batch_id,)).fetchone()
        assert row is not None
        return float(batch["steps"] / float(row[0]))


@contextmanager
def running(
    settings: Settings, environment: Mapping[str, str], *, in_flight: int, interpreters: Mapping[str, str]
) -> Iterator[Service]:
    """Run the service on a database and queues of its own for as long as the block does."""
    with (
        servers(settings) as (server_url, broker_url),
        tempfile.TemporaryDirectory() as logs,
        scratch_database(server_url) as database_url,
    ):
        port = free_port(settings.api_host, 0)
        own = {
            "TRIM_DATABASE_URL": database_url,
            "TRIM_BROKER_URL": broker_url,
            "TRIM_QUEUE_PREFIX": scratch_prefix(),
            "TRIM_API_PORT": str(port),
            "TRIM_WINDOW": str(in_flight),
            "TRIM_CONCURRENCY": str(in_flight),
            "TRIM_LOG_LEVEL": "warning",
            **environment,
        }
        configured = Settings.model_validate(
            {"broker_url": broker_url, "queue_prefix": own["TRIM_QUEUE_PREFIX"], "database_url": database_url}
        )
        with (
            scratch_queues(configured),
            Api(f"http://{settings.api_host}:{port}") as api,
            Roles(own, Path(logs), interpreters=interpreters) as roles,
        ):
            api.wait_until_ready(roles.check, timeout_s=START_TIMEOUT_S)
            yield Service(api, roles, database_url)


@contextmanager
def on_vllm(settings: Settings, python: Path, in_flight: int) -> Iterator[Service]:
    """Run the service with the bundled models in vLLM."""
    environment = {**ENVIRONMENT, "TRIM_ENGINE": "vllm", "TRIM_VLLM_ARGS": json.dumps(dict(ARGUMENTS))}
    interpreters = dict.fromkeys(WORKERS, str(python))
    with running(settings, environment, in_flight=in_flight, interpreters=interpreters) as service:
        yield service


# --- steps as on a GPU ----------------------------------------------------------------------------------------------

_WORDS = " ".join(["word"] * (STEP_TOKENS - 1))  # the engine counts the separator too
_STEP = {"score": 0.9, "small_ms": STEP_TOKENS * TOKEN_MS, "large_ms": STEP_TOKENS * TOKEN_MS, "prm_ms": TOKEN_MS}
SCRIPT = {
    "default": [{"small": _WORDS, **_STEP} for _ in range(STEPS - 1)] + [{"small": f"{_WORDS} \\boxed{{7}}", **_STEP}]
}


@contextmanager
def on_script(settings: Settings) -> Iterator[Service]:
    """Run the service with the scripted engine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script.json"
        path.write_text(json.dumps(SCRIPT))
        environment = {"TRIM_ENGINE": "scripted", "TRIM_SCRIPT": str(path)}
        with running(settings, environment, in_flight=GPU_IN_FLIGHT, interpreters={}) as service:
            yield service


def clock_script() -> float:
    """Solve problems with the scripted engine in a loop; return steps per second."""
    script = Script.model_validate(SCRIPT)
    small, prm = ScriptedGenerator(script, Role.SMALL), ScriptedScorer(script)

    def solve(index: int) -> None:
        question, problem_id = f"What is problem {index}?", uuid4()
        steps: tuple[str, ...] = ()
        for _ in range(STEPS):
            request = GenerationRequest(
                problem_id=problem_id,
                question=question,
                prefix=steps,
                max_steps=1,
                max_step_tokens=LIMITS["max_step_tokens"],
                max_tokens=4096,
                step_timeout_s=60,
                sampling=Sampling(),
            )
            (step,) = small.stream(request, Cancellation())
            steps = (*steps, step.text)
            prm.score(
                ScoringRequest(problem_id=problem_id, question=question, steps=steps, newest=1, timeout_s=60),
                Cancellation(),
            )

    started = time.perf_counter()
    with ThreadPoolExecutor(GPU_IN_FLIGHT) as pool:
        list(pool.map(solve, range(GPU_PROBLEMS)))
    return GPU_PROBLEMS * STEPS / (time.perf_counter() - started)


def _output(python: Path, *arguments: str) -> str:
    """Run a program where vLLM is; return the last line that it prints."""
    ended = subprocess.run(
        [str(python), *arguments],
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return ended.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
