"""Compares the model with the running service, on scripted GPUs and as large as the machine carries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.capacity.costs import Costs
from bench.capacity.draining import DrainRig
from bench.capacity.inputs import Engine, Engines, Workload
from bench.capacity.loads import WORD, Load, script
from bench.capacity.model import Margins, cpu_ms_per_step, idle_cores, plan
from bench.capacity.plans import Plan
from bench.capacity.rig import Observed, Rig, Run, roles_of
from bench.service import running_service

STEPS, ESCALATE_EVERY = 8, 4
STEP_TOKENS, TOKEN_MS = 60, 10.0
QUESTION_TOKENS = 150
CONCURRENCY = 64
SCORE_MS = 60.0
VARIANTS = 16

WORKLOAD = Workload(
    step_tokens=STEP_TOKENS,
    problem_steps=STEPS,
    question_tokens=QUESTION_TOKENS,
    bytes_per_token=len(WORD),
    escalated=((STEPS - 1) // ESCALATE_EVERY) / STEPS,
)
_GENERATOR = Engine(tokens_per_s=CONCURRENCY * 1000 / TOKEN_MS, concurrency=CONCURRENCY)
DRAIN = replace(WORKLOAD, problem_steps=1, question_tokens=WORKLOAD.prefix_tokens, escalated=0)
"""What the orchestrators apply alone: first steps after a question as long as the average prefix."""

ENGINES = Engines(
    small=_GENERATOR,
    large=_GENERATOR,
    # As the scripted PRM: each call takes the same time for each step that it scores, whatever else runs.
    prm=Engine(tokens_per_s=CONCURRENCY * STEP_TOKENS * 1000 / SCORE_MS, concurrency=CONCURRENCY),
)
"""GPUs of the script: 60 tokens in 600 ms, 64 at a time, so 6,400 tokens/s; scores in 60 ms."""

WARM_UP_S, OBSERVED_S = 5.0, 10.0
DRAINED = 1_500
"""Events that orchestrators apply while the workers are paused."""

PARTS: Mapping[str, Sequence[str]] = {
    "orchestrator": ("orchestrator",),
    "worker": ("small", "prm", "large"),
    "rabbitmq": ("rabbitmq",),
    "postgres": ("postgres",),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The model and the service beside each other, for a number of scripted GPUs and of orchestrators."""

    costs: Costs
    planned: Plan
    observed: Observed

    def rows(self) -> Iterator[tuple[str, float, float]]:
        """Yield name, predicted and measured value. CPU time is predicted for the measured rate."""
        run, planned = self.observed.run, self.planned
        batch = run.steps * planned.orchestrators.events_per_s / planned.work.steps_per_s / run.transactions
        yield "steps/s", planned.work.steps_per_s, run.steps_per_s
        yield "events per transaction", planned.orchestrators.events_per_transaction, batch
        workers = planned.small_gpus + planned.other_gpus.prm + planned.other_gpus.large
        rate = {"events_per_transaction": batch, "steps_per_s": run.steps_per_s}
        predicted = cpu_ms_per_step(WORKLOAD, self.costs, workers=workers, **rate)
        for part, cores in idle_cores(self.costs, orchestrators=planned.orchestrators.count, workers=workers).items():
            predicted[part] += cores * 1000 / run.steps_per_s
        measured = {part: sum(run.cpu_s[role] for role in roles) * 1000 / run.steps for part, roles in PARTS.items()}
        for part in PARTS:
            yield f"CPU ms per step: {part}", predicted[part], measured[part]
        yield "CPU ms per step: all", sum(predicted.values()), sum(measured.values())


def compare(
    server_url: str, broker_url: str, costs: Costs, *, small_gpus: int, orchestrators: int, repeats: int
) -> list[Comparison]:
    """Run the service on scripted GPUs as the model plans it, and observe it several times.

    Args:
        server_url: Database of a server on which others can be created.
        broker_url: URL of RabbitMQ.
        costs: Measured costs.
        small_gpus: Number of small workers.
        orchestrators: Number of orchestrators.
        repeats: Number of observations.
    """
    planned = plan(
        small_gpus, workload=WORKLOAD, engines=ENGINES, costs=costs, margins=Margins(orchestrators=orchestrators)
    )
    seconds = WARM_UP_S + OBSERVED_S * repeats + 2 * STEPS * planned.work.step_seconds + 5
    load = Load(
        name="check",
        in_flight=math.ceil(planned.work.problems_per_s * seconds) + planned.work.window,
        steps=STEPS,
        step_tokens=STEP_TOKENS,
        question_tokens=QUESTION_TOKENS,
        escalate_every=ESCALATE_EVERY,
        small_ms=STEP_TOKENS * TOKEN_MS,
        large_ms=STEP_TOKENS * TOKEN_MS,
        prm_ms=SCORE_MS,
        variants=VARIANTS,
    )
    with running_service(
        server_url,
        broker_url,
        Rig,
        window=planned.work.window,
        script=script([load]),
        roles=roles_of(
            orchestrator=orchestrators,
            small=small_gpus,
            prm=max(1, planned.other_gpus.prm),
            large=max(1, planned.other_gpus.large),
        ),
        environment={"TRIM_CONCURRENCY": str(CONCURRENCY)},
    ) as rig:
        rig.start(load, warm_up_s=WARM_UP_S)
        return [Comparison(costs, planned, rig.observe(OBSERVED_S)) for _ in range(repeats)]


def drain(server_url: str, broker_url: str, *, orchestrators: int, repeats: int) -> list[Run]:
    """Let orchestrators apply waiting events while no worker runs, several times."""
    load = Load(
        name="drain", in_flight=DRAINED, steps=2, step_tokens=STEP_TOKENS, question_tokens=int(DRAIN.question_tokens)
    )
    with running_service(
        server_url,
        broker_url,
        DrainRig,
        window=DRAINED,
        script=script([load]),
        roles=roles_of(orchestrator=orchestrators, small=1, prm=1, large=1),
    ) as rig:
        return [rig.drain(load) for _ in range(repeats)]
