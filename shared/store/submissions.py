"""Writes what users submit: problems, batches, and requests to cancel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any, Final, Literal, Protocol
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from shared.domain.arms import draw_arm
from shared.domain.options import Options, Plan, PolicyChoice
from shared.errors import PermanentError
from shared.store import policy_versions
from shared.store.change_feed import record_submissions
from shared.store.database import wake_orchestrators
from shared.store.quotas import check_backlog, hold_backlog
from shared.store.rows import choice_values, options_values
from shared.store.tables import Base, Batch, IdempotencyKey, Problem

PORTION: Final = 500
"""Maximum number of problems that one statement writes."""


class IdempotencyConflict(PermanentError):
    """This Idempotency-Key was used for another request; use a new key, or send the same request again."""

    code = "idempotency_conflict"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A policy that the submitter chose."""

    policy: PolicyChoice
    needs_version: bool = False
    """Whether the policy decides with an artefact: if the submitter named none, the default is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A policy that may decide a problem."""

    name: str | None = None
    """`None` if the submitter chose one policy and no split."""
    weight: float = 1.0
    chosen: Chosen
    plan: Plan = field(default_factory=Plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One problem, checked and complete."""

    question: str
    reference: str | None
    arms: tuple[Arm, ...]
    """At least one; the problem's id draws the one that decides."""
    shadows: tuple[Chosen, ...] = ()
    options: Options
    """The plan in it is replaced by that of the arm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """Identifies a request, so that a retry returns the result of the first."""

    key: str
    digest: str
    """Digest of the request's content."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The row that a request created, now or earlier."""

    id: UUID
    is_new: bool
    """Whether this request created it, rather than an earlier one with the same key."""
    policies: tuple[str, ...] = ()
    """Names of the policies that decide the problems that this request queued."""


def submit_problem(
    session: Session,
    tenant_id: UUID,
    submission: Submission,
    idempotency: Idempotency | None,
    *,
    silence_s: float,
    max_queued: int | None = None,
    problem_id: UUID | None = None,
) -> Stored:
    """Queue one problem.

    Args:
        session: The session.
        tenant_id: The submitter's tenant.
        submission: The problem.
        idempotency: Key and digest of the request, if it has a key.
        problem_id: Id that the problem gets, for a caller that waits for it before it exists; a new UUIDv7.
        silence_s: Seconds without a heartbeat after which a model no longer counts for the choice of a version, if
            another one runs in its place.
        max_queued: Maximum number of queued problems of a tenant that has no limit; `None` for no limit.

    Raises:
        IdempotencyConflict: The key belongs to another request.
        BacklogFull, LargerThanBacklog: The tenant's queue has no room. A repeated request needs none.
        UnknownVersion, RetiredVersion, NoDefault: The policy has no version for the problem.
        ModelsUnknown: The version depends on models that no worker has reported yet.
    """
    stored = _claim(session, tenant_id, "problem_id", idempotency, made=problem_id)
    if stored.is_new:
        limit = check_backlog(session, tenant_id, adding=1, max_queued=max_queued)
        values = _values(stored.id, submission, _Versions(session, silence_s))
        session.connection().execute(_INSERT_PROBLEM, {"tenant_id": tenant_id, **values})
        record_submissions(session, tenant_id, [stored.id])
        hold_backlog(session, tenant_id, limit=limit)
        wake_orchestrators(session, to="admit")
        stored = replace(stored, policies=(values["policy"],))
    return stored


class Submissions(Protocol):
    """Problems that are submitted together; they need not be in memory."""

    def __len__(self) -> int:
        """Count the problems."""
        ...

    def __iter__(self) -> Iterator[Submission]:
        """Yield the problems in their order."""
        ...


def submit_problems(
    session: Session,
    problems: Sequence[tuple[UUID, UUID, Submission]],
    *,
    silence_s: float,
    max_queued: int | None = None,
) -> list[Stored]:
    """Queue problems of several requests together, each with its tenant and its id; see `submit_problem`."""
    of_tenant = defaultdict[UUID, list[UUID]](list)
    for tenant_id, made, _ in problems:
        of_tenant[tenant_id].append(made)
    limits = {
        tenant_id: check_backlog(session, tenant_id, adding=len(ids), max_queued=max_queued)
        for tenant_id, ids in of_tenant.items()
    }
    versions = _Versions(session, silence_s)
    rows = [{"tenant_id": tenant_id, **_values(made, each, versions)} for tenant_id, made, each in problems]
    session.connection().execute(_INSERT_PROBLEM, rows)
    for tenant_id, ids in of_tenant.items():
        record_submissions(session, tenant_id, ids)
    for tenant_id in sorted(limits):  # In one order, as each may lock.
        hold_backlog(session, tenant_id, limit=limits[tenant_id])
    wake_orchestrators(session, to="admit")
    return [Stored(row["id"], is_new=True, policies=(row["policy"],)) for row in rows]


def submit_batch(
    session: Session,
    tenant_id: UUID,
    submissions: Submissions,
    idempotency: Idempotency | None,
    *,
    silence_s: float,
    max_queued: int | None = None,
) -> Stored:
    """Queue many problems together: all of them or none; see `submit_problem`."""
    stored = _claim(session, tenant_id, "batch_id", idempotency)
    if stored.is_new:
        limit = check_backlog(session, tenant_id, adding=len(submissions), max_queued=max_queued)
        session.execute(insert(Batch).values(id=stored.id, tenant_id=tenant_id, size=len(submissions)))
        # Ids that one process makes rise, so listings show a batch in its order.
        shared, versions = {"tenant_id": tenant_id, "batch_id": stored.id}, _Versions(session, silence_s)
        policies: list[str] = []
        numbered = enumerate(submissions)
        while portion := list(islice(numbered, PORTION)):
            rows = [
                {"batch_index": index, **shared, **_values(uuid7(), submission, versions)}
                for index, submission in portion
            ]
            session.execute(insert(Problem), rows)
            record_submissions(session, tenant_id, [row["id"] for row in rows])
            policies += [row["policy"] for row in rows]
        hold_backlog(session, tenant_id, limit=limit)
        wake_orchestrators(session, to="admit")
        stored = replace(stored, policies=tuple(policies))
    return stored


_INSERT_PROBLEM = insert(Base.metadata.tables[Problem.__tablename__])
"""On the table: an insert of the mapped class takes twice the processor time."""


def _claim(
    session: Session,
    tenant_id: UUID,
    result: Literal["problem_id", "batch_id"],
    idempotency: Idempotency | None,
    *,
    made: UUID | None = None,
) -> Stored:
    """Return a new id, or the id that an earlier request with this key created.

    A key that another transaction is inserting is awaited. The update that changes nothing returns the earlier row.
    """
    made = made or uuid7()
    if idempotency is None:
        return Stored(made, is_new=True)
    statement = postgres_insert(IdempotencyKey).values(
        {"tenant_id": tenant_id, "key": idempotency.key, "request_digest": idempotency.digest, result: made}
    )
    row = session.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "key"], set_={"request_digest": IdempotencyKey.request_digest}
        ).returning(getattr(IdempotencyKey, result), IdempotencyKey.request_digest)
    ).one()
    stored_id: UUID | None
    stored_id, digest = row
    if stored_id is None or digest != idempotency.digest:
        raise IdempotencyConflict
    return Stored(stored_id, is_new=stored_id == made)


