"""Streams of completions: each step as soon as it is accepted, as chunks in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Final
from uuid import UUID

from starlette.types import Receive, Scope, Send

from services.api.following import Decided, Ended, Following, Quiet, Stepped
from services.api.leaving import Attachment
from services.api.openai.completing import Shown, completion_id, count_usage, created_at, describe, find_finish
from services.api.openai.errors import OpenAIError, make_body
from services.api.openai.responses import (
    ChatCompletionChunk,
    ChunkChoice,
    ChunkDelta,
    FinishReason,
    Solution,
    StepSource,
)
from services.api.openai.solving import Asked, Solving, Stopping
from services.api.schemas.problems import Problem
from services.api.schemas.record import Step
from services.api.streaming import KEEP_ALIVE, EventStream
from shared.errors import RetryableError, TrimError
from shared.store.awaited import Hold

DONE: Final = b"data: [DONE]\n\n"


class CompletionStream(EventStream):
    """Sends a completion step by step. While it does, its client is attached to the problem."""

    def __init__(self, asked: Asked, hold: Hold, *, solving: Solving, following: Following) -> None:
        """Take the request, what it holds of its problem, and what follows problems."""
        super().__init__(self._write())
        self._asked = asked
        self._hold = hold
        self._solving = solving
        self._following = following
        self._attachment = Attachment()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        with self._solving.leaving.attached(self._hold) as self._attachment:
            await super().__call__(scope, receive, send)

    async def _write(self) -> AsyncGenerator[bytes]:
        yield self._chunk(ChunkDelta(role="assistant", content=""))
        try:
            async for part in self._follow():
                yield part
        except OpenAIError as error:
            yield self._error(error, error.status)
        except TrimError as error:
            is_passing = isinstance(error, RetryableError)
            yield self._error(error, HTTPStatus.SERVICE_UNAVAILABLE if is_passing else HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _follow(self) -> AsyncGenerator[bytes]:
        """Write the steps and the end.

        Raises:
            OpenAIError: The problem ended without a solution.
            Stopping: The process stops.
            RetryableError: The database is away.
            TrimError: The record of the problem cannot be read; the log has the reason.
        """
        shown, used = Shown(self._asked.body.stop), list[Step]()
        happening = await self._following.follow_problem(
            self._asked.tenant_id, self._hold.problem_id, root_path=self._asked.root_path
        )
        async with aclosing(happening):
            async for event in happening:
                match event:
                    case Quiet():
                        yield KEEP_ALIVE
                    case Stepped() if not shown.has_stopped:
                        used.append(event.step)
                        yield self._step(event.step, shown)
                        if shown.has_stopped:
                            self._solving.leaving.cancel(self._hold)
                    case Ended():
                        self._attachment.is_left = False
                        for part in self._end(event.problem, shown, used):
                            yield part
                        return
                    case Stepped() | Decided():
                        pass
        # A client with an idempotency key comes back for the problem; the next request of another one is a new one.
        self._attachment.is_left = self._asked.tried.idempotency is None
        raise Stopping if self._solving.is_stopping else TrimError

    def _step(self, step: Step, shown: Shown) -> bytes:
        piece = shown.add(step.text)
        delta = ChunkDelta(reasoning_content=piece.text) if piece.is_thought else ChunkDelta(content=piece.text)
        return self._chunk(delta, source=StepSource(step=step.step, author=step.author, score=step.score))

    def _end(self, problem: Problem, shown: Shown, used: list[Step]) -> list[bytes]:
        """Write the end.

        Raises:
            Unsolved: There is no solution.
        """
        finish_reason = find_finish(problem, has_stopped=shown.has_stopped)
        delta = ChunkDelta(content=rest) if (rest := shown.finish()) else ChunkDelta()
        parts = [self._chunk(delta, source=describe(problem), finish_reason=finish_reason)]
        if self._has_usage:
            chunk = self._make([])
            chunk.usage = count_usage(problem, used)
            parts.append(_data(chunk.model_dump_json()))
        return [*parts, DONE]

    @property
    def _has_usage(self) -> bool:
        options = self._asked.body.stream_options
        return options is not None and bool(options.include_usage)

    def _chunk(
        self,
        delta: ChunkDelta,
        *,
        source: StepSource | Solution | None = None,
        finish_reason: FinishReason | None = None,
    ) -> bytes:
        chunk = self._make([ChunkChoice(delta=delta, finish_reason=finish_reason)])
        chunk.trim = source
        return _data(chunk.model_dump_json(exclude=None if self._has_usage else {"usage"}))

    def _make(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        problem_id: UUID = self._hold.problem_id
        return ChatCompletionChunk(
            id=completion_id(problem_id),
            created=created_at(problem_id),
            model=self._asked.body.model,
            choices=choices,
        )

    def _error(self, error: TrimError, status: HTTPStatus) -> bytes:
        param = error.param if isinstance(error, OpenAIError) else None
        return _data(json.dumps(make_body(str(error), code=error.code, status=status, param=param)))


def _data(text: str) -> bytes:
    return b"data: %s\n\n" % text.encode()
