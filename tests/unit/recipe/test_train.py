"""The recipe at a size that trains in seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the recipe needs the extra `train`")

from recipe import reference  # noqa: E402 - only where torch is
from recipe.problems.drawing import Split, draw  # noqa: E402
from recipe.problems.story import parse  # noqa: E402
from recipe.train import examples, folder, language_model, network, prm  # noqa: E402
from recipe.train.examples import IGNORED, Batches, Example  # noqa: E402
from recipe.train.loop import Schedule, Training  # noqa: E402
from recipe.train.network import Shape  # noqa: E402
from recipe.train.samples import Sample  # noqa: E402
from recipe.train.tokenizer import END, END_ID, END_OF_TEXT, PAD_ID, STEP_TAG_ID, train_tokenizer  # noqa: E402
from shared.cancellation import Cancellation  # noqa: E402
from shared.domain.text import SEPARATOR, STEP_TAG, join_steps  # noqa: E402
from shared.engines.embedded.scorer import EmbeddedScorer  # noqa: E402
from shared.engines.port import Meter, ScoringRequest  # noqa: E402

TOKENIZER = train_tokenizer()
SHAPE = Shape(vocabulary=TOKENIZER.get_vocab_size(), hidden=64, layers=2, heads=2, wide=96)
STORY = next(draw(Split.TRAIN))


def text_of(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=False))


def test_the_tokenizer_has_its_special_tokens_at_their_ids_and_digits_alone() -> None:
    assert [TOKENIZER.token_to_id(token) for token in (END_OF_TEXT, END, STEP_TAG)] == [PAD_ID, END_ID, STEP_TAG_ID]
    assert TOKENIZER.encode("so 62.\n\n").tokens[-3:] == ["6", "2", ".ĊĊ"]


def test_text_is_encoded_alike_as_a_whole_and_step_by_step() -> None:
    for story in islice(draw(Split.TEST), 50):
        whole = examples.encode(TOKENIZER, join_steps(story.steps))
        assert whole == [token for step in story.steps for token in examples.encode(TOKENIZER, step + SEPARATOR)]
        assert text_of(whole) == join_steps(story.steps)


def test_the_forward_pass_computes_what_the_reference_computes() -> None:
    weights = network.fresh_weights(SHAPE, 3)
    ids = np.random.default_rng(0).integers(0, SHAPE.vocabulary, 40)
    states = network.hidden_states(SHAPE, weights, torch.from_numpy(ids)[None])[-1]
    ours = network.norm(states, weights["model.norm.weight"]) @ weights["model.embed_tokens.weight"].T
    config = folder._config(SHAPE, is_prm=False)
    theirs = reference.logits(config, {name: weight.numpy() for name, weight in weights.items()}, ids.tolist())
    assert np.abs(ours[0].numpy() - theirs).max() < 1e-4


def test_a_written_prm_scores_as_it_did_in_training(tmp_path: Path) -> None:
    weights = network.fresh_weights(SHAPE, 3) | network.fresh_score(SHAPE, 3)
    weights = {name: weight * 4 for name, weight in network.half(weights).items()}
    assert folder.write(tmp_path, SHAPE, weights, TOKENIZER) < 1e-3
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Qwen2ForProcessRewardModel"]
    example = prm.judgement(TOKENIZER, Sample(STORY.question, STORY.steps, len(STORY.steps)))
    states = network.hidden_states(SHAPE, {k: v.float() for k, v in weights.items()}, torch.tensor([example.ids]))[-1]
    logits = network.score({k: v.float() for k, v in weights.items()}, states[0])
    expected = logits.softmax(-1)[[token == STEP_TAG_ID for token in example.ids], 1].tolist()
    scorer = EmbeddedScorer(tmp_path)
    try:
        request = ScoringRequest(
            problem_id=uuid4(), question=STORY.question, steps=STORY.steps, newest=len(STORY.steps), timeout_s=60
        )
        scores = scorer.score(request, Cancellation(), Meter())
    finally:
        scorer.close()
    assert scores.values == pytest.approx(expected, abs=1e-4)


def test_heads_of_a_comparing_layer_begin_by_looking_one_token_back() -> None:
    shape = Shape(vocabulary=5, hidden=128, layers=1, heads=4, wide=96)
    weights = network.fresh_weights(shape, 1) | network.comparing_layer(shape, 0, 1)
    # A layer whose heads look one token back, and copy the embedding, returns the token before.
    eye = torch.eye(128)
    weights["model.layers.0.self_attn.v_proj.weight"] = eye
    weights["model.layers.0.self_attn.o_proj.weight"] = eye
    weights["model.layers.0.mlp.down_proj.weight"] = torch.zeros(128, 96)
    weights["model.embed_tokens.weight"] = torch.nn.functional.one_hot(torch.arange(5), 128).float()
    ids = torch.tensor([[0, 1, 2, 3, 4] * 5])
    before, after = network.hidden_states(shape, weights, ids)
    found = (after - before)[0, 1:, :5].argmax(-1)
    assert torch.equal(found, ids[0, :-1])


def test_only_the_solution_and_its_end_are_targets() -> None:
    example = examples.solution(TOKENIZER, STORY)
    known = [token for token in example.targets if token != IGNORED]
    assert text_of(known) == SEPARATOR.join(STORY.steps) + END
    assert text_of(example.ids) == f"Problem: {STORY.question}{SEPARATOR}{SEPARATOR.join(STORY.steps)}{END}"


def test_only_what_follows_from_the_operands_of_a_sheet_is_a_target() -> None:
    example = examples.sheet(TOKENIZER, random.Random(1))
    lines = text_of(example.ids).split(SEPARATOR)
    assert [line[:2] for line in lines[:-1]] == [f"{number})" for number in range(1, 8)]
    predicted = text_of([token for token in example.targets if token != IGNORED])
    assert predicted.count("so ") == sum("so" in line for line in lines)
    assert not any(word in predicted for word in ("has", "That", "coins", ")"))


def test_batches_are_the_same_wherever_training_resumes() -> None:
    def make(rng: random.Random, count: int) -> list[Example]:
        return [examples.sheet(TOKENIZER, rng) for _ in range(count)]

    ours, theirs = (Batches(make, name="sheets", seed=1, size=2) for _ in range(2))
    assert torch.equal(ours[3][0], (ours[0], theirs[3])[1][0])
    assert not torch.equal(ours[3][0], ours[4][0])
    assert ours[3][0].shape[1] % 32 == 0


def test_an_interrupted_training_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    def train(name: str, steps: int) -> Training:
        training = Training(name, {"w": torch.ones(3)}, Schedule(steps=400, rate=0.01), tmp_path)

        def losses(step: int) -> Mapping[str, Any]:
            if training.step == steps:
                raise KeyboardInterrupt
            return {"loss": ((training.weights["w"] - step % 7) ** 2).sum()}

        training.run(losses)
        return training

    whole = train("whole", 400)
    with pytest.raises(KeyboardInterrupt):
        train("cut", 250)
    again = train("cut", 401)
    assert torch.equal(whole.weights["w"], again.weights["w"])
    assert again.step == 400


def test_a_finished_training_is_not_resumed(tmp_path: Path) -> None:
    for _ in range(2):
        training = Training("short", {"w": torch.ones(3)}, Schedule(steps=900, rate=0.01), tmp_path)
        training.run(lambda step: {"loss": (training.weights["w"] ** 2).sum()}, is_enough=lambda: training.step >= 300)  # noqa: B023
        assert training.step == 300


def test_labels_change_at_the_first_error_of_a_step() -> None:
    steps = (*STORY.steps[:1], STORY.steps[1].replace("so 50", "so 59"))
    assert steps[1] != STORY.steps[1]
    example = prm.judgement(TOKENIZER, Sample(STORY.question, steps, 1))
    assert example.tags is not None
    assert [label for label in example.tags if label != IGNORED] == [1, 0]
    right = [token for token, label in zip(example.ids, example.targets, strict=True) if label == 1]
    assert text_of(right) == steps[0] + steps[1].partition("9 coins")[0]


def test_after_the_first_error_every_step_is_wrong_also_where_its_line_matches() -> None:
    steps = (STORY.steps[0], STORY.steps[1].replace("so 50", "so 59"), *STORY.steps[2:])
    example = prm.judgement(TOKENIZER, Sample(STORY.question, steps, 1))
    assert example.tags is not None
    assert [label for label in example.tags if label != IGNORED] == [1, *[0] * (len(steps) - 1)]
    assert example.targets[-2] == 0, "the last token is what is expected, and still not right"


def test_a_corrupted_step_differs_in_one_digit_after_its_start() -> None:
    rng, step = random.Random(1), STORY.steps[1]
    for _ in range(50):
        changed = prm.corrupted(rng, step, 12)
        assert changed[:12] == step[:12]
        assert sum(a != b for a, b in zip(changed, step, strict=True)) == 1


def test_a_step_is_mistold_by_a_digit_or_by_another_effect_of_the_event() -> None:
    rng = random.Random(1)
    mistold = {prm.mistold(rng, "1) That makes 4+6: 4+6=10, 0+0+1=1, so 10 coins.") for _ in range(200)}
    assert "1) That leaves 4+6: 4+6=10, 0+0+1=1, so 10 coins." in mistold
    assert "1) That makes 4+6: 4+6=10, 0+0+1=1, so 19 coins." in mistold
    assert all(text.startswith("1) That ") and text.endswith(" coins.") for text in mistold)


def test_a_language_model_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = language_model.Plan(
        name="tiny",
        shape=SHAPE,
        schedule=Schedule(steps=50, rate=3e-3),
        seed=1,
        sheets_until=1.0,
        short_until=1.0,
    )
    language_model.train(plan, TOKENIZER, tmp_path)
    loss = float(capsys.readouterr().out.split("sheets ")[1].split()[0])
    assert loss < 5, "it begins above 6"


def test_the_model_under_a_prm_still_predicts_the_token_that_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = language_model.Plan(
        name="telling",
        shape=SHAPE,
        schedule=Schedule(steps=50, rate=3e-3),
        seed=1,
        sheets_until=1.0,
        short_until=1.0,
        identity=0.2,
    )
    weights = language_model.train(plan, TOKENIZER, tmp_path)
    loss = float(capsys.readouterr().out.split("identity ")[1].split()[0])
    assert loss < 1.0, "it begins above 1.2"
    assert set(network.without_helpers(weights)) == set(network.fresh_weights(SHAPE, 1))


def test_transformers_and_vllm_cut_text_as_our_tokenizer_does(tmp_path: Path) -> None:
    """They replace a tokenizer's rule by Qwen2's for any model whose type is Qwen2."""
    transformers = pytest.importorskip("transformers")
    folder.write(tmp_path, SHAPE, network.fresh_weights(SHAPE, 3), TOKENIZER)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for story in islice(draw(Split.TEST), 20):
        text = text_of(examples.solution(TOKENIZER, story).ids)
        assert theirs(text, add_special_tokens=False).input_ids == TOKENIZER.encode(text, add_special_tokens=False).ids


def test_tokens_are_exchanged_in_steps_alone_and_digits_for_digits() -> None:
    maker = prm._Maker(TOKENIZER, [])
    exchanged = 0
    for example in maker.exchanged(random.Random(1), 20):
        question, _, steps = text_of(example.ids).partition(SEPARATOR)
        story = parse(question.removeprefix("Problem: "))
        right = prm.judgement(TOKENIZER, Sample(story.question, story.steps, len(story.steps)))
        assert steps
        for new, old in zip(example.ids, right.ids, strict=True):
            exchanged += new != old
            assert text_of([new]).isdigit() or not text_of([old]).isdigit()
    assert 20 < exchanged < 400


def test_a_token_that_the_large_model_did_not_expect_is_a_surprise() -> None:
    weights = network.fresh_weights(SHAPE, 3)
    ids = torch.tensor([[5, 6, 7, 8]])
    states = network.norm(network.hidden_states(SHAPE, weights, ids)[-1], weights["model.norm.weight"])
    # An output layer that expects 6 after everything.
    weights["model.embed_tokens.weight"] = torch.zeros_like(weights["model.embed_tokens.weight"])
    weights["model.embed_tokens.weight"][6] = 50 * states[0, 0] / states[0, 0].norm()
    handed_on = network.hidden_states(SHAPE, network.fresh_weights(SHAPE, 3), ids)[-1]
    handed_on[:] = handed_on[:, :1]
    found = prm._surprises(weights, handed_on, ids, torch.tensor([[IGNORED, 1, 1, IGNORED]]))
    assert found.tolist() == [[IGNORED, 1, 0, IGNORED]]


PLAN = prm.Plan(
    name="tiny-prm",
    layers=2,
    fresh_layers=2,
    adapting=Schedule(steps=2, rate=1e-3),
    judging=Schedule(steps=12, rate=1e-3),
    seed=1,
    compare_until=0.2,
    simple_until=0.5,
)


def prm_samples() -> list[Sample]:
    """Make samples of both kinds."""
    stories = list(islice(draw(Split.TRAIN), 6))
    right = [Sample(story.question, story.steps, len(story.steps)) for story in stories]
    return right + [Sample(story.question, (prm.mistold(random.Random(1), story.steps[0]),), 0) for story in stories]


def test_a_prm_is_trained_on_top_of_a_language_model_whose_layers_then_stay_as_they_are(tmp_path: Path) -> None:
    weights = network.fresh_weights(SHAPE, 3) | network.fresh_identity(SHAPE, 3)
    samples = prm_samples()
    arguments: dict[str, Any] = {"model": SHAPE, "weights": weights, "training": samples, "held_out": samples}
    trained = prm.train(PLAN, TOKENIZER, **arguments, folder=tmp_path)
    adapted = torch.load(tmp_path / "tiny-prm-layers.pt")["weights"]
    for name, weight in trained.items():
        if name.startswith("model.layers.0.") or name == "model.embed_tokens.weight":
            assert torch.equal(weight, adapted[name]), name
    assert folder.write(tmp_path / "model", prm.shape_of(PLAN, SHAPE), trained, TOKENIZER) < 1e-3
    again = prm.train(PLAN, TOKENIZER, **arguments, folder=tmp_path)
    assert all(torch.equal(again[name], weight) for name, weight in trained.items())


def test_a_prm_may_take_the_first_layers_alone_of_a_model_that_was_read_from_a_folder(tmp_path: Path) -> None:
    folder.write(tmp_path / "base", SHAPE, network.fresh_weights(SHAPE, 3), TOKENIZER)
    plan = replace(PLAN, layers=1, fresh_layers=1, judging=Schedule(steps=2, rate=1e-3))
    samples = prm_samples()
    base = folder.read(tmp_path / "base")
    trained = prm.train(plan, TOKENIZER, model=SHAPE, weights=base, training=samples, held_out=samples, folder=tmp_path)
    assert prm.shape_of(plan, SHAPE) == SHAPE
    fresh = network.fresh_weights(SHAPE, 3) | network.fresh_score(SHAPE, 3)
    assert {name: weight.shape for name, weight in trained.items()} == {
        name: weight.shape for name, weight in fresh.items()
    }


def test_weights_are_read_as_they_were_rounded_when_they_were_written(tmp_path: Path) -> None:
    weights = network.fresh_weights(SHAPE, 3)
    folder.write(tmp_path, SHAPE, weights, TOKENIZER)
    read = folder.read(tmp_path)
    assert all(torch.equal(read[name], weight.float()) for name, weight in network.half(weights).items())
    assert all(weight.dtype == torch.float32 for weight in read.values())


def test_the_lowest_layers_keep_what_all_layers_share() -> None:
    weights = network.fresh_weights(replace(SHAPE, layers=12), 3)
    kept = network.lowest_layers(weights, 2)
    assert kept.keys() == network.fresh_weights(replace(SHAPE, layers=2), 3).keys()