class _Versions:
    """Chooses the versions of policies for the problems of one request, each once."""

    def __init__(self, session: Session, silence_s: float) -> None:
        self._session = session
        self._silence_s = silence_s
        self._chosen: dict[tuple[str, int | None], int] = {}

    def complete(self, chosen: Chosen) -> PolicyChoice:
        """Return a choice with its version."""
        if not chosen.needs_version:
            return chosen.policy
        key = chosen.policy.name, chosen.policy.version
        if key not in self._chosen:
            running = policy_versions.running_models(self._session, silence_s=self._silence_s)
            self._chosen[key] = policy_versions.choose_version(self._session, *key, running=running)
        return replace(chosen.policy, version=self._chosen[key])


def _values(problem_id: UUID, submission: Submission, versions: _Versions) -> dict[str, Any]:
    """Turn a submission into a row.

    Every arm gets its version although one decides: whether a submission is refused must not depend on a lot.
    """
    policies = [versions.complete(each.chosen) for each in submission.arms]
    drawn = draw_arm([each.weight for each in submission.arms], problem_id)
    arm, policy = submission.arms[drawn], policies[drawn]
    return {
        "id": problem_id,
        "question": submission.question,
        "reference": submission.reference,
        "policy": policy.name,
        "policy_revision": policy.revision,
        "policy_parameters": dict(policy.parameters),
        "policy_version": policy.version,
        "policy_wrappers": asdict(policy.wrappers),
        "arm": arm.name,
        "shadows": [choice_values(versions.complete(each)) for each in submission.shadows],
        "options": options_values(replace(submission.options, plan=arm.plan)),
        "deadline_at": submission.options.deadline_at,
    }
