"""Turns requests into submissions: checks, defaults, idempotency. Every front door that submits problems uses it."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from services.api.errors import InvalidSubmission
from services.api.schemas.submissions import MAX_SEED, BatchRequest, Choices, PolicyChoice, ProblemRequest
from shared.domain.options import Limits, Options, Sampling, Wrappers
from shared.errors import PermanentError
from shared.policies.policy import FittedPolicy
from shared.policies.registry import build_routing
from shared.policies.wrapping import Routing
from shared.settings import Settings
from shared.store.submissions import Idempotency, Submission

_MERGED = ("limits", "sampling")
"""Fields that a batch's defaults complete field by field; other fields are replaced as a whole."""


def check_problem(body: ProblemRequest, settings: Settings, *, field: str = "body") -> Submission:
    """Check what the schema cannot, and turn a request into a submission.

    Args:
        body: The request.
        settings: Settings of the process.
        field: Place of the problem in the request, for error messages.

    Raises:
        InvalidSubmission: A field is wrong; the error names it.
    """
    if len(body.question) > settings.max_question_chars:
        detail = f"The question has {len(body.question)} characters; the maximum is {settings.max_question_chars}."
        raise InvalidSubmission(f"{field}.question", detail)
    routing = _routing(body.policy, field=f"{field}.policy")
    seed = secrets.randbelow(MAX_SEED) if body.sampling.seed is None else body.sampling.seed
    deadline_at = None
    if body.deadline_s is not None:
        deadline_at = datetime.now(UTC) + timedelta(seconds=body.deadline_s)
    return Submission(
        question=body.question,
        reference=body.reference,
        policy=replace(routing.choice, version=body.policy.version),
        needs_version=isinstance(routing.policy, FittedPolicy),
        options=Options(
            plan=routing.plan,
            lookahead=None if body.lookahead == "unlimited" else body.lookahead,
            limits=Limits(**body.limits.model_dump()),
            sampling=Sampling(**{**body.sampling.model_dump(), "seed": seed}),
            step_timeout_s=body.step_timeout_s,
            max_attempts=body.max_attempts,
            deadline_at=deadline_at,
        ),
    )


def _routing(choice: PolicyChoice, *, field: str) -> Routing:
    """Build what a submission chooses, without the artefact of a fitted policy.

    Raises:
        InvalidSubmission: It chooses no policy, or one with wrong parameters.
    """
    try:
        routing = build_routing(choice.name, choice.parameters, Wrappers(**choice.wrappers.model_dump()))
    except PermanentError as error:
        raise InvalidSubmission(field, error) from error
    if choice.version is not None and not isinstance(routing.policy, FittedPolicy):
        detail = f"The policy {choice.name!r} is not fitted to models, so it has no versions; omit `version`."
        raise InvalidSubmission(f"{field}.version", detail)
    return routing


def check_batch(body: BatchRequest, settings: Settings) -> Sequence[Submission]:
    """Check the problems of a batch, completed with its defaults, and turn them into submissions.

    Raises:
        InvalidSubmission: A field is wrong; the error names it.
    """
    if len(body.problems) > settings.max_batch_size:
        detail = f"The batch has {len(body.problems)} problems; the maximum is {settings.max_batch_size}."
        raise InvalidSubmission("body.problems", detail)
    return [
        check_problem(_completed(each, body.defaults), settings, field=f"body.problems.{index}")
        for index, each in enumerate(body.problems)
    ]


def idempotency(key: str | None, body: BaseModel) -> Idempotency | None:
    """Pair an idempotency key with the digest of the request."""
    if key is None:
        return None
    # Unset fields are left out and objects sorted: neither a new default nor another order makes a different request.
    content = json.dumps(body.model_dump(mode="json", exclude_unset=True), sort_keys=True)
    return Idempotency(key=key, digest=hashlib.sha256(content.encode()).hexdigest())


def _completed(problem: ProblemRequest, defaults: Choices) -> ProblemRequest:
    """Add the defaults of a batch to a problem that omits them."""
    given = problem.model_dump(exclude_unset=True)
    default = defaults.model_dump(exclude_unset=True)
    merged = {name: {**default.get(name, {}), **given.get(name, {})} for name in _MERGED}
    return ProblemRequest.model_validate({**default, **given, **merged})
