"""Scores steps with a process reward model behind vLLM."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import httpx2
from pydantic import BaseModel, BeforeValidator, Field

from shared.cancellation import Cancellation
from shared.engines.openai.answers import Usage
from shared.engines.openai.server import Server
from shared.engines.port import Scores, ScoringRequest
from shared.engines.prm_formats import LIKELIEST, NextToken, PrmFormat, Tagged


class _Output(BaseModel):
    data: list[object]


class _Pooled(BaseModel):
    data: Annotated[list[_Output], Field(min_length=1)]
    usage: Usage


def _token_id(key: object) -> object:
    return key.removeprefix("token_id:") if isinstance(key, str) else key


class _Logprobs(BaseModel):
    top_logprobs: Annotated[
        list[dict[Annotated[int, BeforeValidator(_token_id)], float | None]], Field(min_length=1, max_length=1)
    ]


class _Choice(BaseModel):
    logprobs: _Logprobs


class _Expected(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: Usage


class OpenAIScorer:
    """Scores steps with a PRM of any family: one request to `/pooling` for all of them, or one completion for each."""

    def __init__(self, server: Server, prm_format: PrmFormat) -> None:
        """Take a server.

        Args:
            server: Where the model is served; closed with the engine.
            prm_format: How the model is asked, and how its answer is read.
        """
        self._server = server
        self._format = prm_format

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return f"openai/{self._server.endpoint.model}"

    def score(self, request: ScoringRequest, cancellation: Cancellation) -> Scores:
        """Score the newest steps of a solution; see `Scorer.score`, and `Server.ask` for the errors of the server.

        Raises:
            BadScores: The answer is not what a model of the format says.
        """
        if not request.steps:
            return Scores(values=(), tokens=0)
        deadline = time.monotonic() + request.timeout_s
        if isinstance(self._format, Tagged):
            return self._score_tags(self._format, request, cancellation, deadline)
        return self._score_next_tokens(self._format, request, cancellation, deadline)

    def check(self) -> None:
        """Do nothing: a server that is away may come back."""

    def close(self) -> None:
        """End the connection; calls that still run raise `EngineStopped`."""
        self._server.close()

    def _score_tags(
        self, prm_format: Tagged, request: ScoringRequest, cancellation: Cancellation, deadline: float
    ) -> Scores:
        place = self._server.endpoint
        pooled = self._server.ask(
            place.url.removesuffix("/v1") + "/pooling",  # of vLLM's own, beside OpenAI's
            {"model": place.model, "input": prm_format.prompt(request.question, request.steps)},
            _read_pooled,
            cancellation=cancellation,
            deadline=deadline,
        )
        scores = prm_format.scores(pooled.data[0].data, len(request.steps))
        return Scores(values=scores[-request.newest :], tokens=_computed(pooled.usage))

    def _score_next_tokens(
        self, prm_format: NextToken, request: ScoringRequest, cancellation: Cancellation, deadline: float
    ) -> Scores:
        """Ask about one step after the other, oldest first: each input is the beginning of the next one."""
        values, tokens = [], 0
        for end in range(max(1, len(request.steps) - request.newest + 1), len(request.steps) + 1):
            expected = self._server.ask(
                self._server.endpoint.url + "/completions",
                self._asked(prm_format.prompt(request.question, request.steps[:end])),
                _read_expected,
                cancellation=cancellation,
                deadline=deadline,
            )
            values.append(prm_format.score(expected.choices[0].logprobs.top_logprobs[0]))
            tokens += _computed(expected.usage)
        return Scores(values=values, tokens=tokens)

    def _asked(self, prompt: str) -> Mapping[str, Any]:
        return {
            "model": self._server.endpoint.model,
            "prompt": prompt,
            "max_tokens": 1,  # what is not written has no log-probabilities
            "temperature": 0,
            "logprobs": LIKELIEST,
            "return_tokens_as_token_ids": True,  # of vLLM's own
        }


def _computed(usage: Usage) -> int:
    return usage.prompt_tokens - usage.cached_tokens


async def _read_pooled(response: httpx2.Response) -> _Pooled:
    return _Pooled.model_validate_json(await response.aread())


async def _read_expected(response: httpx2.Response) -> _Expected:
    return _Expected.model_validate_json(await response.aread())
