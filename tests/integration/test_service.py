"""The running service on both transports: what it solves, and what becomes of what it cannot use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from kombu.connection import Connection
from kombu.messaging import Producer

from chaos.deployment import Deployment, deployed
from shared.bus.connection import connect
from shared.bus.topology import COMMAND, REASON_HEADER, QueueRole, Topology
from shared.domain.options import Sampling
from shared.domain.roles import Author
from shared.messages import GenerateSteps, WorkFailed, derive_id, encode

STEPS = 6
BAD_STEP = 3


def step(index: int, **more: object) -> dict[str, object]:
    """One ordinary step of the script."""
    return {"small": f"Step {index} as drafted.", "large": f"Step {index} as it should be.", "score": 0.9, **more}


SOLUTION = [step(index) for index in range(STEPS)]
SOLUTION[BAD_STEP]["score"] = 0.2
SOLUTION.append({"small": "The answer is \\boxed{7}.", "score": 0.9})
SCRIPT = {
    "default": SOLUTION,
    "problems": {
        "Slow?": [step(index, small_ms=400) for index in range(STEPS)],
        "No score?": [step(0, score=float("nan")), step(1, score=1.5), SOLUTION[-1]],
        "Nothing?": [{"small": ""}],
        "Small writes nothing?": [{"small": "", "large": "So it is \\boxed{7}."}],
    },
}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, module_servers: dict[str, str]) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("service"), **module_servers, script=SCRIPT) as running:
        yield running


pytestmark = pytest.mark.servers


def solve(deployment: Deployment, question: str, **choices: object) -> dict[str, object]:
    """Submit one problem and wait for its end."""
    [row] = deployment.finish(deployment.submit_all([{"question": question, "reference": "7"}], **choices))
    return row


@pytest.mark.parametrize("page", [2, 3, 200])
def test_the_problems_of_a_batch_are_read_page_by_page_in_the_order_of_their_submission(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("trim_client.connection.PAGE", page)
    batch = deployment.api.submit([{"question": f"What is problem {index}?"} for index in range(6)], {})
    read = list(deployment.api.batch_problems(batch))
    assert [problem["question"] for problem in read] == [f"What is problem {index}?" for index in range(6)]


@pytest.mark.parametrize("lookahead", [0, 1, 4, "unlimited"])
def test_drafting_ahead_changes_no_decision(deployment: Deployment, lookahead: int | str) -> None:
    [problem_id] = deployment.submit(1, lookahead=lookahead)
    [row] = deployment.finish([problem_id])
    assert (row["status"], row["stop_reason"], row["verdict"]) == ("succeeded", "final_answer", "correct")
    authors = [author for _, author, _ in deployment.trajectory(problem_id)]
    assert authors == ["large" if index == BAD_STEP else "small" for index in range(STEPS + 1)]
    decided = deployment.rows("SELECT action FROM decisions WHERE problem_id = %s ORDER BY number", problem_id)
    assert [each["action"] for each in decided] == ["escalate" if i == BAD_STEP else "accept" for i in range(STEPS + 1)]


@pytest.mark.parametrize(
    ("policy", "authors", "prm_calls"),
    [
        ({"name": "small-only"}, {"small"}, 0),
        ({"name": "large-only"}, {"large"}, 0),
        ({"name": "threshold", "parameters": {"threshold": 0}}, {"small"}, 0),
        ({"name": "threshold", "parameters": {"threshold": 1}}, {"large"}, 0),
        ({"name": "random", "parameters": {"p": 1}}, {"large"}, 0),
        ({"name": "cascade", "parameters": {"threshold": 1}}, {"large"}, 0),
        ({"name": "large-only", "wrappers": {"budget": 0}}, {"small"}, 0),
    ],
)
def test_a_baseline_uses_only_its_models(
    deployment: Deployment, policy: dict[str, object], authors: set[str], prm_calls: int
) -> None:
    [problem_id] = deployment.submit(1, policy=policy)
    [row] = deployment.finish([problem_id])
    assert row["status"] == "succeeded"
    assert {author for _, author, _ in deployment.trajectory(problem_id)} == authors
    assert row["prm_calls"] == prm_calls


def test_a_cascade_drafts_the_whole_solution_and_then_writes_it_again(deployment: Deployment) -> None:
    policy = {"name": "cascade", "parameters": {"threshold": 0.5}}
    [problem_id] = deployment.submit(1, policy=policy)
    [row] = deployment.finish([problem_id])
    assert (row["status"], row["verdict"], row["prm_calls"] > 0) == ("succeeded", "correct", True)
    assert {author for _, author, _ in deployment.trajectory(problem_id)} == {"large"}
    decided = deployment.rows("SELECT step, reason FROM audit WHERE problem_id = %s ORDER BY number", problem_id)
    reasons = ["least_score_below_threshold", *["taken_over"] * STEPS]
    assert [(each["step"], each["reason"]) for each in decided] == list(enumerate(reasons))


def test_after_an_escalation_the_large_model_takes_over(deployment: Deployment) -> None:
    [problem_id] = deployment.submit(1, policy={"wrappers": {"take_over": True}})
    deployment.finish([problem_id])
    authors = [author for _, author, _ in deployment.trajectory(problem_id)]
    assert authors == ["small" if index < BAD_STEP else "large" for index in range(STEPS + 1)]


def test_a_spent_budget_accepts_what_the_policy_would_escalate(deployment: Deployment) -> None:
    [problem_id] = deployment.submit(1, policy={"wrappers": {"budget": 0}})
    [row] = deployment.finish([problem_id])
    assert (row["status"], row["large_out"], row["large_calls"]) == ("succeeded", 0, 0)
    decided = deployment.rows(
        "SELECT step, decided_by, action FROM audit WHERE problem_id = %s AND reason = 'budget_spent'", problem_id
    )
    assert decided == [{"step": BAD_STEP, "decided_by": "rule", "action": "accept"}]


def test_each_problem_of_a_split_has_an_arm_and_each_decision_those_of_the_shadows(deployment: Deployment) -> None:
    split = [
        {"name": "strict", "policy": {"parameters": {"threshold": 0.95}}},
        {"name": "usual", "policy": {"parameters": {"threshold": 0.5}}},
    ]
    shadows = [{"parameters": {"threshold": 0.95}}, {"name": "small-only"}]
    rows = deployment.finish(deployment.submit(12, split=split, shadows=shadows))
    assert {row["status"] for row in rows} == {"succeeded"}
    threshold = {"strict": 0.95, "usual": 0.5}
    assert [row["policy_parameters"]["threshold"] for row in rows] == [threshold[row["arm"]] for row in rows]
    batch = deployment.api.batch(str(rows[0]["batch_id"]))
    for name, sums in batch["arms"].items():
        of_arm = [row for row in rows if row["arm"] == name]
        assert sums["size"] == len(of_arm)
        assert sums["ledger"]["large_out"] == sum(row["large_out"] for row in of_arm)

    for row in rows:
        decisions = list(deployment.api.items(f"/v1/problems/{row['id']}/decisions"))
        assert len(decisions) == row["decision_count"]
        for each in decisions:
            strict, small = each["shadows"]
            assert (strict["skipped"], small["skipped"]) == (None, None), each["shadows"]
            assert strict["action"] == ("escalate" if each["observation"]["score"] < 0.95 else "accept")
            assert strict["agrees"] == (strict["action"] == each["action"])
            assert small["agrees"] == (each["action"] == "accept")
            if row["arm"] == "strict":
                assert strict["policy"] == each["policy"]
                assert strict["agrees"]


def test_a_large_step_has_its_score_and_its_record(deployment: Deployment) -> None:
    [problem_id] = deployment.submit(1)
    deployment.finish([problem_id])
    [row] = deployment.rows("SELECT * FROM audit WHERE problem_id = %s AND step = %s", problem_id, BAD_STEP)
    assert (row["draft_score"], row["step_score"]) == (0.2, 1.0)
    assert (row["draft_model"], row["step_model"], row["prm_model"]) == (
        "scripted/small", "scripted/large", "scripted/prm",
    )  # fmt: skip
    assert (row["reason"], row["value"], row["compared_with"]) == ("score_below_threshold", 0.2, 0.5)


def test_a_draft_with_an_invalid_score_goes_to_the_large_model(deployment: Deployment) -> None:
    row = solve(deployment, "No score?")
    assert row["status"] == "succeeded"
    decided = deployment.rows("SELECT reason, draft_score FROM audit WHERE problem_id = %s ORDER BY number", row["id"])
    assert [each["reason"] for each in decided] == ["invalid_score", "invalid_score", "score_at_least_threshold"]
    assert [each["draft_score"] for each in decided] == [None, None, 0.9]


def test_a_model_that_writes_nothing_fails_the_problem_with_a_reason(deployment: Deployment) -> None:
    row = solve(deployment, "Nothing?")
    assert (row["status"], row["failure_code"]) == ("failed", "no_output")


def test_a_draft_without_words_goes_to_the_large_model(deployment: Deployment) -> None:
    row = solve(deployment, "Small writes nothing?")
    assert (row["status"], row["answer"]) == ("succeeded", "7")
    [decided] = deployment.rows("SELECT reason FROM decisions WHERE problem_id = %s", row["id"])
    assert decided["reason"] == "degenerate_draft"


def test_a_limit_ends_a_solution_with_its_reason(deployment: Deployment) -> None:
    assert solve(deployment, "What?", limits={"max_steps": 2})["stop_reason"] == "max_steps"
    assert solve(deployment, "What?", limits={"max_tokens": 12})["stop_reason"] == "token_limit"


def test_a_cancelled_problem_keeps_its_steps(deployment: Deployment) -> None:
    [problem_id] = deployment.submit_all([{"question": "Slow?"}], lookahead=4)
    deployment.until(lambda: deployment.trajectory(problem_id))
    deployment.api.cancel(problem_id)
    [row] = deployment.finish([problem_id])
    assert row["status"] == "cancelled"
    assert 0 < len(deployment.trajectory(problem_id)) < STEPS


def test_a_problem_past_its_deadline_expires(deployment: Deployment) -> None:
    [problem_id] = deployment.submit_all([{"question": "Slow?"}], deadline_s=0.5)
    [row] = deployment.finish([problem_id])
    assert row["status"] == "expired"


def test_a_step_that_takes_too_long_fails_the_problem_in_the_end(deployment: Deployment) -> None:
    row = solve(deployment, "Slow?", step_timeout_s=0.1, max_attempts=2)
    assert (row["status"], row["failure_code"]) == ("failed", "attempts_exhausted")


@contextmanager
def channel(deployment: Deployment) -> Iterator[tuple[Connection, Topology]]:
    """A connection of the test's own."""
    topology = Topology(deployment.settings.queue_prefix)
    connection = connect(deployment.settings)
    try:
        topology.declare(connection.default_channel)
        yield connection, topology
    finally:
        connection.release()


