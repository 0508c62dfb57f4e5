"""Engines whose models are pure functions: what they write and score depends on the question and the prefix alone."""

from __future__ import annotations

import hashlib
import math
from collections import abc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from shared.cancellation import Cancellation, Cancelled
from shared.domain.drafts import Finish
from shared.domain.endings import find_ending
from shared.domain.roles import Author
from shared.engines.port import GeneratedStep, GenerationRequest, Meter, Scores, ScoringRequest

_UNUSABLE = (math.nan, math.inf, -0.5, 1.5)
"""Numbers that are no scores."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The models of one world."""

    seed: int = 0
    ends: float = 0.06
    """Share of steps with which the model ends by itself."""
    boxes: float = 0.06
    """Share of steps with a boxed answer; half of them say that it is the answer."""
    repeats: float = 0.06
    """Share of steps that repeat the step before them."""
    says_nothing: float = 0.06
    """Share of degenerate steps; a third of them end the text."""
    runs_long: float = 0.06
    """Share of steps cut at the limit of tokens for one step."""
    scores_badly: float = 0.06
    """Share of steps for which the PRM gives no usable number."""
    hides_confidence: float = 0.06
    """Share of steps whose log-probabilities the engine does not know."""
    estimates: float = 0.3
    """Share of steps whose tokens are an estimate if the call breaks off in them."""
    uncounted: float = 0.0
    """Share of steps whose tokens are an estimate although they were finished."""

    def number(self, *parts: object) -> float:
        """Draw a number in [0, 1) that depends on the seed and the parts alone."""
        digest = hashlib.blake2b("\x1f".join(map(str, (self.seed, *parts))).encode(), digest_size=6).digest()
        return int.from_bytes(digest) / 2**48

    def write(self, author: Author, question: str, prefix: Sequence[str], *, salt: int = 0) -> tuple[str, Finish, int]:
        """Write the step after a prefix: text, finish, tokens. Another salt gives another text of the same length."""
        key = (author, question, *prefix)
        tokens = 1 + int(self.number("tokens", *key) * 20)
        word = int(self.number("word", salt, *key) * 10**6)
        lot = self.number("kind", salt, *key)
        if (lot := lot - self.says_nothing) < 0:
            return "...", Finish.ENDED if -lot < self.says_nothing / 3 else Finish.SEPARATOR, tokens
        if (lot := lot - self.ends) < 0:
            return f"So it is {word}", Finish.ENDED, tokens
        if (lot := lot - self.boxes) < 0:
            begin = "The answer is" if -lot < self.boxes / 2 else "The first part is"
            return f"{begin} \\boxed{{{word}}}", Finish.SEPARATOR, tokens
        if (lot := lot - self.repeats) < 0 and prefix:
            return prefix[-1], Finish.SEPARATOR, tokens
        if (lot := lot - self.runs_long) < 0:
            return f"And on and on {word}", Finish.LENGTH, tokens
        return f"Step {len(prefix)} by {author}: {word}", Finish.SEPARATOR, tokens

    def logprobs(self, author: Author, question: str, prefix: Sequence[str]) -> tuple[float | None, float | None]:
        """Draw the mean and the least log-probability of the step after a prefix."""
        key = (author, question, *prefix)
        if self.number("hidden", *key) < self.hides_confidence:
            return None, None
        mean = math.log(1 - self.number("mean", *key))
        return mean, mean + math.log(1 - self.number("least", *key))

    def score(self, question: str, steps: Sequence[str]) -> float:
        """Score the last of some steps, on a coarse scale so that scores often equal a threshold."""
        if (lot := self.number("bad", question, *steps)) < self.scores_badly:
            return _UNUSABLE[int(lot / self.scores_badly * len(_UNUSABLE))]
        return int(self.number("score", question, *steps) * 9) / 8


