"""The ideal: the service's state machine and its workers' code in a loop in memory."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

from bench.design import STEPS
from bench.service import POLICY, SCRIPT
from services.generator.writing import Writing
from services.prm.scoring import score
from shared.cancellation import Cancellation
from shared.domain.options import Options
from shared.domain.roles import Author
from shared.domain.status import Status
from shared.engines.scripted import Script, ScriptedGenerator, ScriptedScorer
from shared.machine.commands import next_commands
from shared.machine.state import ProblemAdmitted, new_state
from shared.machine.transitions import apply
from shared.messages import GenerateSteps, Message, ScoreSteps


def measure_ideal(problems: int) -> float:
    """Solve problems one after the other; return steps per second."""
    script = Script.model_validate(SCRIPT)
    writers = {role: ScriptedGenerator(script, role) for role in Author}
    scorer, cancellation = ScriptedScorer(script), Cancellation()
    started = time.perf_counter()
    for index in range(problems):
        state = new_state(problem_id=uuid4(), question=f"What is {index}?", options=Options(plan=POLICY.plan))
        state = apply(state, ProblemAdmitted(), decide=POLICY.decide, now=datetime.now(UTC))
        while state.status is Status.RUNNING:
            messages: list[Message] = []
            for command in next_commands(state):
                assert isinstance(command, GenerateSteps)
                writing = Writing(command, writers[command.role], worker="ideal", publish=messages.append)
                writing.run(cancellation, may_send=lambda: True)
            for message in messages:
                assert isinstance(message, ScoreSteps)
                event = score(message, cancellation, engine=scorer, worker="ideal")
                state = apply(state, event, decide=POLICY.decide, now=datetime.now(UTC))
            state = replace(state, decisions=())
    return problems * STEPS / (time.perf_counter() - started)
