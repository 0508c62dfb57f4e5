"""Scores steps with a process reward model on a server of vLLM."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, assert_never

import httpx2
from pydantic import BaseModel, BeforeValidator, Field

from shared.cancellation import Cancellation
from shared.engines.openai.events import read_value
from shared.engines.openai.server import Server
from shared.engines.openai.usage import Usage, estimate_tokens
from shared.engines.port import Meter, Scores, ScoringRequest
from shared.engines.prm_formats import LIKELIEST, NextToken, PrmFormat, Tagged, prm_id

Answer = TypeVar("Answer", bound="_Answer")


def _usage(value: object) -> object:
    return value if isinstance(value, Usage) else Usage.read(value)


class _Answer(BaseModel):
    usage: Annotated[Usage, BeforeValidator(_usage)] = Usage()


class _Output(BaseModel):
    data: list[object]


class _Pooled(_Answer):
    data: Annotated[list[_Output], Field(min_length=1)]


def _token_id(key: object) -> object:
    return key.removeprefix("token_id:") if isinstance(key, str) else key


class _Logprobs(BaseModel):
    top_logprobs: Annotated[
        list[dict[Annotated[int, BeforeValidator(_token_id)], float | None]], Field(min_length=1, max_length=1)
    ]


class _Choice(BaseModel):
    logprobs: _Logprobs


class _Expected(_Answer):
    choices: Annotated[list[_Choice], Field(min_length=1)]


_INPUTS = ("input", "prompt")


class OpenAIScorer:
    """Scores steps with a PRM of any family: one request to `/pooling` for all steps, or one completion for each."""

    def __init__(self, server: Server, prm_format: PrmFormat) -> None:
        """Take a server.

        Args:
            server: Serves the model; the scorer closes it.
            prm_format: Writes the model's input and reads its answer.
        """
        self._server = server
        self._format = prm_format

    @property
    def model_id(self) -> str:
        """Name of the model and its format."""
        return prm_id(f"openai/{self._server.endpoint.model}", self._format)

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Score the newest steps of a solution; see `Scorer.score`, and `Server.request` for the errors of the server.

        The meter counts requests that were answered; servers do not report what a request without an answer computed.

        Raises:
            BadScores: The answer is not that of a model of the format.
        """
        if not request.steps:
            return Scores(values=(), tokens=0)
        call = _Call(self._server, request, cancellation, meter)
        match self._format:
            case Tagged():
                values = call.score_tags(self._format)
            case NextToken():
                values = call.score_next_tokens(self._format)
            case _:
                assert_never(self._format)
        scores = Scores(values=values, tokens=meter.tokens, estimated_tokens=meter.estimated_tokens)
        meter.clear()
        return scores

    def check(self) -> None:
        """Do nothing: a server that is away may come back."""

    def close(self) -> None:
        """Close the connections; running calls raise `EngineStopped`."""
        self._server.close()


class _Call:
    """One call of `score`, with one deadline for all its requests."""

    def __init__(self, server: Server, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> None:
        self._server = server
        self._request = request
        self._cancellation = cancellation
        self._meter = meter
        self._deadline = time.monotonic() + request.timeout_s

    def score_tags(self, prm_format: Tagged) -> Sequence[float]:
        """Score all steps with one request."""
        endpoint, request = self._server.endpoint, self._request
        pooled = self._send(
            endpoint.url.removesuffix("/v1") + "/pooling",  # vLLM's own, beside OpenAI's API.
            {"model": endpoint.model, "input": prm_format.prompt(request.question, request.steps)},
            _read_pooled,
        )
        return prm_format.scores(pooled.data[0].data, len(request.steps))[-request.newest :]

    def score_next_tokens(self, prm_format: NextToken) -> Sequence[float]:
        """Score one step after the other, oldest first, because each input is the beginning of the next one."""
        request, values = self._request, []
        for end in range(max(1, len(request.steps) - request.newest + 1), len(request.steps) + 1):
            body = {
                "model": self._server.endpoint.model,
                "prompt": prm_format.prompt(request.question, request.steps[:end]),
                "max_tokens": 1,  # Only written tokens have log-probabilities.
                "temperature": 0,
                "logprobs": LIKELIEST,
                "return_tokens_as_token_ids": True,  # vLLM's own.
            }
            expected = self._send(self._server.endpoint.url + "/completions", body, _read_expected)
            values.append(prm_format.score(expected.choices[0].logprobs.top_logprobs[0]))
        return values

    def _send(self, url: str, body: Mapping[str, Any], read: Callable[[httpx2.Response], Awaitable[Answer]]) -> Answer:
        answer = self._server.request(url, body, read, cancellation=self._cancellation, deadline=self._deadline)
        computed = answer.usage.computed_tokens
        if computed is None:
            self._meter.estimated_tokens += sum(estimate_tokens(body[name]) for name in _INPUTS if name in body)
        else:
            self._meter.tokens += computed
        return answer


async def _read_pooled(response: httpx2.Response) -> _Pooled:
    return _Pooled.model_validate(await read_value(response))


async def _read_expected(response: httpx2.Response) -> _Expected:
    return _Expected.model_validate(await read_value(response))
