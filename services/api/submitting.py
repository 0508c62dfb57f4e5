"""Checks submissions and completes them: what every way of submitting has in common."""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from services.api import schemas
from services.api.errors import InvalidSubmission
from shared.domain.options import Limits, Options, Sampling
from shared.errors import PermanentError
from shared.policies.registry import build_policy
from shared.settings import Settings
from shared.store.submissions import Idempotency, Submission


def check(body: schemas.ProblemRequest, settings: Settings, *, field: str) -> Submission:
    """Check what the schema cannot, and complete a submission.

    Raises:
        InvalidSubmission: A field is wrong; the error names it.
    """
    if len(body.question) > settings.max_question_chars:
        detail = f"The question has {len(body.question)} characters; at most {settings.max_question_chars} are taken."
        raise InvalidSubmission(f"{field}.question", detail)
    try:
        policy = build_policy(body.policy.name, body.policy.parameters)
    except PermanentError as error:
        raise InvalidSubmission(f"{field}.policy", error) from error
    seed = secrets.randbelow(schemas.MAX_SEED) if body.sampling.seed is None else body.sampling.seed
    deadline_at = None
    if body.deadline_s is not None:
        deadline_at = datetime.now(UTC) + timedelta(seconds=body.deadline_s)
    return Submission(
        question=body.question,
        reference=body.reference,
        policy=policy,
        options=Options(
            plan=policy.plan,
            lookahead=None if body.lookahead == "unlimited" else body.lookahead,
            limits=Limits(**body.limits.model_dump()),
            sampling=Sampling(**{**body.sampling.model_dump(), "seed": seed}),
            step_timeout_s=body.step_timeout_s,
            max_attempts=body.max_attempts,
            deadline_at=deadline_at,
        ),
    )


def idempotency(key: str | None, body: BaseModel) -> Idempotency | None:
    """Pair an idempotency key with the digest of the request's content."""
    if key is None:
        return None
    # What was sent, whatever its order: neither a default added later nor a reordered object makes it another request.
    content = json.dumps(body.model_dump(mode="json", exclude_unset=True), sort_keys=True)
    return Idempotency(key=key, digest=hashlib.sha256(content.encode()).hexdigest())
