"""Carries out one `GenerateSteps`: streams steps from the engine and publishes each one as soon as it is finished."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

from shared.domain.drafts import Draft, UnfinishedWork
from shared.domain.endings import find_ending
from shared.domain.roles import WorkerRole
from shared.domain.text import extend_digest, text_bytes
from shared.engines.port import GeneratedStep, GenerationRequest, Generator, Meter
from shared.errors import Fault, RetryableError
from shared.messages import MAX_PREFIX_BYTES, GenerateSteps, ScoreSteps, StepsGenerated, derive_id
from shared.observe import metrics, spans
from shared.observe.tracing import TRACING
from shared.worker.execution import Context


class StretchEnded(RetryableError):
    """The stretch took longer than TRIM_STRETCH_S; the steps that are missing are requested again."""

    code = "stretch_ended"

    @property
    def fault(self) -> Fault:
        """The worker's: it ended the stretch."""
        return Fault.WORKER


class Writing:
    """Writes the steps of one command."""

    def __init__(
        self, command: GenerateSteps, context: Context, *, engine: Generator, stretch_s: float = math.inf
    ) -> None:
        """Prepare to write.

        Args:
            command: The command.
            context: Its surroundings.
            engine: Writes the steps.
            stretch_s: Seconds after which no further step begins.
        """
        self._command = command
        self._context = context
        self._engine = engine
        self._stretch_s = stretch_s
        self._meter = Meter()
        self._drafts: list[Draft] = []
        self._sent = 0

    @property
    def finished_steps(self) -> int:
        """Number of drafts that were published."""
        return self._sent

    @property
    def unfinished(self) -> UnfinishedWork | None:
        """What the engine used for the step that it did not finish."""
        meter = self._meter
        input_tokens = max(0, meter.prompt_tokens - meter.cached_tokens)
        if not meter.tokens and not meter.estimated_tokens and not input_tokens:
            return None
        return UnfinishedWork(
            role=WorkerRole(self._command.author),
            tokens=max(0, meter.tokens),
            estimated_tokens=max(0, meter.estimated_tokens),
            input_tokens=input_tokens,
            opens_call=not self._drafts,
        )

    def run(self) -> Iterator[None]:
        """Write and publish all steps; yields after each one.

        While the broker has not confirmed an earlier message, finished drafts are collected and published together.

        Raises:
            Cancelled: The cancellation was set.
            StretchEnded: The stretch took too long; finished steps are published.
            TrimError: The engine raised it; so they are then.
        """
        try:
            for draft in self._write():
                self._drafts.append(draft)
                self._trace(draft)
                if self._context.results.are_confirmed():
                    self._send()
                yield
        finally:
            self._send()  # Finished drafts are paid for, whatever happened after them.
        if self._command.reports_stretch and self._drafts and not self._ends_solution():
            self._context.results.publish(self._generated(self._drafts, "stretch"))

    def _ends_solution(self) -> bool:
        """Tell whether the last draft ends the solution, so that nothing follows the stretch."""
        command, (*before, last) = self._command, self._drafts
        texts = (*command.prefix, *(draft.text for draft in before))
        return find_ending(last.text, finish=last.finish, before=texts, question=command.question) is not None

    def _write(self) -> Iterator[Draft]:
        command, clock = self._command, self._context.clock
        request = GenerationRequest(
            problem_id=command.problem_id,
            question=command.question,
            prefix=command.prefix,
            max_steps=command.max_steps,
            max_step_tokens=command.max_step_tokens,
            max_tokens=command.max_tokens,
            step_timeout_s=command.step_timeout_s,
            sampling=command.sampling,
            reports_confidence=command.reports_confidence,
        )
        digest, size = command.prefix_digest, text_bytes(command.question, *command.prefix)
        waited_ms = max(0.0, (clock.now() - command.issued_at) / timedelta(milliseconds=1))
        metrics.STAGE_WAIT_SECONDS.labels(command.author).observe(waited_ms / 1000)
        began = started = clock.monotonic()
        with closing(self._engine.stream(request, self._context.cancellation, self._meter)) as steps:
            for index, step in enumerate(steps, start=command.first_step):
                now = clock.monotonic()
                draft = self._draft(step, index=index, digest=digest, waited_ms=waited_ms, worked_s=now - started)
                _count(draft)
                yield draft
                digest, waited_ms, started = extend_digest(digest, draft.text), 0.0, now
                size += text_bytes(draft.text)
                if size >= MAX_PREFIX_BYTES:  # The solution ends here: no message could carry a further step's prefix.
                    return
                if clock.monotonic() - began >= self._stretch_s and self._goes_on():
                    raise StretchEnded

    def _goes_on(self) -> bool:
        """Tell whether the engine would write another step of the stretch."""
        command, tokens = self._command, sum(draft.tokens for draft in self._drafts)
        return len(self._drafts) < command.max_steps and tokens < command.max_tokens and not self._ends_solution()

    def _draft(self, step: GeneratedStep, *, index: int, digest: str, waited_ms: float, worked_s: float) -> Draft:
        return Draft(
            id=derive_id(self._context.work_id, index),
            author=self._command.author,
            index=index,
            prefix_digest=digest,
            # Postgres cannot store NUL.
            text=step.text.replace("\x00", "\N{REPLACEMENT CHARACTER}"),
            finish=step.finish,
            tokens=step.tokens,
            estimated_tokens=step.estimated_tokens,
            opens_call=index == self._command.first_step,
            prompt_tokens=step.prompt_tokens,
            cached_tokens=step.cached_tokens,
            mean_logprob=step.mean_logprob,
            min_logprob=step.min_logprob,
            model=self._engine.model_id,
            worker=self._context.worker,
            waited_ms=waited_ms,
            worked_ms=worked_s * 1000,
        )

    def _trace(self, draft: Draft) -> None:
        """Report a step to the problem's trace."""
        if TRACING.covers(self._command.problem_id):
            TRACING.export(spans.step(self._command, draft, ended_at=self._context.clock.now()))

    def _send(self) -> None:
        """Publish the drafts that were not published yet: to the PRM, or to the orchestrator."""
        drafts = self._drafts[self._sent :]
        if not drafts:
            return
        publish = self._context.results.publish
        without_words = [draft for draft in drafts if draft.is_degenerate]
        with_words = [draft for draft in drafts if not draft.is_degenerate]
        if self._command.results_to == "events":
            publish(self._generated(drafts, "generated"))
        else:
            if with_words:
                publish(self._to_score(with_words))
            if without_words:  # The PRM has nothing to score in them.
                publish(self._generated(without_words, "generated"))
        self._sent = len(self._drafts)

    # Timing decides how many drafts share a message, so its id names the first and the last of them.

    def _to_score(self, drafts: list[Draft]) -> ScoreSteps:
        command, now = self._command, self._context.clock.now()
        first = drafts[0].index
        prefix = command.prefix + tuple(draft.text for draft in self._drafts if draft.index < first)
        # The orchestrator does not know the steps of this stretch yet, so they are never left out.
        carried = first if command.scored_prefix is None else max(command.scored_prefix, first - command.first_step)
        omitted = max(0, first - carried)
        scoring = ScoreSteps(
            id=derive_id(self._context.work_id, "score", first, drafts[-1].index),
            problem_id=command.problem_id,
            epoch=command.epoch,
            issued_at=now,
            expires_at=now + (command.expires_at - command.issued_at),
            request_number=command.request_number,
            step_timeout_s=command.step_timeout_s,
            question=command.question,
            prefix=prefix,
            prefix_digest=drafts[0].prefix_digest,
            unscored_steps=command.unscored_steps if first == command.first_step else 0,
            drafts=tuple(drafts),
        )
        return scoring.with_prefix(prefix, omit=omitted)

    def _generated(self, drafts: list[Draft], what: str) -> StepsGenerated:
        return StepsGenerated(
            id=derive_id(self._context.work_id, what, drafts[0].index, drafts[-1].index),
            problem_id=self._command.problem_id,
            epoch=self._command.epoch,
            drafts=tuple(drafts),
        )


def _count(draft: Draft) -> None:
    """Count the engine's work on a step."""
    author = draft.author
    metrics.STAGE_WORK_SECONDS.labels(author).observe(draft.worked_ms / 1000)
    metrics.ENGINE_TOKENS.labels(author, "prompt").inc(draft.prompt_tokens)
    metrics.ENGINE_TOKENS.labels(author, "cached").inc(draft.cached_tokens)
    metrics.ENGINE_TOKENS.labels(author, "decoded").inc(draft.tokens)
