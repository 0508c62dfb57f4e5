"""What the tests of the embedded engine have in common: the bundled models, short calls, and a gate before a model."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.cancellation import Cancellation
from shared.domain.options import Sampling
from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.embedded.scorer import EmbeddedScorer
from shared.engines.port import GeneratedStep, GenerationRequest, Meter, Scores, ScoringRequest

MODELS = Path(__file__).parents[3] / "models"
PROBLEMS = [json.loads(line) for line in (MODELS / "sample.jsonl").read_text().splitlines()]
QUESTION = PROBLEMS[0]["question"]
GREEDY = Sampling(temperature=0)
WARM = Sampling(temperature=1.5, top_p=0.95, top_k=40, seed=5)


def make_request(question: str = QUESTION, prefix: Sequence[str] = (), **changes: Any) -> GenerationRequest:
    values: dict[str, Any] = {
        "problem_id": uuid4(),
        "max_steps": 30,
        "max_step_tokens": 512,
        "max_tokens": 4096,
        "step_timeout_s": 60,
        "sampling": GREEDY,
        **changes,
    }
    return GenerationRequest(question=question, prefix=tuple(prefix), **values)


def write(engine: EmbeddedGenerator, request: GenerationRequest) -> list[GeneratedStep]:
    return list(engine.stream(request, Cancellation(), Meter()))


def texts(steps: Sequence[GeneratedStep]) -> list[str]:
    return [step.text for step in steps]


def score(
    engine: EmbeddedScorer,
    steps: Sequence[str],
    newest: int = 1,
    question: str = QUESTION,
    problem_id: UUID | None = None,
) -> Scores:
    request = ScoringRequest(
        problem_id=problem_id or uuid4(), question=question, steps=tuple(steps), newest=newest, timeout_s=60
    )
    return engine.score(request, Cancellation(), Meter())


class Gate:
    """Lets an engine's model run only as often as the test allows."""

    def __init__(self, engine: EmbeddedGenerator | EmbeddedScorer, monkeypatch: pytest.MonkeyPatch) -> None:
        self._permits = threading.Semaphore(0)
        self._is_open = False
        self._reached = threading.Semaphore(0)
        compute = engine._model.compute

        def gated(**arguments: Any) -> Any:
            self._reached.release()
            if not self._is_open:
                self._permits.acquire()
            return compute(**arguments)

        monkeypatch.setattr(engine._model, "compute", gated)

    def let_pass(self, times: int) -> None:
        """Let the model run some times, and return once it waits for its next run."""
        self._permits.release(times)
        for _ in range(times):
            self._reached.acquire()

    def wait_until_reached(self) -> None:
        self._reached.acquire()

    def open(self) -> None:
        self._is_open = True
        self._permits.release()


def wait_for_calls(engine: EmbeddedGenerator | EmbeddedScorer, count: int) -> None:
    with engine._loop._changed:
        engine._loop._changed.wait_for(lambda: len(engine._loop._open) == count)


def folder_copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to / folder.name)
    return to / folder.name
