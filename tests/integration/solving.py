"""Problems on a real database, and the events that workers would report for them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from services.orchestrator.applying import Outgoing
from services.orchestrator.batches import Applied, apply_deliveries
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.setting_aside import SetAside
from services.orchestrator.sweeping import admit
from shared.bus.consumer import Delivery
from shared.domain.drafts import Draft, Finish, Scoring
from shared.domain.options import Options, Plan, PolicyChoice
from shared.domain.text import prefix_digest
from shared.messages import GenerateSteps, ProblemEvent, StepsGenerated, StepsScored, WorkFailed, derive_id, encode
from shared.store.database import Database
from shared.store.reasoning_state import PostgresStore
from shared.store.submissions import Arm, Chosen, Submission, submit_problem
from shared.store.tables import DEFAULT_TENANT

NOW = datetime.now(UTC) + timedelta(hours=1)
"""Time at which problems are solved; the database's clock gives that of their submission."""
WINDOW = 1000


def make_submission(
    question: str = "What is 6 times 7?",
    *,
    reference: str | None = None,
    shadows: Sequence[PolicyChoice] = (),
    **options: Any,
) -> Submission:
    policy = PolicyChoice(name="threshold", revision=1, parameters={"threshold": 0.5})
    arm = Arm(chosen=Chosen(policy), plan=options.get("plan", Plan()))
    chosen = tuple(Chosen(each) for each in shadows)
    return Submission(question=question, reference=reference, arms=(arm,), shadows=chosen, options=Options(**options))


def submit(
    database: Database, *, tenant_id: UUID = DEFAULT_TENANT, reference: str | None = None, **options: Any
) -> UUID:
    with database.session() as session:
        return submit_problem(
            session, tenant_id, make_submission(reference=reference, **options), None, silence_s=15
        ).id


def start(database: Database, *, now: datetime = NOW) -> dict[UUID, GenerateSteps]:
    """Admit what is queued; return the commands by problem."""
    store = PostgresStore(database)
    commands = admit(store, window=WINDOW, policies=PolicyCache(store), now=lambda: now).outgoing
    return {each.problem_id: each for each in commands if isinstance(each, GenerateSteps)}


def write(
    command: GenerateSteps, *texts: str, score: float | None = 0.9, prefix_score: float | None = 0.5
) -> ProblemEvent:
    """Carry out a command as a worker does: write steps, and score them if the command requires it."""
    if command.results_to == "events":
        return report(command, *texts)
    return StepsScored(
        problem_id=command.problem_id,
        epoch=command.epoch,
        id=derive_id(command.id, "scored"),
        drafts=_draft(command, texts),
        scores=(score,) * len(texts),
        prefix_scores=(prefix_score,) * command.unscored_steps,
        scoring=Scoring(
            id=derive_id(command.id, "scoring"), model="prm-model", worker="worker-2", tokens=9, waited_ms=1.0,
            worked_ms=2.0,
        ),
    )  # fmt: skip


def report(command: GenerateSteps, *texts: str) -> StepsGenerated:
    """Report steps that are not scored, or not yet."""
    return StepsGenerated(
        problem_id=command.problem_id,
        epoch=command.epoch,
        id=derive_id(command.id, "generated"),
        drafts=_draft(command, texts),
    )


def fail(problem_id: UUID) -> WorkFailed:
    """Report that a command of a problem's first request failed permanently."""
    return WorkFailed(
        id=derive_id(problem_id), problem_id=problem_id, epoch=0, request_number=0, role="small", code="broken",
        detail="Broken.", retryable=False, worker="w",
    )  # fmt: skip


def deliver(body: bytes, *, deliveries: int = 1) -> Delivery:
    return Delivery(body=body, is_redelivered=deliveries > 1, deliveries=deliveries)


def hear(database: Database, *events: ProblemEvent, now: datetime = NOW) -> list[Outgoing]:
    """Apply events as an orchestrator does."""
    return take(database, *(deliver(encode(each)) for each in events), now=now).outgoing


def take(database: Database, *deliveries: Delivery, aside: SetAside | None = None, now: datetime = NOW) -> Applied:
    """Apply messages as an orchestrator does."""
    store = PostgresStore(database)
    aside = SetAside(monotonic=time.monotonic) if aside is None else aside
    return apply_deliveries(store, deliveries, aside=aside, policies=PolicyCache(store), now=lambda: now)


def follow(outgoing: Sequence[Outgoing]) -> GenerateSteps:
    """Return the only command to a generator."""
    [command] = [each for each in outgoing if isinstance(each, GenerateSteps)]
    return command


def solve(database: Database, problem_id: UUID) -> None:
    """Solve a queued problem in three steps: one kept, one escalated, one kept that holds the answer."""
    solve_from(database, start(database)[problem_id])


def solve_from(database: Database, command: GenerateSteps, *, now: datetime = NOW) -> None:
    """Solve a problem that was just admitted, as `solve` does."""
    moments = [now + timedelta(seconds=number) for number in range(1, 5)]
    command = follow(hear(database, write(command, "Six sevens are wanted.", score=0.9), now=moments[0]))
    command = follow(hear(database, write(command, "That makes 41.", score=0.25), now=moments[1]))
    command = follow(hear(database, write(command, "That makes 42."), now=moments[2]))
    assert hear(database, write(command, "Hence \\boxed{42}", score=0.75), now=moments[3]) == []


def empty(database: Database) -> None:
    """Empty all tables; the triggers of `decisions` would refuse it."""
    with database.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        tables = "batches, problems, idempotency_keys, steps, decisions, shadow_decisions, inbox, processes, changes"
        connection.execute(text(f"TRUNCATE {tables}"))
        connection.execute(text("DELETE FROM tenants WHERE name <> 'default'"))


def execute(database: Database, statement: str, **values: Any) -> None:
    with database.begin() as connection:
        connection.execute(text(statement), values)


def rows(database: Database, query: str, **values: Any) -> list[dict[str, Any]]:
    with database.begin() as connection:
        return [dict(each) for each in connection.execute(text(query), values).mappings()]


def _draft(command: GenerateSteps, texts: Sequence[str]) -> tuple[Draft, ...]:
    first = command.first_step
    return tuple(
        Draft(
            id=derive_id(command.id, first + number), author=command.author, index=first + number,
            prefix_digest=prefix_digest(command.question, [*command.prefix, *texts[:number]]), text=words,
            finish=Finish.SEPARATOR, tokens=5, opens_call=number == 0, prompt_tokens=10, cached_tokens=4,
            model=f"{command.author}-model", worker="worker-1", waited_ms=1.0, worked_ms=2.0,
        )
        for number, words in enumerate(texts)
    )  # fmt: skip
