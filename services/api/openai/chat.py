"""The endpoint for chat completions: one question, answered by its solution."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request, Response
from uuid_utils.compat import uuid7

from services.api.counting import UNTIMED
from services.api.dependencies import (
    IdempotencyKey,
    RootPath,
    WithFollowing,
    WithSettings,
    WithSolving,
    WithTenant,
)
from services.api.openai.completing import complete
from services.api.openai.described import refusals
from services.api.openai.questions import check_chat
from services.api.openai.requests import ChatRequest
from services.api.openai.responses import ChatCompletion
from services.api.openai.solving import Asked
from services.api.openai.streaming import CompletionStream
from services.api.route import CheckedRoute
from services.api.streaming import EventStream
from services.api.submitting import Checked, idempotency
from shared.store.awaited import Try
from shared.store.submissions import Idempotency

_SOLVED: Final[dict[str, Any]] = {
    "description": "The solution. With `stream`, server-sent events whose data are chunks: the first with the role, "
    "one for each step, one with the `finish_reason`, one with the usage if `stream_options.include_usage` asks for "
    "it, and `[DONE]`. A comment comes after 15 seconds without an event. An error in mid-stream is an event with "
    "`error`.",
    "content": {EventStream.media_type: {"schema": {"type": "string"}}},
}

router = APIRouter(prefix="/v1/chat", tags=["openai"], route_class=CheckedRoute)


@router.post(
    "/completions",
    response_model=ChatCompletion,
    responses={200: _SOLVED, **refusals(404, 408, 409, 413, 415, 503, 504)},
)
async def complete_chat(  # noqa: PLR0917 - FastAPI passes arguments by name
    body: ChatRequest,
    request: Request,
    settings: WithSettings,
    solving: WithSolving,
    following: WithFollowing,
    tenant_id: WithTenant,
    root_path: RootPath,
    idempotency_key: IdempotencyKey = None,
    retry_count: Annotated[
        str | None,
        Header(
            alias="X-Stainless-Retry-Count",
            max_length=20,
            description="Number of times that the client has sent the request before. OpenAI's clients send it. A "
            "retry gets the solution of the problem that an earlier try made.",
        ),
    ] = None,
) -> Response:
    """Solve one question, and answer with the solution once it is complete, or step by step."""
    request.scope[UNTIMED] = True
    checked = check_chat(body, settings)
    tried = Try(
        digest=hashlib.sha256(await request.body()).hexdigest(),
        is_retry=retry_count not in (None, "", "0"),
        idempotency=_idempotency(idempotency_key, checked),
    )
    asked = Asked(
        body=body,
        request=request,
        tenant_id=tenant_id,
        root_path=root_path,
        submission=checked.submission,
        tried=tried,
    )
    if body.stream:
        _, hold = await solving.submit(asked, problem_id=uuid7())
        return CompletionStream(asked, hold, solving=solving, following=following)
    problem, steps = await solving.solve(asked)
    return Response(complete(problem, steps, body).model_dump_json(), media_type="application/json")


def _idempotency(key: str | None, checked: Checked) -> Idempotency | None:
    """Identify a request by its client's key. One that the native API has used is refused.

    What a client of this endpoint leaves is cancelled, and the submitter of the native problem has not left.
    """
    found = idempotency(key, checked)
    return None if found is None else replace(found, digest=f"completion {found.digest}")
