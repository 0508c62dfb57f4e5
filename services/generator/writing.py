"""Carries out one `GenerateSteps`: stream steps from the engine, send each where it belongs as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

from shared.domain.text import extend_digest, prefix_digest
from shared.domain.values import Draft
from shared.engines.port import Cancellation, GeneratedStep, GenerationRequest, Generator
from shared.messages import GenerateSteps, Message, ScoreSteps, StepsGenerated, derive_id


class Writing:
    """Writes the steps of one command."""

    def __init__(
        self, command: GenerateSteps, engine: Generator, *, worker: str, publish: Callable[[Message], None]
    ) -> None:
        self._command = command
        self._engine = engine
        self._worker = worker
        self._publish = publish
        self._drafts: list[Draft] = []
        self._sent = 0

    def run(self, cancellation: Cancellation, *, may_send: Callable[[], bool]) -> None:
        """Write and send all steps.

        Args:
            cancellation: Ends the work early.
            may_send: Tells whether an earlier message is confirmed; while it is not, finished drafts are collected
                and go out together.

        Raises:
            Cancelled: The cancellation was set.
            TrimError: What the engine raised; steps that were finished before are sent.
        """
        try:
            for draft in self._write(cancellation):
                self._drafts.append(draft)
                if may_send():
                    self._send()
        finally:
            self._send()  # What is finished is paid for, whatever happened after.
        if self._command.announce and self._drafts and not self._drafts[-1].ends_solution:
            self._publish(self._generated(self._drafts, "announced"))

    def _write(self, cancellation: Cancellation) -> Iterator[Draft]:
        command = self._command
        request = GenerationRequest(
            problem_id=command.problem_id,
            question=command.question,
            prefix=command.prefix,
            max_steps=command.max_steps,
            max_step_tokens=command.max_step_tokens,
            max_tokens=command.max_tokens,
            step_timeout_s=command.step_timeout_s,
            sampling=command.sampling,
        )
        after = prefix_digest(command.question, command.prefix)
        waited_ms = max(0.0, (datetime.now(UTC) - command.issued_at) / timedelta(milliseconds=1))
        started = time.monotonic()
        with closing(self._engine.stream(request, cancellation)) as steps:
            for index, step in enumerate(steps, start=command.first_step):
                cancellation.raise_if_cancelled()
                now = time.monotonic()
                draft = self._draft(step, index=index, after=after, waited_ms=waited_ms, worked_s=now - started)
                yield draft
                after, waited_ms, started = extend_digest(after, draft.text), 0.0, now

    def _draft(self, step: GeneratedStep, *, index: int, after: str, waited_ms: float, worked_s: float) -> Draft:
        return Draft(
            id=derive_id(self._command.id, index),
            author=self._command.role,
            index=index,
            after=after,
            # Postgres keeps no NUL.
            text=step.text.replace("\x00", "\N{REPLACEMENT CHARACTER}"),
            finish=step.finish,
            tokens=step.tokens,
            opens_call=index == self._command.first_step,
            prompt_tokens=step.prompt_tokens,
            cached_tokens=step.cached_tokens,
            model=self._engine.model_id,
            worker=self._worker,
            waited_ms=waited_ms,
            worked_ms=worked_s * 1000,
        )

    def _send(self) -> None:
        """Send the drafts that were not sent yet: to be scored, or straight back."""
        drafts = self._drafts[self._sent :]
        if not drafts:
            return
        silent = [draft for draft in drafts if draft.is_degenerate]
        spoken = [draft for draft in drafts if not draft.is_degenerate]
        if self._command.then == "events":
            self._publish(self._generated(drafts, "generated"))
        else:
            if spoken:
                self._publish(self._to_score(spoken))
            if silent:  # There is nothing to score in a step that says nothing.
                self._publish(self._generated(silent, "generated"))
        self._sent = len(self._drafts)

    # How many drafts share a message is a matter of timing, so its id names the first and the last of them: done again
    # after a crash, the same work may come in other portions, which must not be taken for copies of the earlier ones.

    def _to_score(self, drafts: list[Draft]) -> ScoreSteps:
        command, now = self._command, datetime.now(UTC)
        first = drafts[0].index
        earlier = tuple(draft.text for draft in self._drafts if draft.index < first)
        return ScoreSteps(
            id=derive_id(command.id, "score", first, drafts[-1].index),
            problem_id=command.problem_id,
            epoch=command.epoch,
            issued_at=now,
            expires_at=now + (command.expires_at - command.issued_at),
            serial=command.serial,
            step_timeout_s=command.step_timeout_s,
            question=command.question,
            prefix=command.prefix + earlier,
            unscored=command.unscored if first == command.first_step else 0,
            drafts=tuple(drafts),
        )

    def _generated(self, drafts: list[Draft], what: str) -> StepsGenerated:
        return StepsGenerated(
            id=derive_id(self._command.id, what, drafts[0].index, drafts[-1].index),
            problem_id=self._command.problem_id,
            epoch=self._command.epoch,
            drafts=tuple(drafts),
        )
