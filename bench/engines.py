"""Measures which share of its engines' speed the service reaches.

    python -m bench.engines --python .venv-vllm/bin/python

With vLLM: the service (api, orchestrator, RabbitMQ, Postgres, and three workers with vLLM in process) and a bare loop
(three vLLM engines in one process) solve the same problems in turns, with the same number in flight. Each turn has new
problems, and measures the service first step by step, as the loop works, then with the small model drafting ahead.
`--python` names the interpreter that has vLLM.

With scripted steps of the duration that a GPU needs (60 tokens at 10 ms): the same service, and a bare loop that calls
the scripted engine. The last line is one JSON object.

TRIM_DATABASE_URL and TRIM_BROKER_URL name the servers; without them, the standard ports on this machine are used.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg

from bench.arguments import interpreter, positive
from bench.scripted import IN_FLIGHT, PROBLEMS, SCRIPT, STEP_TOKENS, TOKEN_MS, solve_bare
from bench.servers import servers
from bench.turns import LOOKAHEADS, NotSolved, Problem, Solved, compare, measure
from bench.vllm_on_cpu import ARGUMENTS, ENVIRONMENT
from recipe.problems.drawing import Split, draw
from shared.addresses import http_url
from shared.errors import RetryableError
from shared.observe.probe import LOOPBACKS
from shared.process import run
from shared.settings import Settings
from stack.client import Api
from stack.interrupts import reporting_interrupts
from stack.roles import Roles
from stack.running import free_port
from stack.scratch import scratch_database, scratch_prefix, scratch_queues
from stack.solving import wait_until_ended

LIMITS = {"max_steps": 16, "max_step_tokens": 96}
POLICY = {"name": "threshold", "parameters": {"threshold": 0.5}}
CHOICES = {"policy": POLICY, "limits": LIMITS, "sampling": {"temperature": 0.0}}

WORKERS = ("small", "prm", "large")


class BareEnded(RetryableError):
    """A program beside the service ended unexpectedly."""

    code = "bare_ended"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description="Measure the service on its engines.")
    parser.add_argument("--python", type=interpreter, required=True, help="interpreter that has vLLM")
    parser.add_argument("--problems", type=positive, default=100, help="problems in a run (%(default)s)")
    parser.add_argument("--in-flight", type=positive, default=16, help="problems in flight (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=3, help="turns (%(default)s)")
    arguments = parser.parse_args()
    with reporting_interrupts("bench-engines"):
        run(partial(benchmark, **vars(arguments)), role="bench-engines")


def benchmark(settings: Settings, *, python: Path, problems: int, in_flight: int, repeats: int) -> None:
    """Measure both and print the results."""
    for name in [name for name in os.environ if name.startswith("TRIM_")]:
        del os.environ[name]  # `settings` has their values; the measured roles must not inherit them.
    stories = draw(Split.TEST)
    result: dict[str, Any] = {"problems": problems, "in_flight": in_flight}
    print(
        f"Starting three vLLM engines twice; then {problems} problems in each turn, {in_flight} in flight.", flush=True
    )
    with on_vllm(settings, python, in_flight) as service, Bare.started(python, in_flight) as bare:

        def fresh() -> list[Problem]:
            return [{"question": story.question, "reference": str(story.answer)} for story in islice(stories, problems)]

        for lookahead in LOOKAHEADS:  # The warm-up.
            compare(fresh(), bare=bare.solve, service=service, lookahead=lookahead)
        result |= measure(fresh, "bare_engine_steps_per_s", bare=bare.solve, service=service, repeats=repeats)
    computed = json.loads(_output(python, "-m", "bench.prefill"))
    result |= {"prm_prefilled_tokens_step2": computed[1], "prm_prefilled_tokens_step12": computed[11]}
    print(f"Tokens that the PRM computed at each step of one solution: {computed}.", flush=True)
    shape = f"{STEP_TOKENS} tokens at {TOKEN_MS:g} ms"
    print(f"Now {len(PROBLEMS)} problems in each turn, {IN_FLIGHT} in flight, with steps of {shape}.", flush=True)
    with on_script(settings) as service:
        result |= measure(
            lambda: PROBLEMS,
            "bare_gpu_shaped_steps_per_s",
            bare=solve_bare,
            service=service,
            repeats=repeats,
            prefix="gpu_shaped_",
        )
    print(json.dumps(result))


class Bare:
    """The bare loop in a separate process."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    @contextmanager
    def started(cls, python: Path, in_flight: int) -> Iterator[Bare]:
        """Run it for the duration of the block."""
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

    def solve(self, problems: Sequence[Problem]) -> Solved:
        """Solve problems.

        Raises:
            BareEnded: The process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([problem["question"] for problem in problems]) + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith('{"steps"'):
                run = json.loads(line)
                answers = zip(problems, run["answers"], strict=True)
                correct = sum(answer == problem["reference"] for problem, answer in answers)
                return Solved(steps=run["steps"], seconds=run["seconds"], correct=correct)
        raise BareEnded(
            f"The bare loop ended unexpectedly; the end of its log: {self._log.read_text(encoding='utf-8')[-1000:]}"
        )


class Service:
    """A running service and its speed."""

    def __init__(self, api: Api, roles: Roles, database_url: str) -> None:
        self._api = api
        self._roles = roles
        self._database_url = database_url

    def solve(self, problems: Sequence[Problem], *, lookahead: int) -> Solved:
        """Solve problems; the duration is from submission to the last end, on the database's clock.

        Raises:
            NotSolved: A problem ended without a solution.
        """
        batch_id = self._api.submit(problems, {**CHOICES, "lookahead": lookahead})
        batch = wait_until_ended(batch_id, api=self._api, roles=self._roles)
        if batch["statuses"].get("succeeded", 0) != len(problems):
            raise NotSolved(f"Problems of the benchmark ended as {batch['statuses']}.")
        with psycopg.connect(self._database_url) as connection:
            query = "SELECT extract(epoch FROM max(finished_at) - min(created_at)) FROM problems WHERE batch_id = %s"
            row = connection.execute(query, (batch_id,)).fetchone()
        assert row is not None
        written = [batch["ledger"][name] for name in ("small_kept", "small_discarded", "small_wasted")]
        return Solved(
            steps=batch["steps"],
            seconds=float(row[0]),
            correct=batch["verdicts"].get("correct", 0),
            wasted=written[-1] / sum(written),
        )


@contextmanager
def running(
    settings: Settings, environment: Mapping[str, str], *, in_flight: int, interpreters: Mapping[str, str]
) -> Iterator[Service]:
    """Run the service on a separate database and separate queues for the duration of the block."""
    with (
        servers(settings) as (server_url, broker_url),
        tempfile.TemporaryDirectory() as logs,
        scratch_database(server_url) as database_url,
    ):
        port = free_port(settings.api_host, 0)
        variables = {
            "TRIM_DATABASE_URL": database_url,
            "TRIM_BROKER_URL": broker_url,
            "TRIM_QUEUE_PREFIX": scratch_prefix(),
            "TRIM_API_HOST": settings.api_host,
            "TRIM_API_PORT": str(port),
            "TRIM_WINDOW": str(in_flight),
            "TRIM_CONCURRENCY": str(in_flight),
            "TRIM_LOG_LEVEL": "warning",
            **environment,
        }
        configured = Settings.model_validate(
            {"broker_url": broker_url, "queue_prefix": variables["TRIM_QUEUE_PREFIX"], "database_url": database_url}
        )
        with (
            scratch_queues(configured),
            Api(http_url(LOOPBACKS.get(settings.api_host, settings.api_host), port), is_here=True) as api,
            Roles(variables, Path(logs), interpreters=interpreters) as roles,
        ):
            api.wait_until_ready(roles.check)
            yield Service(api, roles, database_url)


@contextmanager
def on_vllm(settings: Settings, python: Path, in_flight: int) -> Iterator[Service]:
    """Run the service with the bundled models in vLLM."""
    environment = {**ENVIRONMENT, "TRIM_ENGINE": "vllm", "TRIM_VLLM_ARGS": json.dumps(dict(ARGUMENTS))}
    interpreters = dict.fromkeys(WORKERS, str(python))
    with running(settings, environment, in_flight=in_flight, interpreters=interpreters) as service:
        yield service


@contextmanager
def on_script(settings: Settings) -> Iterator[Service]:
    """Run the service with the scripted engine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script.json"
        path.write_text(json.dumps(SCRIPT), encoding="utf-8")
        environment = {"TRIM_ENGINE": "scripted", "TRIM_SCRIPT": str(path)}
        with running(settings, environment, in_flight=IN_FLIGHT, interpreters={}) as service:
            yield service


def _output(python: Path, *arguments: str) -> str:
    """Run a program with the interpreter that has vLLM; return the last line that it prints.

    Raises:
        BareEnded: It failed.
    """
    ended = subprocess.run(
        [str(python), *arguments],
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise BareEnded(f"{' '.join(arguments)} failed; the end of its errors: {ended.stderr[-1000:]}")
    return ended.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
