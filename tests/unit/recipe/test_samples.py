"""Sampling of the PRM's training problems, interrupted and resumed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from evaluation.offline import GREEDY, Models
from recipe.problems.drawing import Split, draw
from recipe.train.samples import corrected, held_out, mixed, read, sample_training
from shared.domain.options import Sampling
from tests.unit.engines.bundled import MODELS

PLAN = [(GREEDY, 2)]


def test_a_half_written_line_is_replaced(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    with Models(MODELS / "small", MODELS / "large") as models:
        sample_training(models, whole, corrected, seed=7, plan=PLAN)
        broken.write_text(whole.read_text()[:-9])
        sample_training(models, broken, corrected, seed=7, plan=PLAN)
        assert broken.read_text() == whole.read_text()
        sample_training(models, broken, corrected, seed=7, plan=PLAN)  # All is there: nothing more is written.
    assert broken.read_text() == whole.read_text()
    assert read(broken)


def test_held_out_samples_end_at_the_first_error_and_depend_on_the_sampling() -> None:
    with Models(MODELS / "small", MODELS / "large") as models:
        greedy, sampled = held_out(models, 8, GREEDY), held_out(models, 8, Sampling())
    assert [sample.question for sample in sampled] == [sample.question for sample in greedy]
    assert any(ours.steps != theirs.steps for ours, theirs in zip(sampled, greedy, strict=True))
    for sample in (*greedy, *sampled):
        assert sample.right in {len(sample.steps) - 1, len(sample.steps)}


def test_mixed_samples_go_on_after_the_first_error() -> None:
    stories = list(islice(draw(Split.TRAIN), 12))
    with Models(MODELS / "small", MODELS / "large") as models:
        samples = mixed(models, stories, Sampling())
    assert [sample.question for sample in samples] == [story.question for story in stories]
    assert any(sample.right < len(sample.steps) - 1 for sample in samples)
    assert any(sample.right == len(sample.steps) for sample in samples)