class _WorldEngine:
    """Counts what it used, and breaks when a test wants it to."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.used = 0
        """Tokens so far, as far as their count is exact."""
        self.used_estimated = 0
        self._fault: Exception | None = None
        self._refusal: Exception | None = None

    @contextmanager
    def broken(self, fault: Exception) -> Iterator[None]:
        """Have calls raise an error in the middle of their next step."""
        self._fault = fault
        try:
            yield
        finally:
            self._fault = None

    @contextmanager
    def refusing(self, refusal: Exception) -> Iterator[None]:
        """Have new calls raise an error before they use anything."""
        self._refusal = refusal
        try:
            yield
        finally:
            self._refusal = None

    def check(self) -> None:
        """Do nothing: only calls break."""

    def close(self) -> None:
        """Do nothing."""

    def _begin(self, cancellation: Cancellation) -> None:
        cancellation.raise_if_cancelled()
        if self._refusal is not None:
            raise self._refusal

    def _stop_if_broken(self, cancellation: Cancellation, meter: Meter, tokens: int, *key: object) -> None:
        """Raise if the call is to stop in the middle of a step with this many tokens."""
        fault = Cancelled() if cancellation.is_cancelled else self._fault
        if fault is not None:
            if self.world.number("estimate", *key) < self.world.estimates:
                meter.estimated_tokens = tokens // 2
            else:
                meter.tokens = tokens // 2
            self.used += meter.tokens
            self.used_estimated += meter.estimated_tokens
            raise fault


class WorldGenerator(_WorldEngine):
    """Writes steps as a world's model does."""

    def __init__(self, world: World, author: Author, *, is_salted: bool = False) -> None:
        """Create the engine.

        Args:
            world: The world.
            author: Whose steps to write.
            is_salted: Whether to write another text each time, as sampling on a GPU does.
        """
        super().__init__(world)
        self.model_id = f"{author}-model"
        self._author = author
        self._is_salted = is_salted
        self._written = 0

    def stream(
        self, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> abc.Generator[GeneratedStep, None, None]:
        """Yield steps; see `Generator.stream`."""
        self._begin(cancellation)
        prefix, call_tokens = request.prefix, 0
        meter.prompt_tokens, meter.cached_tokens = 10 + 7 * len(prefix), 4 * len(prefix)
        for _ in range(request.max_steps):
            text, finish, tokens = self._write(request.question, prefix)
            if tokens > request.max_step_tokens:
                finish, tokens = Finish.LENGTH, request.max_step_tokens
            self._stop_if_broken(cancellation, meter, tokens, self._author, *prefix)
            key = self._author, request.question, prefix
            mean_logprob, min_logprob = self.world.logprobs(*key) if request.reports_confidence else (None, None)
            estimated = tokens if self.world.number("uncounted", self._author, *prefix) < self.world.uncounted else 0
            step = GeneratedStep(
                text=text,
                finish=finish,
                tokens=tokens - estimated,
                estimated_tokens=estimated,
                prompt_tokens=meter.prompt_tokens,
                cached_tokens=meter.cached_tokens,
                mean_logprob=mean_logprob,
                min_logprob=min_logprob,
            )
            meter.clear()
            self.used += tokens - estimated
            self.used_estimated += estimated
            yield step
            ending = find_ending(text, finish=finish, before=prefix, question=request.question)
            prefix, call_tokens = (*prefix, text), call_tokens + tokens
            if ending is not None or call_tokens >= request.max_tokens:
                return

    def _write(self, question: str, prefix: tuple[str, ...]) -> tuple[str, Finish, int]:
        if not self._is_salted:
            return self.world.write(self._author, question, prefix)
        self._written += 1
        text, finish, _ = self.world.write(self._author, question, prefix, salt=self._written)
        # The cost of an id must not depend on which of its texts is heard.
        return text, finish, 3 + len(prefix) % 5


class WorldScorer(_WorldEngine):
    """Scores steps as a world's PRM does."""

    model_id = "prm-model"

    def score(self, request: ScoringRequest, cancellation: Cancellation, meter: Meter) -> Scores:
        """Score the newest steps; see `Scorer.score`."""
        self._begin(cancellation)
        steps, tokens = request.steps, 3 * len(request.steps)
        self._stop_if_broken(cancellation, meter, tokens, *steps)
        self.used += tokens
        ends = range(len(steps) - request.newest + 1, len(steps) + 1)
        return Scores(values=[self.world.score(request.question, steps[:end]) for end in ends], tokens=tokens)
