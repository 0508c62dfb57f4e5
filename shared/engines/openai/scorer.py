"""Scores steps with a process reward model behind vLLM."""

from __future__ import annotations

import math
import time

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.domain.text import STEP_TAG
from shared.engines.openai.answers import Usage
from shared.engines.openai.prompts import fill
from shared.engines.openai.server import Server
from shared.engines.openai.special import as_plain_text
from shared.engines.port import BadScores, Cancellation, Scores, ScoringRequest

_ROWS = TypeAdapter(list[tuple[float | None, float | None]])


class _Output(BaseModel):
    data: list[object]


class _Pooled(BaseModel):
    data: list[_Output]
    usage: Usage


class OpenAIScorer:
    """Scores steps with a PRM of Qwen's kind, served by vLLM with step pooling: one row a step, wrong and right."""

    def __init__(self, server: Server, *, template: str) -> None:
        """Take a server.

        Args:
            server: Where the model is served; closed with the engine.
            template: Of the input, with `{question}` in it; steps follow it, each with its tag.
        """
        self._server = server
        self._template = template

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return f"openai/{self._server.endpoint.model}"

    def score(self, request: ScoringRequest, cancellation: Cancellation) -> Scores:
        """Score the newest steps of a solution; see `Scorer.score`, and `Server.ask` for the errors of the server.

        Raises:
            BadScores: The answer has not one row of two numbers for each step.
        """
        if not request.steps:
            return Scores(values=(), tokens=0)
        place = self._server.endpoint
        tagged = "".join(as_plain_text(step) + STEP_TAG for step in request.steps)
        pooled = self._server.ask(
            place.url.removesuffix("/v1") + "/pooling",  # of vLLM's own, beside OpenAI's
            {"model": place.model, "input": fill(self._template, request.question) + tagged},
            _read,
            cancellation=cancellation,
            deadline=time.monotonic() + request.timeout_s,
        )
        try:
            rows = _ROWS.validate_python(pooled.data[0].data)
        except (ValidationError, IndexError):
            raise BadScores(
                f"{place.model} did not answer with two numbers a step; check that {place.model_setting} is a PRM,"
                " served with step pooling."
            ) from None
        if len(rows) != len(request.steps):
            raise BadScores(
                f"{place.model} gave {len(rows)} scores for {len(request.steps)} steps; check that"
                f" {place.model_setting} is a PRM, served with step pooling, and TRIM_OPENAI_PRM_PROMPT."
            )
        right = [math.nan if row[1] is None else row[1] for row in rows[-request.newest :]]
        return Scores(values=right, tokens=pooled.usage.prompt_tokens - pooled.usage.cached_tokens)

    def close(self) -> None:
        """End the connection; calls that still run raise `EngineStopped`."""
        self._server.close()


async def _read(response: httpx2.Response) -> _Pooled:
    return _Pooled.model_validate_json(await response.aread())
