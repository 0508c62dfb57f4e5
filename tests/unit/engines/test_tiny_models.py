"""Models with random weights: the embedded engine writes in steps what they write in one go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.domain.text import split_step
from shared.engines.embedded.generator import EmbeddedGenerator
from tests.unit.engines.bundled import make_request, texts, write
from tests.unit.engines.tiny_models import SEEDS, tiny_model, uninterrupted
from tests.unit.engines.tokenizer_kinds import tokenizer_of

QUESTION = "How many?"
TOKENS = 48


@pytest.fixture(params=["gpt2", "qwen"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[EmbeddedGenerator, list[str]]]:
    """A generator, and the steps that its model writes in one go."""
    kind = request.param
    folder = tiny_model(tmp_path / kind, kind, seed=SEEDS[kind])
    with closing(EmbeddedGenerator(folder)) as generator:
        prompt = generator.question_ids(QUESTION)
        rest, steps = tokenizer_of(kind).decode(uninterrupted(folder, prompt, TOKENS)[len(prompt) :]), list[str]()
        while (cut := split_step(rest)) is not None:
            step, rest = cut
            steps.append(step)
        yield generator, steps


def test_one_call_writes_what_the_model_writes_in_one_go(model: tuple[EmbeddedGenerator, list[str]]) -> None:
    generator, steps = model
    assert len(steps) >= 2
    assert texts(write(generator, make_request(QUESTION, max_steps=len(steps)))) == steps


def test_workers_that_know_only_the_text_go_on_in_the_same_way(model: tuple[EmbeddedGenerator, list[str]]) -> None:
    generator, steps = model
    for index, step in enumerate(steps):
        generator._encoder.written.clear()
        assert texts(write(generator, make_request(QUESTION, steps[:index], max_steps=1))) == [step]
