"""The service with the bundled models: full contexts, and problems that end at any moment."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from chaos.deployment import Deployment, deployed
from stack.client import ApiRefused
from tests.unit.engines.bundled import PROBLEMS as STORIES

pytestmark = pytest.mark.servers

PROBLEMS = 200

FILLING = (
    "Tom has pens. " * 237 + "so so so Tom has 5 pens. 1) Tom loses 2 pens. 2) Tom finds 9 more pens. "
    "3) Tom gives away half of the pens. How many pens does Tom have now?"
)
"""The small model writes three steps to it, of which the last one fills its context to the last token."""

FINAL = {"succeeded", "failed", "cancelled", "expired"}
TROUBLE = ("Traceback", "engine_broke_down", "engine_died", "command_crashed", "command_unreported")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, module_servers: dict[str, str]) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("bundled"), **module_servers, script={}, engine="embedded") as running:
        yield running


def test_a_context_that_is_full_between_two_steps_ends_the_solution_at_the_first_attempt(
    deployment: Deployment,
) -> None:
    choices = {"policy": {"name": "small-only"}, "max_attempts": 1, "step_timeout_s": 3600}
    ids = deployment.submit_all([{"question": FILLING, "sampling": {"temperature": 0}}], **choices)
    [row] = deployment.finish(ids)
    assert (row["status"], row["stop_reason"], row["step_count"]) == ("succeeded", "token_limit", 3)


def test_the_service_and_an_answer_of_a_bundled_model_carry_a_note(deployment: Deployment) -> None:
    [problem_id] = deployment.submit_all([{"question": "What is 2+2?"}], policy={"name": "large-only"})
    deployment.finish([problem_id])
    assert "five kinds of arithmetic stories" in deployment.api.get(f"/v1/problems/{problem_id}")["note"]
    assert "five kinds of arithmetic stories" in deployment.api.get("/health/ready")["note"]


def test_openais_client_gets_solutions_of_the_bundled_models(deployment: Deployment) -> None:
    question, answer = STORIES[0]["question"], STORIES[0]["reference"]
    messages: Any = [{"role": "user", "content": question}]
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=f"{deployment.api.address}/v1", api_key="none", http_client=http) as client:
        plain = client.chat.completions.create(model="trim-large", messages=messages, temperature=0)
        chunks = list(client.chat.completions.create(model="trim-large", messages=messages, temperature=0, stream=True))
    text = plain.choices[0].message.content
    assert f"\\boxed{{{answer}}}" in (text or "")
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == text


def test_no_process_ends_and_no_problem_hangs_when_many_are_cancelled_or_time_out(deployment: Deployment) -> None:
    rng, pids = random.Random(5), deployment.roles.pids()
    questions = itertools.cycle(each["question"] for each in STORIES)
    policies = itertools.cycle(
        [
            {"name": "threshold", "parameters": {"threshold": 0.5}},
            {"name": "cascade", "parameters": {"threshold": 0.5}},
            {"name": "large-only"},
        ]
    )
    problems = [
        {
            "question": next(questions),
            "policy": next(policies),
            "lookahead": rng.choice([0, 3, "unlimited"]),
            "step_timeout_s": rng.choice([0.1, 0.5, 2.0]),
            "max_attempts": 2,
        }
        for _ in range(PROBLEMS)
    ]
    ids = deployment.submit_all(problems)

    def is_cancelled(problem_id: str) -> bool:
        try:
            deployment.api.post(f"/v1/problems/{problem_id}/cancel", {})
        except ApiRefused as error:
            if error.may_pass:  # On a busy machine; clients repeat the request then.
                return False
            raise
        return True

    def cancel(problem_id: str) -> None:
        deployment.until(lambda: is_cancelled(problem_id))

    with ThreadPoolExecutor(4) as pool:  # Four at a time take as long as the service works on the problems.
        list(pool.map(cancel, rng.sample(ids, PROBLEMS // 2)))

    rows = deployment.finish(ids)
    assert {row["status"] for row in rows} <= FINAL
    assert "cancelled" in {row["status"] for row in rows}, "the storm came too late"
    deployment.roles.check()
    assert deployment.roles.pids() == pids
    logs = {role: deployment.log(role) for role in pids}
    assert [(role, word) for role, log in logs.items() for word in TROUBLE if word in log] == []
    assert set(deployment.dead_letters().values()) == {0}
    solved = deployment.submit_all([{"question": STORIES[0]["question"]}], policy={"name": "large-only"})
    assert [row["status"] for row in deployment.finish(solved)] == ["succeeded"], "the workers still answer"
