"""The model of the capacity: from GPUs, workload and measured costs to what a deployment needs. Pure.

Rates are per second, and R is the number of accepted steps. Each step begins as a draft of the small model, is scored
by the PRM, and is decided by an orchestrator. A share of the steps is then written again by the large model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.capacity.costs import Costs
from bench.capacity.inputs import Engines, Workload, check
from bench.capacity.plans import Apis, Broker, Database, Orchestrators, OtherGpus, Plan, Work

BATCH_EVENTS = 64
"""Maximum number of events in one transaction: the default of `TRIM_BATCH_EVENTS`."""

LINGER_MS = 3
"""Milliseconds that a busy orchestrator waits for more events before a transaction."""

ORCHESTRATOR_POOL, API_POOL = 11, 21
"""Maximum number of database connections of one process: its pool with the overflow, and the one that listens."""

WINDOW_MARGIN = 1.2
"""Problems in flight, as a multiple of those of Little's law: steps differ in length, so some slots would run empty."""

DAY_S = 86_400

_ITERATIONS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """What is planned beyond the work itself."""

    headroom: float = 0.3
    """Share of every part but the small GPUs that stays free."""
    reads: float = 2
    """Number of times that a problem is read through the api."""
    orchestrators: int | None = None
    """Number of orchestrators; `None` is as many as needed."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check("headroom", self.headroom, below=1)
        check("reads", self.reads)
        if self.orchestrators is not None:
            check("orchestrators", self.orchestrators, least=1)

    @property
    def used(self) -> float:
        """Share of every part that is used."""
        return 1 - self.headroom


@dataclass(frozen=True, slots=True)
class _Flow:
    """What one accepted step causes."""

    events: float
    messages: float
    kb: float
    """Kilobytes of message bodies, each message once."""
    worker_messages: float
    worker_kb: float
    state_kb: float
    """Kilobytes of question and steps that the orchestrator reads with one event, and the draft."""


def plan(
    small_gpus: int, *, workload: Workload, engines: Engines, costs: Costs, margins: Margins | None = None
) -> Plan:
    """Compute what a number of small GPUs needs.

    A slot of a small engine is busy for a step, and empty for one hop until its next command arrives. So

        R = GPUs * concurrency / (seconds of a step + hop) / drafts per step

    Args:
        small_gpus: Number of GPUs with the small model, one worker each.
        workload: What problems are like.
        engines: Speeds of the models.
        costs: Measured costs of the service.
        margins: What is planned beyond the work itself.

    Raises:
        BadInput: A number is not usable.
    """
    check("small_gpus", small_gpus, least=1)
    margins, flow = margins or Margins(), _flow(workload, costs)
    slot_s = engines.small.seconds(workload.step_tokens) + costs.hop_ms / 1000
    steps = small_gpus * engines.small.concurrency / (slot_s * workload.drafts)
    events = steps * flow.events
    most = max_events_per_s(workload, costs) * margins.used
    count = margins.orchestrators or math.ceil(events / most)
    batch = batch_size(events / count, workload, costs)
    work = _work(steps, batch, slot_s=slot_s, workload=workload, engines=engines, costs=costs)
    gpus = _other_gpus(steps, workload, engines, margins)
    workers = small_gpus + gpus.prm + gpus.large
    cpu_ms = cpu_ms_per_step(workload, costs, events_per_transaction=batch, steps_per_s=steps, workers=workers)
    idle = idle_cores(costs, orchestrators=count, workers=workers)
    cores = {part: steps * value / 1000 + idle.get(part, 0) for part, value in cpu_ms.items()}
    apis = _apis(work.problems_per_s, costs, margins)
    return Plan(
        small_gpus=small_gpus,
        work=work,
        other_gpus=gpus,
        worker_cores=cores["worker"],
        orchestrators=Orchestrators(
            count=count,
            cores=cores["orchestrator"],
            events_per_s=events,
            events_per_transaction=batch,
        ),
        broker=Broker(
            messages_per_s=steps * flow.messages,
            mb_per_s=steps * flow.kb / 1000,
            cores=cores["rabbitmq"],
            mb_in_flight=work.window * flow.kb / flow.messages / 1000,
            connections=math.ceil(
                count * costs.orchestrator_broker_connections + workers * costs.worker_broker_connections
            ),
        ),
        database=_database(
            steps,
            events / batch,
            workload,
            costs,
            cores=cores["postgres"],
            connections=count * ORCHESTRATOR_POOL + apis.count * API_POOL,
        ),
        apis=apis,
    )


def cpu_ms_per_step(
    workload: Workload, costs: Costs, *, events_per_transaction: float, steps_per_s: float, workers: int
) -> dict[str, float]:
    """Return the CPU time of each part for one accepted step.

    Messages that arrive within a time t after the first of a group join it, so a group has 1 + rate * t of them.
    """
    flow = _flow(workload, costs)
    transactions, state_kb = flow.events / events_per_transaction, flow.events * flow.state_kb
    joined = 1 + steps_per_s * flow.messages * costs.broker_gather_ms / 1000
    worker_joined = 1 + steps_per_s * flow.worker_messages / workers * costs.worker_gather_ms / 1000
    return {
        "orchestrator": costs.orchestrator.ms(units=flow.events, groups=transactions, kb=state_kb),
        "postgres": costs.postgres.ms(units=flow.events, groups=transactions, kb=state_kb),
        "rabbitmq": costs.rabbitmq.ms(units=flow.messages, groups=flow.messages / joined, kb=flow.kb),
        "worker": costs.worker.ms(
            units=flow.worker_messages, groups=flow.worker_messages / worker_joined, kb=flow.worker_kb
        ),
    }


def idle_cores(costs: Costs, *, orchestrators: int, workers: int) -> dict[str, float]:
    """Return the CPU cores that each part uses while there is no problem."""
    return {
        "orchestrator": orchestrators * costs.idle_orchestrator_cores,
        "rabbitmq": costs.idle_broker_cores,
        "worker": workers * costs.idle_worker_cores,
    }


def max_events_per_s(workload: Workload, costs: Costs) -> float:
    """Return the events per second at which one orchestrator is always busy, with full transactions: B / T(B)."""
    return BATCH_EVENTS * 1000 / _busy_ms(BATCH_EVENTS, workload, costs)


def batch_size(events_per_s: float, workload: Workload, costs: Costs) -> float:
    """Return the events of one transaction of an orchestrator that receives events at random, at a rate.

    While it is busy with a transaction of b events for T(b), m = rate * T(b) further events arrive. They are its next
    transaction, or it waits for one: b = m + exp(-m). After a transaction of several events it lingers for more, so
    T(b) then includes `LINGER_MS`. The solution is found by iteration from b = 1, which only rises.
    """
    batch = 1.0
    for _ in range(_ITERATIONS):
        busy_ms = _busy_ms(batch, workload, costs) + LINGER_MS * (1 - 1 / batch)
        arriving = events_per_s * busy_ms / 1000
        batch = min(BATCH_EVENTS, arriving + math.exp(-arriving))
    return batch


def _busy_ms(events: float, workload: Workload, costs: Costs) -> float:
    """Return T(b), the time of one transaction: the orchestrator's work, its database session's, and one hop.

    An orchestrator applies events in one thread, which waits for the database and for the broker's confirms.
    """
    kb = events * _flow(workload, costs).state_kb
    work = (cost.ms(units=events, groups=1, kb=kb) for cost in (costs.orchestrator, costs.postgres))
    return sum(work) + costs.hop_ms


def _flow(workload: Workload, costs: Costs) -> _Flow:
    """Count what one step causes, without lookahead: with it, messages hold several drafts and are fewer.

    A command to the small model, one to the PRM and an event for each draft; a command to the large model and an event
    for each escalation.
    """
    drafts, escalated = workload.drafts, workload.escalated
    prefix, step = (tokens * workload.bytes_per_token for tokens in (workload.prefix_tokens, workload.step_tokens))
    generate, score = costs.generate_bytes + prefix, costs.score_bytes + prefix + step
    scored, generated = costs.scored_bytes + step, costs.generated_bytes + step
    between = drafts * score  # From one worker to another: two workers handle it.
    sent = drafts * (generate + score + scored) + escalated * (generate + generated)
    return _Flow(
        events=drafts + escalated,
        messages=3 * drafts + 2 * escalated,
        kb=sent / 1000,
        worker_messages=4 * drafts + 2 * escalated,
        worker_kb=(sent + between) / 1000,
        state_kb=(prefix + step) / 1000,
    )


def _work(steps: float, batch: float, *, slot_s: float, workload: Workload, engines: Engines, costs: Costs) -> Work:
    """Compute the problems in flight that keep the small GPUs full: R * seconds of a step (Little's law), and a margin.

    A step takes: write, score, decide; if it is escalated, also: write again, decide. With lookahead the small model
    writes on meanwhile, and waits after an escalation only.
    """
    decision_s = _busy_ms(batch, workload, costs) / 1000
    hop_s = costs.hop_ms / 1000
    score_s = engines.prm.seconds(engines.score_tokens(workload)) + hop_s + decision_s
    escalation_s = engines.large.seconds(workload.step_tokens) + 2 * hop_s + decision_s
    if workload.lookahead:
        step_s = workload.drafts * slot_s + workload.escalated * (score_s + escalation_s)
    else:
        step_s = workload.drafts * (slot_s + score_s) + workload.escalated * escalation_s
    return Work(
        steps_per_s=steps,
        problems_per_s=steps / workload.problem_steps,
        window=math.ceil(steps * step_s * WINDOW_MARGIN),
        step_seconds=step_s,
    )


def _other_gpus(steps: float, workload: Workload, engines: Engines, margins: Margins) -> OtherGpus:
    """Compute the GPUs of the other models: tokens per second / (speed of one GPU * used share)."""
    prm = steps * workload.drafts * engines.score_tokens(workload)
    large = steps * workload.escalated * workload.step_tokens
    return OtherGpus(
        prm=math.ceil(prm / (engines.prm.tokens_per_s * margins.used)),
        large=math.ceil(large / (engines.large.tokens_per_s * margins.used)),
        prm_tokens_per_s=prm,
        large_tokens_per_s=large,
    )


def _database(
    steps: float, transactions: float, workload: Workload, costs: Costs, *, cores: float, connections: int
) -> Database:
    """Compute what the database does, writes and keeps."""
    events, problems = steps * _flow(workload, costs).events, steps / workload.problem_steps
    text, question = (each * workload.bytes_per_token for each in (workload.step_tokens, workload.question_tokens))
    wal = (
        events * costs.wal_event_bytes
        + transactions * costs.wal_transaction_bytes
        + steps * text * costs.wal_text_bytes
    )
    kept = steps * (costs.step_row.of(text) + costs.decision_row.of(text)) + problems * costs.problem_row.of(question)
    inbox = events * costs.inbox_rows_per_event * costs.inbox_row.of(0)
    return Database(
        transactions_per_s=transactions + problems,
        cores=cores,
        connections=connections,
        wal_mb_per_s=wal / 1e6,
        kept_gb_per_day=kept * DAY_S / 1e9,
        inbox_gb=inbox * DAY_S / 1e9,
    )


def _apis(problems_per_s: float, costs: Costs, margins: Margins) -> Apis:
    """Compute the processes of the api; one uses one core at most."""
    cores = problems_per_s * (costs.submission_ms + margins.reads * costs.read_ms) / 1000
    return Apis(count=max(1, math.ceil(cores / margins.used)), cores=cores)
