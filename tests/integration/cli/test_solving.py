"""The Python client and the commands on it against a running service, and the examples of their documents."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from chaos.deployment import Deployment, deployed
from stack.scratch import scratch_database
from trim_client import AsyncClient, Client, DecisionMade, Ended, StepAccepted

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
TRIM = [sys.executable, "-c", "from cli.entry import main; main()"]

STEPS = [
    {"small": "One.", "large": "Two.", "score": 0.125},
    {"small": "Three.", "score": 0.75},
    {"small": "So \\boxed{42}.", "score": 0.9996},
]
SCRIPT = {"default": STEPS, "problems": {"What takes long?": [{**STEPS[0], "small_ms": 60_000}, STEPS[2]]}}

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> Iterator[Deployment]:
    with scratch_database(postgres_server) as url:
        folder, broker = tmp_path_factory.mktemp("client"), url.replace("postgresql", "pgmq", 1)
        with deployed(folder, database_url=url, broker_url=broker, script=SCRIPT) as running:
            yield running


@pytest.fixture(scope="module")
def environment(deployment: Deployment) -> dict[str, str]:
    """The environment of a user whose shell finds `trim`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return inherited | {"TRIM_SERVER": deployment.api.address, "PATH": path, "COLUMNS": "80"}


def trim(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TRIM, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_a_stream_has_every_decision_before_its_step_and_then_the_end(deployment: Deployment) -> None:
    with Client(deployment.api.address) as client:
        submitted = client.problems.submit("What is 6 times 7?", reference="42", policy="threshold:threshold=0.5")
        events = list(client.problems.stream(submitted.id, timeout_s=120))
        kinds = [type(each) for each in events]
        assert kinds == [DecisionMade, StepAccepted, DecisionMade, StepAccepted, DecisionMade, StepAccepted, Ended]
        steps = [each.step for each in events if isinstance(each, StepAccepted)]
        assert [(each.author, each.text) for each in steps] == [
            ("large", "Two."), ("small", "Three."), ("small", "So \\boxed{42}."),
        ]  # fmt: skip
        # The score of a large step arrives with the next draft.
        stored = list(client.problems.steps(submitted.id))
        assert [each.text for each in steps] == [each.text for each in stored]
        for cut in (0, 3, 5):
            rest = list(client.problems.stream(submitted.id, after=events[cut].id, timeout_s=60))
            assert [type(each) for each in rest] == kinds[cut + 1 :]
        ended = events[-1]
        assert isinstance(ended, Ended)
        assert ended.problem == client.problems.get(submitted.id)
        assert list(client.problems.stream(submitted.id, after=ended.id)) == []


def test_both_clients_solve_problems_and_batches(deployment: Deployment) -> None:
    async def solve() -> list[str | None]:
        async with AsyncClient(deployment.api.address) as client:
            solved = await asyncio.gather(*(client.problems.solve(f"What is {n}?", timeout_s=120) for n in range(5)))
            assert [each.id async for each in client.problems.list(limit=5)]
            return [each.answer for each in solved]

    assert asyncio.run(solve()) == ["42"] * 5
    with Client(deployment.api.address) as client:
        key = {"idempotency_key": "monday"}
        batch = client.batches.submit(["What?", {"question": "Who?", "reference": 42}], policy="small-only", **key)
        again = client.batches.submit(["What?", {"question": "Who?", "reference": 42}], policy="small-only", **key)
        assert (batch.id, batch.was_submitted_before, again.was_submitted_before) == (again.id, False, True)
        ended = client.batches.wait(batch.id, timeout_s=120)
        assert (ended.statuses, ended.verdicts) == ({"succeeded": 2}, {"unverified": 1, "correct": 1})
        assert [each.question for each in client.batches.problems(batch.id)] == ["What?", "Who?"]
        assert {"threshold", "pomdp"} <= {each.name for each in client.policies.list()}
        assert client.health.ready().accepts_submissions
        assert client.problems.cancel(batch.problem_ids[0]).has_ended if batch.problem_ids else False


def test_solve_prints_the_solution_and_its_reasons(environment: Mapping[str, str]) -> None:
    done = trim(environment, "solve", "What is 6 times 7?", "--reference", "42", "--threshold", "0.5")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert [line.split()[:2] for line in lines[1:] if re.match(r" +\d ", line)] == [
        ["0", "large"], ["1", "small"], ["2", "small"],
    ]  # fmt: skip
    for sentence in (
        "draft: One.",
        "rewritten by the large model: the draft's PRM score 0.125 is below the threshold 0.5",
        "kept: its PRM score 0.9996 is at least the threshold 0.5",
        "answer    42",
        "verdict   correct (the reference is 42)",
    ):
        assert [line for line in lines if sentence in line], done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_cancels_the_problem_that_is_being_solved(
    deployment: Deployment, environment: Mapping[str, str], number: signal.Signals
) -> None:
    with subprocess.Popen(
        [*TRIM, "solve", "What takes long?"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        [problem_id] = re.findall(r"Problem ([0-9a-f-]{36})", process.stderr.readline())
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (
        130,
        f"trim: Stopped; the problem {problem_id} is cancelled. `trim problems show {problem_id}` shows it.\n",
    )
    deployment.finish([problem_id])
    with Client(deployment.api.address) as client:
        assert client.problems.get(problem_id).status == "cancelled"


FILE = [
    {"question": "What is 6 times 7?", "reference": "42"},
    {"problem": "What is 7 times 6?", "answer": "so\n#### 42", "id": 2},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "problems.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in FILE))
    return tmp_path


def test_every_command_of_the_page_works_as_printed(
    deployment: Deployment, environment: Mapping[str, str], folder: Path
) -> None:
    [problem_id] = deployment.submit(1)
    batch_id = deployment.finish([problem_id])[0]["batch_id"]
    commands = re.findall(r"^\$ (trim .*)$", (DOCS / "command.md").read_text(), re.MULTILINE)
    assert len(commands) >= 10
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder, env=environment | {"PROBLEM": problem_id, "BATCH": str(batch_id)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout or "cancel" in command


def test_a_file_that_is_submitted_twice_is_solved_once(environment: Mapping[str, str], folder: Path) -> None:
    command = ("submit", str(folder / "problems.jsonl"), "--wait", "--temperature", "0", "--run", "twice")
    first, second = (trim(environment, *command) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert "submitted before" in second.stderr
    assert "submitted before" not in first.stderr


@pytest.mark.parametrize("page", ["docs/client.md", "client/README.md", "README.md"])
def test_every_python_example_runs_as_printed(page: str, environment: Mapping[str, str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert examples
    for example in examples:
        code = example.replace('"http://127.0.0.1:8080"', "")
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{example}\n{done.stderr}"
