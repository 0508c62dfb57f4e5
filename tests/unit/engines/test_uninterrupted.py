"""The embedded engine writes what its model writes without interruption, token for token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.text import join_steps
from shared.engines.embedded.generator import EmbeddedGenerator
from shared.engines.port import GeneratedStep, Meter
from shared.engines.solution_ids import SolutionIds
from tests.unit.engines.bundled import MODELS, folder_copy, make_request, texts
from tests.unit.engines.sensitive_model import next_token, steps_of, uninterrupted
from tests.unit.engines.tokenizer_kinds import BYTE_LEVEL, END, tokenizer_of

QUESTION = "How many coins does Kim have?"
LENGTH = 150
"""Ids at which the model ends."""
SEEDS = range(4)


class Engine:
    """The embedded engine, with a sensitive model instead of its graph."""

    def __init__(self, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        config = json.loads((folder / "config.json").read_text())
        end = tokenizer_of(kind).token_to_id(END)
        (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": end}))
        (folder / "generation_config.json").unlink()
        tokenizer_of(kind).save(str(folder / "tokenizer.json"))
        self.kind, self.seed, self.inputs = kind, 0, list[int]()
        self.generator = EmbeddedGenerator(folder)
        monkeypatch.setattr(self.generator._model, "compute", self._compute)

    def _compute(self, *, ids: Any, past_length: Any, rows: Any, past: Sequence[Any]) -> tuple[Any, Any]:
        """Store each id where its keys would be, and read all of them from there."""
        model = self.generator._model
        batch, width = ids.shape
        new_kv = np.zeros((model.layers, 2, batch, model.kv_heads, width, model.head_size), np.float32)
        new_kv[0, 0, :, 0, :, 0] = ids
        logits = np.zeros((len(rows), len(model.token_bytes)), np.float32)
        for line, row in enumerate(rows):
            index, place = divmod(int(row), width)
            before = past[0][index, 0, : past_length[index], 0].astype(int).tolist()
            context = [*before, *ids[index, : place + 1].tolist()]
            logits[line, next_token(self.kind, context, seed=self.seed, ends_at=LENGTH)] = 1
        return logits, new_kv

    def write(self, prefix: Sequence[str] = (), *, max_steps: int = 30) -> list[GeneratedStep]:
        meter = Meter()
        request = make_request(QUESTION, prefix, max_steps=max_steps, problem_id=uuid4())
        steps = list(self.generator.stream(request, Cancellation(), meter))
        assert meter == Meter()
        return steps

    def forget(self) -> None:
        """Forget how the model wrote its steps, like another worker."""
        self.generator._encoder.written.clear()

    def ids_of(self, steps: Sequence[str]) -> list[int]:
        return SolutionIds(self.generator._encoder, QUESTION, self.generator.prompt(QUESTION), steps).ids


@pytest.fixture(params=BYTE_LEVEL)
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    made = Engine(folder_copy(MODELS / "small", tmp_path), request.param, monkeypatch)
    with closing(made.generator):
        yield made


def one_by_one(engine: Engine, prefix: Sequence[str] = ()) -> list[GeneratedStep]:
    steps: list[GeneratedStep] = []
    while not steps or steps[-1].finish is Finish.SEPARATOR:
        steps += engine.write([*prefix, *texts(steps)], max_steps=1)
    return steps


@pytest.mark.parametrize("seed", SEEDS)
def test_any_number_of_steps_a_call_gives_the_uninterrupted_solution(engine: Engine, seed: int) -> None:
    engine.seed = seed
    whole = uninterrupted(engine.kind, engine.ids_of([]), seed=seed, ends_at=LENGTH)
    at_once = engine.write()
    assert texts(at_once) == steps_of(tokenizer_of(engine.kind).decode(whole[len(engine.ids_of([])) :]))
    assert len(at_once) > 2
    assert sum(step.tokens for step in at_once) == len(whole) - len(engine.ids_of([])) + 1
    assert engine.ids_of(texts(at_once[:-1])) == whole[: len(engine.ids_of(texts(at_once[:-1])))]
    engine.forget()
    assert [(step.text, step.tokens) for step in one_by_one(engine)] == [(step.text, step.tokens) for step in at_once]
    engine.forget()
    mixed = engine.write(max_steps=2)
    assert texts([*mixed, *engine.write(texts(mixed))]) == texts(at_once)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_solution_goes_on_after_a_step_of_another_model(engine: Engine, seed: int) -> None:
    engine.seed = seed
    (first, *_) = engine.write()
    prefix = [first.text, "So we have:\n\n3 + 4 = 7."]
    before = engine.ids_of(prefix)
    assert before == [*engine.ids_of(prefix[:1]), *engine.generator.step_ids(prefix[1])]
    whole = uninterrupted(engine.kind, before, seed=seed, ends_at=LENGTH)
    at_once = engine.write(prefix)
    assert texts(at_once) == steps_of(tokenizer_of(engine.kind).decode(whole[len(before) :]))
    assert texts(one_by_one(engine, prefix)) == texts(at_once)


def test_one_call_for_many_steps_is_one_request(engine: Engine) -> None:
    steps = engine.write()
    assert steps[0].prompt_tokens == len(engine.ids_of([]))
    assert [step.prompt_tokens for step in steps[1:]] == [0] * (len(steps) - 1)


def test_another_worker_goes_on_from_the_ids_that_the_text_has(engine: Engine) -> None:
    steps = ["First we add:\n\n3 + 4 = 7.", "So 7 coins.", "Then 12"]
    text = f"Problem: {QUESTION}\n\n{join_steps(steps)}A"
    whole = list(tokenizer_of(engine.kind).encode(text, add_special_tokens=False).ids)[:-1]
    assert engine.ids_of(steps) == whole
    assert texts(engine.write(steps)) == steps_of(
        tokenizer_of(engine.kind).decode(uninterrupted(engine.kind, whole, seed=0, ends_at=LENGTH)[len(whole) :])
    )