def send_raw(deployment: Deployment, role: QueueRole, body: bytes, **headers: str) -> None:
    """Put bytes on a queue as a broken or hostile sender would."""
    with channel(deployment) as (connection, topology):
        queue = topology.queue(role)
        Producer(connection.default_channel, auto_declare=False).publish(
            body, exchange=queue.exchange.name, routing_key=queue.routing_key, headers=headers,
            content_type="application/json", content_encoding="binary",
        )  # fmt: skip


def take_dead_letter(deployment: Deployment, role: QueueRole) -> tuple[bytes, str]:
    """Take one message from a dead-letter queue, waiting for it."""
    found = []
    with channel(deployment) as (connection, topology):
        queue = topology.dead_letters(role)(connection.default_channel)

        def look() -> bool:
            message = queue.get(no_ack=True)
            if message is not None:
                found.append(message)
            return bool(found)

        deployment.until(look)
    [message] = found
    body = message.body
    return body.encode() if isinstance(body, str) else bytes(body), message.headers[REASON_HEADER]


@pytest.mark.parametrize("role", ["small", "large", "prm", "events"])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{", {"task": COMMAND, "id": "1"}),
        (b"\xff\xfe", {"task": COMMAND, "id": "1"}),
        (b'{"kind": "unheard_of"}', {"task": COMMAND, "id": "1"}),
        (b'{"kind": "generate_steps", "version": 99}', {"task": COMMAND, "id": "1"}),
        (b"{}", {}),
        (b"{}", {"task": "os.system", "id": "1"}),
    ],
)
def test_an_undecodable_message_is_kept_with_its_reason_and_stops_nothing(
    deployment: Deployment, role: QueueRole, body: bytes, headers: dict[str, str]
) -> None:
    send_raw(deployment, role, body, **headers)
    kept, reason = take_dead_letter(deployment, role)
    assert kept == body
    assert reason
    assert solve(deployment, "Still there?")["status"] == "succeeded"


