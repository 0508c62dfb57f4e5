"""Solves a problem for a request that waits: submits it, or attaches to that of an earlier try, and awaits its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

from anyio import to_thread
from fastapi import Request
from uuid_utils.compat import uuid7

from services.api.counting import count_submitted
from services.api.joined_reads import JoinedReads
from services.api.leaving import Leaving
from services.api.openai.questions import refused
from services.api.openai.requests import ChatRequest
from services.api.presenting import show_problem, show_step
from services.api.schemas.problems import Problem
from services.api.schemas.record import Step
from services.api.tracing import export_submission
from services.api.waiting import LONGEST_WAIT_S, Waiting, wait_for
from shared.domain.status import Status
from shared.errors import RetryableError
from shared.heartbeats import silence_s
from shared.settings import Settings
from shared.store import queries
from shared.store.awaited import Hold, Try, submit_awaited, submit_first_tries
from shared.store.database import Database, DatabaseBusy, DatabaseUnavailable
from shared.store.policy_versions import NoDefault, RetiredVersion, UnknownVersion
from shared.store.submissions import Stored, Submission

STOP_POLL_S: Final = 1.0
"""Seconds between two looks at whether the process stops, while a read waits for the database."""

Solved = tuple[Problem, Sequence[Step]]
"""A problem that has ended, and its steps."""


class Stopping(RetryableError):
    """This process of the api stops; send the request again, and another one continues to wait for the same problem."""

    code = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for a completion, checked and complete."""

    body: ChatRequest
    request: Request
    tenant_id: UUID
    root_path: str
    submission: Submission
    tried: Try


class Solving:
    """The requests that wait for solutions."""

    def __init__(self, settings: Settings, database: Database, waiting: Waiting, leaving: Leaving) -> None:
        """Take the settings, the database, the clients that wait, and those that leave."""
        self._database = database
        self._waiting = waiting
        self.leaving = leaving
        self._silence_s = silence_s(settings)
        self._max_queued = settings.tenant_max_queued
        # Joined as reads are: a transaction for each would take ten times the processor time.
        self._first_tries: JoinedReads[tuple[Asked, UUID], tuple[Stored, Hold]] = JoinedReads(self._submit_all)
        self._reads: JoinedReads[tuple[UUID, str], Solved | None] = JoinedReads(self._read)

    @property
    def is_stopping(self) -> bool:
        """Whether the process stops."""
        return self._waiting.is_stopping

    async def submit(self, asked: Asked, *, problem_id: UUID) -> tuple[Stored, Hold]:
        """Submit the problem, or attach to that of an earlier try.

        Raises:
            OpenAIError: The policy has no version for the problem.
            RetryableError: The database is away.
        """
        if asked.tried.is_first:
            stored, hold = await self._first_tries.ask((asked, problem_id))
        else:
            stored, hold = await to_thread.run_sync(partial(self._submit, asked, problem_id))
        count_submitted(stored)
        if stored.is_new:
            export_submission(asked.request, [stored.id])
        return stored, hold

    async def solve(self, asked: Asked) -> Solved:
        """Submit the problem and wait for its end.

        Raises:
            OpenAIError: The policy has no version for the problem.
            ClientDisconnect: The client left.
            Stopping: The process stops.
            RetryableError: The database is away.
        """
        problem_id: UUID = uuid7()
        with ExitStack() as registered:
            # Before it exists, so that no end is missed, and none has to be looked for.
            wake = registered.enter_context(self._waiting.for_end(problem_id))
            stored, hold = await self.submit(asked, problem_id=problem_id)
            if not stored.is_new:
                wake = registered.enter_context(self._waiting.for_end(stored.id))
                wake.set()  # It may have ended before.
            attachment = registered.enter_context(self.leaving.attached(hold))
            while True:
                await wait_for(wake, longest_s=LONGEST_WAIT_S, receive=asked.request.receive)
                if self.is_stopping:
                    attachment.is_left = False  # The client comes back for it, to another process.
                    raise Stopping
                wake.clear()
                if (solved := await self._find_end(stored.id, asked.root_path)) is not None:
                    attachment.is_left = False
                    return solved

    def _submit_all(self, asked: Sequence[tuple[Asked, UUID]]) -> list[tuple[Stored, Hold] | Exception]:
        """Submit the problems of first tries together, or one by one if one of them cannot be submitted."""
        tries = [(each.tenant_id, problem_id, each.submission, each.tried) for each, problem_id in asked]
        try:
            with self._database.session() as session:
                submitted = submit_first_tries(session, tries, silence_s=self._silence_s, max_queued=self._max_queued)
                return [*submitted]
        except (DatabaseUnavailable, DatabaseBusy) as error:
            return [error] * len(asked)
        except Exception:  # noqa: BLE001 - one of them is to blame, and gets the error
            return [self._try_one(*each) for each in asked]

    def _try_one(self, asked: Asked, problem_id: UUID) -> tuple[Stored, Hold] | Exception:
        try:
            return self._submit(asked, problem_id)
        except Exception as error:  # noqa: BLE001 - raised where the request waits
            return error

    def _submit(self, asked: Asked, problem_id: UUID) -> tuple[Stored, Hold]:
        try:
            with self._database.session() as session:
                return submit_awaited(
                    session,
                    asked.tenant_id,
                    asked.submission,
                    asked.tried,
                    problem_id=problem_id,
                    silence_s=self._silence_s,
                    max_queued=self._max_queued,
                )
        except (NoDefault, RetiredVersion, UnknownVersion) as error:
            raise refused(error, asked.body) from error

    async def _find_end(self, problem_id: UUID, root_path: str) -> Solved | None:
        reading = self._reads.ask((problem_id, root_path))
        while not reading.done():
            await asyncio.wait({reading}, timeout=STOP_POLL_S)
            if self.is_stopping:
                reading.cancel()  # It may wait for the database.
        return None if reading.cancelled() else reading.result()

    def _read(self, asked: Sequence[tuple[UUID, str]]) -> list[Solved | Exception | None]:
        """Read problems with their steps; `None` for one that has not ended.

        A record that cannot be shown is an error of the request for it alone.
        """
        solved: list[Solved | Exception | None] = []
        with self._database.session() as session:
            rows = queries.read_problems(session, [problem_id for problem_id, _ in asked])
            ended = [each.id for each in rows.values() if Status(each.status).is_final]
            steps = queries.list_steps_of(session, ended)
            for problem_id, root_path in asked:
                if problem_id not in ended:
                    solved.append(None)
                    continue
                try:
                    problem = show_problem(session, rows[problem_id], root_path, silence_s=self._silence_s)
                    solved.append((problem, [show_step(each) for each in steps[problem_id]]))
                except ValueError as error:
                    solved.append(error)
        return solved
