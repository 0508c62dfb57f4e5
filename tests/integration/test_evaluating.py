"""Evaluation through the service: the commands of docs/evaluation.md work as printed, and every policy's stored
decisions are those that a replay gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from string import Template
from typing import Any

import pytest

from chaos.deployment import Deployment, deployed
from evaluation.replay import decide_again, replay
from evaluation.runs.recorded import name_of, read_record
from shared.domain.decisions import Action
from shared.domain.options import Wrappers
from shared.policies.registry import POLICIES
from shared.store import policy_versions
from shared.store.database import Database
from stack.scratch import scratch_database
from tests.unit.evaluation.replaying import SETTINGS, artefact, routing

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text()
MODELS = {"small": "scripted/small", "large": "scripted/large", "prm": "scripted/prm"}


def question(name: str) -> str:
    return str(next(each["question"] for each in PROBLEMS if each["id"] == name))


PROBLEMS = [json.loads(line) for line in re.findall(r"^\{.*\}$", PAGE, re.MULTILINE)]
SCRIPT = {
    "problems": {
        # The small model is right, wrong with a low score, and wrong with a high one.
        question("apples"): [{"small": "One.", "score": 0.8}, {"small": "So \\boxed{37}.", "score": 0.9}],
        question("pens"): [
            {"small": "One.", "score": 0.9},
            {"small": "\\boxed{1}.", "large": "So \\boxed{16}.", "score": 0.4},
        ],
        question("tank"): [{"small": "\\boxed{1}.", "large": "So \\boxed{6}.", "score": 0.9}],
    },
    "default": [
        {"small": "One.", "large": "Two.", "score": 0.2, "mean_logprob": -0.1, "min_logprob": -0.5},
        {"small": "Three.", "large": "Four.", "score": 0.7, "mean_logprob": -1.5, "min_logprob": -2.5},
        {"small": "So \\boxed{42}.", "score": 0.9, "mean_logprob": -0.1, "min_logprob": -0.5},
    ],
}

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> Iterator[Deployment]:
    with scratch_database(postgres_server) as url:
        broker = url.replace("postgresql", "pgmq", 1)
        with closing(Database(url)) as database, database.session() as session:
            for name in ("pomdp", "aggregate", "sequence"):
                for models in (MODELS, {**MODELS, "prm": "other/prm"}):
                    policy_versions.register(session, artefact(name, **models).encoded)
        folder = tmp_path_factory.mktemp("evaluating")
        with deployed(folder, database_url=url, broker_url=broker, script=SCRIPT) as running:
            yield running


def run(command: str, deployment: Deployment, folder: Path) -> str:
    environment = {
        **os.environ,
        "TRIM_SERVER": deployment.api.address,
        "TRIM_ENGINE": deployment.settings.engine,
        "TRIM_SCRIPT": str(deployment.settings.script),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_command_of_the_page_works_as_printed(deployment: Deployment, tmp_path: Path) -> None:
    commands = [
        command.strip()
        for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)
        if command.strip() and not command.startswith("export")
    ]
    assert len(commands) >= 9
    ids: dict[str, str] = {}
    printed: dict[str, str] = {}
    for typed in commands:
        command = Template(typed).safe_substitute(ids)
        printed[command] = run(command, deployment, tmp_path)
        if command.startswith("trim evaluate") and not ids:
            manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
            rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
            low, high = (f"threshold:threshold={value}" for value in (0.3, 0.5))
            of_pens = {each["policy"]: each["problem_id"] for each in rows if each["id"] == "pens"}
            ids = {"FIRST": of_pens[low], "SECOND": of_pens[high], "BATCH": manifest["batches"]["2"]}

    evaluated, reported, *_ = (command for command in printed if command.startswith("trim evaluate"))
    summary = json.loads(printed[reported])
    accuracy = {each["policy"]: each["accuracy"]["value"] for each in summary["policies"]}
    assert accuracy.pop("pomdp") >= 1 / 3
    assert accuracy == pytest.approx({"small-only": 1 / 3, "large-only": 1, low: 1 / 3, high: 2 / 3})
    assert summary["models"] == {role: [name] for role, name in MODELS.items()}
    assert "<svg" in (tmp_path / "run" / "report" / "report.html").read_text()
    compared = next(text for command, text in printed.items() if "--in run" in command)
    assert "They part at step 1 (counted from 0):" in compared
    assert "escalate (score_below_threshold: value 0.4, compared with 0.5)" in compared
    replayed = json.loads(next(text for command, text in printed.items() if "--problem" in command))
    [record] = replayed["records"]
    assert (record["recorded"], record["agreeing"]) == (low, 1)
    assert record["figures"]["accuracy"]["label"] == "exact"
    simulated = json.loads(run(f"trim replay {high} run --simulate --json", deployment, tmp_path))
    figures = {each["recorded"].partition("@")[0]: each["figures"]["accuracy"] for each in simulated["records"]}
    assert (figures["small-only"]["label"], figures["small-only"]["value"]) == ("simulated", accuracy[high])
    assert figures[high]["label"] == "exact"
    simulated = json.loads(run("trim replay pomdp run --simulate --json", deployment, tmp_path))
    assert {each["version"] for each in simulated["records"]} == {1}
    assert {each["figures"]["large_tokens"]["label"] for each in simulated["records"]} == {"exact", "simulated"}
    refused = run(f"{evaluated} --seeds 3 2>&1 || test $? = 2", deployment, tmp_path)
    assert "other settings (seeds)" in refused
    card, arrays = artefact("pomdp", **MODELS).encode()
    (tmp_path / "mine.json").write_bytes(card)
    (tmp_path / "mine.npz").write_bytes(arrays)
    replayed = json.loads(run("trim replay pomdp run --artefact mine.json --json", deployment, tmp_path))
    agreeing = {each["recorded"].partition(":")[0]: each["agreeing"] for each in replayed["records"]}
    assert agreeing["pomdp@1"] == 6
    replayed = json.loads(run("trim replay pomdp run --json", deployment, tmp_path))
    assert {each["version"] for each in replayed["records"] if each["recorded"].startswith(low)} == {1}
    assert all("other_models" not in each["left_out"] for each in replayed["records"])


EVERY = [
    (name, parameters, wrappers)
    for name in POLICIES
    for parameters in SETTINGS[name]
    for wrappers in ({}, {"epsilon": 0.5})
    if name != "cascade" or not wrappers
]


def test_every_policy_decides_again_what_was_stored_for_it(deployment: Deployment) -> None:
    submitted: list[dict[str, Any]] = [
        {
            "question": "What?",
            "reference": "42",
            "policy": {"name": name, "parameters": parameters, "wrappers": wrappers},
            "sampling": {"seed": number},
        }
        for number, (name, parameters, wrappers) in enumerate(EVERY)
    ]
    ids = deployment.submit_all(submitted)
    deployment.finish(ids)
    for problem_id, (name, parameters, wrappers) in zip(ids, EVERY, strict=True):
        policy = routing(name, parameters, Wrappers(**wrappers), **MODELS)
        problem = deployment.api.get(f"/v1/problems/{problem_id}")
        assert problem["status"] == "succeeded", name
        stored = read_record(deployment.api, problem)
        assert stored.decisions
        has_escalated = False
        for each in stored.decisions:
            assert decide_again(policy, each, has_escalated=has_escalated) == each.decision, name_of(problem["policy"])
            has_escalated = has_escalated or each.decision.action is Action.ESCALATE
        assert replay(policy, stored).agrees
