"""Each kind of message has one queue; from any other one it is refused, and nobody acts on it."""

from __future__ import annotations

import pytest

from services.orchestrator.receiving import receive
from shared.bus.consumer import Delivery
from shared.bus.topology import EVENTS, QUEUES, QueueRole, decode_from, queue_of
from shared.domain.roles import Author, WorkerRole
from shared.domain.status import Status
from shared.messages import (
    CancelWork,
    GenerateSteps,
    Message,
    ScoreSteps,
    StepsGenerated,
    StepsScored,
    UndecodableMessage,
    WorkCancelled,
    WorkerSeen,
    WorkFailed,
    encode,
)
from shared.policies.registry import build_policy
from simulation.disturbed import DisturbedService
from simulation.world import World
from tests.unit.worker.working import golden

CARRIED: list[tuple[Message, QueueRole | None]] = [
    (golden(GenerateSteps, author=Author.SMALL), WorkerRole.SMALL),
    (golden(GenerateSteps, author=Author.LARGE), WorkerRole.LARGE),
    (golden(ScoreSteps), WorkerRole.PRM),
    *((golden(kind), EVENTS) for kind in (StepsGenerated, StepsScored, WorkFailed, WorkCancelled, WorkerSeen)),
    (golden(CancelWork), None),
]


@pytest.mark.parametrize(("message", "queue"), CARRIED)
@pytest.mark.parametrize("role", QUEUES)
def test_a_message_is_taken_from_its_own_queue_and_refused_from_every_other(
    message: Message, queue: QueueRole | None, role: QueueRole
) -> None:
    assert queue_of(message) == queue
    if role == queue:
        assert decode_from(role, encode(message)) == message
        return
    with pytest.raises(UndecodableMessage) as refused:
        decode_from(role, encode(message))
    assert refused.value.reason.startswith(f"{message.kind} does not belong on this queue")
    assert refused.value.reason.endswith(queue or "queue"), "it names the queue that carries the message"
    assert refused.value.raw == encode(message)


def test_the_orchestrator_buries_a_command_that_was_moved_to_its_queue() -> None:
    command = encode(golden(GenerateSteps))
    heard, [letter] = receive([Delivery(body=command, is_redelivered=False, deliveries=1)])
    assert heard == []
    assert (letter.role, letter.body) == (EVENTS, command)


@pytest.mark.parametrize("policy", ["small-only", "large-only"])
@pytest.mark.parametrize("queue", QUEUES)
def test_a_command_on_the_queue_of_another_role_is_written_by_nobody_and_requested_again(
    policy: str, queue: QueueRole
) -> None:
    service = DisturbedService(World(seed=3))
    problem_id = service.submit("What?", build_policy(policy, {}))
    service.sweep()
    carrier = service.bus.letters[0].queue
    service.bus.misplace(0, queue)
    service.accepts_dead_letters = True
    service.settle()
    assert [letter.role for letter in service.bus.dead_letters] == ([] if queue == carrier else [queue])
    state = service.state(problem_id)
    assert state.status is Status.SUCCEEDED
    assert {step.model for step in state.steps} == {f"{carrier}-model"}