@pytest.mark.parametrize(
    ("role", "headers"),
    [
        ("prm", {"task": COMMAND, "id": "1"}),
        ("large", {"task": COMMAND, "id": "1"}),
        ("large", {}),
        ("events", {"task": COMMAND, "id": "1"}),
    ],
)
def test_a_command_on_the_wrong_queue_is_a_dead_letter(
    deployment: Deployment, role: QueueRole, headers: dict[str, str]
) -> None:
    now = datetime.now(UTC)
    command = GenerateSteps(
        id=uuid4(), problem_id=uuid4(), epoch=0, issued_at=now, expires_at=now + timedelta(minutes=1),
        request_number=0, step_timeout_s=1, question="What?", prefix=(), author=Author.SMALL, max_steps=1,
        max_step_tokens=9, max_tokens=9, results_to="events", sampling=Sampling(),
    )  # fmt: skip
    send_raw(deployment, role, encode(command), **headers)
    kept, reason = take_dead_letter(deployment, role)
    assert json.loads(kept)["kind"] == "generate_steps"
    assert reason == "generate_steps does not belong on this queue, but on that of small"


def test_an_event_of_an_unknown_problem_is_a_dead_letter(deployment: Deployment) -> None:
    event = WorkFailed(
        id=derive_id("x"),
        problem_id=uuid4(),
        epoch=0,
        request_number=0,
        role="small",
        code="x",
        detail="x",
        retryable=False,
        worker="w",
    )
    send_raw(deployment, "events", encode(event))
    kept, reason = take_dead_letter(deployment, "events")
    assert json.loads(kept)["problem_id"] == str(event.problem_id)
    assert reason.startswith("there is no such problem")
