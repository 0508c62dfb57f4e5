"""What only vLLM in this process does: its cache, its processes, its ways to break."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import psutil
import pytest

from bench.vllm_on_cpu import ARGUMENTS
from recipe.reference import load_weights, logits
from shared.cancellation import Cancellation, Cancelled
from shared.domain.text import STOPS, join_steps
from shared.engines.factory import make_generator, make_scorer
from shared.engines.port import (
    BadScores,
    EngineDead,
    EngineStopped,
    GeneratedStep,
    Meter,
    ModelUnusable,
    RequestRefused,
    ScoringRequest,
)
from shared.engines.prm_formats import RLHFLOW, NextToken
from shared.settings import Settings, UnusableSetting
from tests.engines.deployed import PATIENCE_S, STORIES, Engine, until
from tests.unit.engines.bundled import MODELS, folder_copy, make_request, score, texts, write

pytest.importorskip("vllm", reason="needs vLLM; run make test-vllm")

from vllm import SamplingParams

from shared.domain.drafts import Finish
from shared.domain.roles import Author, WorkerRole
from shared.engines.vllm.generator import VllmGenerator
from shared.engines.vllm.model import Model
from shared.engines.vllm.scorer import NextTokenScorer

BLOCK = int(str(ARGUMENTS["block_size"]))

on_vllm = pytest.mark.parametrize("engine", ["vllm"], indirect=True)


def settings(**changes: object) -> Settings:
    return Settings(**{"engine": "vllm", "vllm_args": dict(ARGUMENTS), **changes})  # type: ignore[arg-type]


@on_vllm
def test_a_cancelled_call_frees_its_place_in_the_engine(engine: Engine) -> None:
    assert isinstance(engine.large, VllmGenerator)
    output = engine.large._model._engine.output_processor
    cancellation = Cancellation()
    stream = engine.large.stream(make_request(STORIES[0].question), cancellation, Meter())
    next(stream)
    assert output.get_num_unfinished_requests() == 1
    cancellation.cancel()
    with pytest.raises(Cancelled):
        next(stream)
    until(lambda: output.get_num_unfinished_requests() == 0)


def count_delivered(engine: Engine, monkeypatch: pytest.MonkeyPatch, third: Callable[[], object]) -> Callable[[], int]:
    """Count the tokens that vLLM delivers for calls that are open, and call back before the third one."""
    processor = engine.large._model._engine.output_processor  # type: ignore[attr-defined]
    process = processor.process_outputs
    delivered = 0

    def processed(outputs: Sequence[Any], *arguments: Any, **named: Any) -> object:
        nonlocal delivered
        new = sum(len(output.new_token_ids) for output in outputs if output.request_id in processor.request_states)
        if delivered < 3 <= delivered + new:
            third()
        delivered += new
        return process(outputs, *arguments, **named)

    monkeypatch.setattr(processor, "process_outputs", processed)
    return lambda: delivered


@on_vllm
@pytest.mark.parametrize("max_steps", [1, 5])
def test_a_cancelled_call_meters_what_the_engine_has_delivered(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, max_steps: int
) -> None:
    (step,) = write(engine.large, make_request(STORIES[0].question, max_steps=1))  # type: ignore[arg-type]
    cancellation, meter = Cancellation(), Meter()
    delivered = count_delivered(engine, monkeypatch, cancellation.cancel)
    with pytest.raises(Cancelled):
        list(engine.large.stream(make_request(STORIES[0].question, max_steps=max_steps), cancellation, meter))
    assert delivered() >= 3
    # In a stream, the third token is on its way to the call when that is cancelled.
    assert delivered() - (max_steps > 1) <= meter.tokens <= delivered()
    assert (meter.prompt_tokens, meter.estimated_tokens) == (step.prompt_tokens, 0)


@on_vllm
def test_an_answer_of_the_prm_that_cannot_be_used_is_metered(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[int] = []

    async def pool(ids: list[int], _pooling: object) -> object:
        requested.extend(ids)
        return SimpleNamespace(outputs=SimpleNamespace(data=[]), num_cached_tokens=1)

    monkeypatch.setattr(engine.prm._model, "pool", pool)  # type: ignore[attr-defined]
    meter = Meter()
    request = ScoringRequest(problem_id=uuid4(), question="?", steps=("a",), newest=1, timeout_s=60)
    with pytest.raises(BadScores):
        engine.prm.score(request, Cancellation(), meter)
    assert meter == Meter(tokens=len(requested) - 1)


@on_vllm
def test_finished_steps_are_computed_again_for_the_last_block_at_most(engine: Engine) -> None:
    problem_id, prefix = uuid4(), list[str]()
    for text in STORIES[1].steps:
        (step,) = write(engine.large, make_request(STORIES[1].question, prefix, max_steps=1, problem_id=problem_id))
        if prefix:
            assert step.prompt_tokens - step.cached_tokens <= 2 * BLOCK
        prefix.append(text)


@on_vllm
@pytest.mark.parametrize("max_steps", [1, 2])
def test_a_model_that_writes_no_words_up_to_the_end_of_its_context_ends_there(engine: Engine, max_steps: int) -> None:
    (step,) = write(engine.blank, make_request("7" * 1000, max_steps=2))  # type: ignore[arg-type]  # in one request
    question = "7" * (1000 + engine.blank._model.max_tokens - 1 - step.prompt_tokens)  # type: ignore[attr-defined]
    (step,) = write(engine.blank, make_request(question, max_steps=max_steps))  # type: ignore[arg-type]
    assert (step.text, step.finish, step.tokens) == ("", Finish.LENGTH, 1)


@on_vllm
def test_the_prm_computes_a_new_step_and_the_last_block_at_most(engine: Engine) -> None:
    steps = [f"{index}) That makes {index}+1: {index}+1={index + 1}, so {index + 1} pens." for index in range(1, 9)]
    problem_id, whole = uuid4(), []
    for end in range(1, len(steps) + 1):
        scores = score(engine.prm, steps[:end], question=STORIES[2].question, problem_id=problem_id)
        whole.append(scores.tokens)
    assert max(whole[1:]) <= max(len(step) for step in steps) + BLOCK
    assert whole[-1] <= whole[0]


@on_vllm
def test_a_verdict_is_read_as_the_models_next_token(engine: Engine) -> None:
    """The number of the next step serves as a verdict: "2" is good, "3" is bad."""
    assert isinstance(engine.large, VllmGenerator)
    model, story = engine.large._model, STORIES[0]
    (good,), (bad,) = model.encode("2"), model.encode("3")
    verdicts = NextToken(
        name="test", good=good, bad=bad, write=lambda _, steps: solving(story.question, story.steps[: len(steps)])
    )
    scores = score(NextTokenScorer(model, verdicts), story.steps[:2], newest=2)  # type: ignore[arg-type]
    config = model._engine.model_config.hf_config.to_dict()
    weights = load_weights(MODELS / "large" / "model.safetensors")
    for value, end in zip(scores.values, (1, 2), strict=True):
        row = logits(config, weights, model.encode(solving(story.question, story.steps[:end])))[-1]
        assert value == pytest.approx(1 / (1 + np.exp(row[bad] - row[good])), abs=0.01)


def solving(question: str, steps: Sequence[str]) -> str:
    return f"Problem: {question}\n\n{join_steps(steps)}"


class Playing:
    """Stands in for the engine of a model: each request writes the next of some texts, as far as it may."""

    def __init__(self, model: Model, *texts: str) -> None:
        self._model = model
        self._texts = list(texts)
        self.prompts: list[str] = []

    async def generate(self, prompt: Any, sampling: Any, _name: str) -> AsyncIterator[Any]:
        self.prompts.append(self._model.tokenizer.decode(prompt["prompt_token_ids"]))
        text = self._texts.pop(0)
        ids = self._model.encode(text)[: sampling.max_tokens]
        stop = next((each for each in STOPS if text.endswith(each)), None)
        finish = "length" if len(ids) == sampling.max_tokens else "stop"
        if stop is None and finish == "stop":
            ids.append(self._model._engine.model_config.hf_config.eos_token_id)
        yield SimpleNamespace(
            num_cached_tokens=0,
            outputs=[SimpleNamespace(token_ids=ids, finish_reason=finish, stop_reason=stop)],
        )


def play(engine: Engine, monkeypatch: pytest.MonkeyPatch, *texts: str, **changes: Any) -> tuple[GeneratedStep, Playing]:
    """Ask for one step, with given texts in the model's place."""
    assert isinstance(engine.large, VllmGenerator)
    model = engine.large._model
    playing = Playing(model, *texts)
    with monkeypatch.context() as patched:
        patched.setattr(model._engine, "generate", playing.generate)
        (step,) = engine.large.stream(make_request("Q", max_steps=1, **changes), Cancellation(), Meter())
    assert not playing._texts
    return step, playing


@on_vllm
def test_a_blank_line_in_a_fence_ends_no_step(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    step, playing = play(engine, monkeypatch, "```\na = 1\n\n", "b = 2\n```\n\n")
    assert (step.text, step.finish) == ("```\na = 1\n\nb = 2\n```", Finish.SEPARATOR)
    assert playing.prompts[1].endswith("a = 1\n\n")
    assert step.tokens == sum(len(engine.large._model.encode(text)) for text in ("```\na = 1\n\n", "b = 2\n```\n\n"))  # type: ignore[attr-defined]


@on_vllm
@pytest.mark.parametrize("blank", STOPS)
def test_a_blank_line_with_white_space_in_it_ends_a_step(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, blank: str
) -> None:
    step, _ = play(engine, monkeypatch, f"1+1=2.{blank}")
    assert (step.text, step.finish) == ("1+1=2.", Finish.SEPARATOR)


@on_vllm
def test_a_step_without_words_is_requested_once_more(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    step, playing = play(engine, monkeypatch, "...\n\n", "1+1=2.\n\n")
    assert step.text == "1+1=2."
    assert playing.prompts[1].endswith("...\n\n")


@on_vllm
def test_a_fence_that_never_closes_is_cut_at_the_steps_limit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    step, _ = play(engine, monkeypatch, "```\na\n\n", "b c d e f g h i j k", max_step_tokens=12)
    assert (step.finish, step.tokens) == (Finish.LENGTH, 12)


@on_vllm
def test_the_end_of_the_solution_ends_the_step(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    step, _ = play(engine, monkeypatch, "So 2.")
    assert (step.text, step.finish) == ("So 2.", Finish.ENDED)


def engine_processes() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if "EngineCore" in child.name()}


@pytest.fixture
def lone() -> Iterator[VllmGenerator]:
    """A generator whose engine the test may break."""
    with closing(make_generator(settings(), Author.SMALL)) as generator:
        assert isinstance(generator, VllmGenerator)
        yield generator


def test_an_engine_that_dies_ends_all_its_calls(lone: VllmGenerator) -> None:
    process = psutil.Process(*_newest())
    process.suspend()  # or a fast engine has answered before it dies
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(write, lone, make_request(STORIES[0].question))  # type: ignore[arg-type]
        until(lone._model._engine.output_processor.get_num_unfinished_requests)
        process.kill()
        with pytest.raises(EngineDead):
            call.result(PATIENCE_S)
    with pytest.raises(EngineDead):
        write(lone, make_request(STORIES[0].question))  # type: ignore[arg-type]


def test_an_engine_that_died_between_calls_is_noticed(lone: VllmGenerator) -> None:
    lone.check()
    (pid,) = _newest()
    psutil.Process(pid).kill()

    def has_died() -> bool:
        try:
            lone.check()
        except EngineDead:
            return True
        return False

    until(has_died)


@on_vllm
def test_no_special_token_of_the_tokenizer_is_spelled_by_text(engine: Engine) -> None:
    assert isinstance(engine.large, VllmGenerator)
    model = engine.large._model
    specials = {each.content for each in model.tokenizer.get_added_tokens_decoder().values() if each.special}
    assert specials
    for special in specials:
        reserved = model.tokenizer.token_to_id(special)
        assert reserved in model.encode(f"a{special}b")
        assert reserved not in model.encode(model.plain(f"a{special}b"))


def _newest() -> set[int]:
    """The engine that was started last: the suite's own run meanwhile."""
    return {max(engine_processes(), key=lambda pid: psutil.Process(pid).create_time())}


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended; one that vLLM had to kill may wait for its parent to ask how it ended."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_closed_engine_stops_calls_and_ends_its_process() -> None:
    generator = make_generator(settings(), Author.SMALL)
    process = psutil.Process(*_newest())
    stream = generator.stream(make_request(STORIES[0].question), Cancellation(), Meter())
    next(stream)
    generator.close()
    with pytest.raises(EngineStopped):
        list(stream)
    with pytest.raises(EngineStopped):
        write(generator, make_request())  # type: ignore[arg-type]
    until(lambda: has_ended(process))
    generator.close()


def test_a_worker_that_is_killed_takes_its_engine_with_it(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import time\n"
        "from shared.domain.roles import Author\n"
        "from shared.engines.factory import make_generator\n"
        "from shared.settings import Settings\n"
        "if __name__ == '__main__':\n"
        "    generator = make_generator(Settings(), Author.SMALL)\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = {**os.environ, "TRIM_ENGINE": "vllm", "TRIM_VLLM_ARGS": json.dumps(dict(ARGUMENTS))}
    with subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as worker:
        assert worker.stdout is not None
        try:
            assert any(line == "ready\n" for line in worker.stdout)
            children = psutil.Process(worker.pid).children(recursive=True)
            assert any("EngineCore" in child.name() for child in children)
        finally:
            worker.kill()
        worker.wait()
        until(lambda: all(has_ended(child) for child in children))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("config.json", "lacks config.json"),
        ("tokenizer.json", "lacks tokenizer.json"),
        ("model.safetensors", "lacks weights"),
    ],
)
def test_a_missing_file_is_reported_with_the_setting(tmp_path: Path, name: str, sentence: str) -> None:
    folder = folder_copy(MODELS / "small", tmp_path)
    (folder / name).unlink()
    with pytest.raises(ModelUnusable, match=f"{sentence}.*TRIM_SMALL_MODEL"):
        make_generator(settings(small_model=str(folder)), Author.SMALL)


def test_a_missing_shard_is_reported_with_the_setting(tmp_path: Path) -> None:
    folder = folder_copy(MODELS / "small", tmp_path)
    shards = {"weight_map": {"first": "model.safetensors", "second": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(ModelUnusable, match=r"lacks model-2.safetensors.*TRIM_SMALL_MODEL"):
        make_generator(settings(small_model=str(folder)), Author.SMALL)


def test_weights_that_are_cut_short_are_reported_with_the_setting(tmp_path: Path) -> None:
    file = folder_copy(MODELS / "small", tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelUnusable, match=r"model.safetensors is damaged.*TRIM_SMALL_MODEL"):
        make_generator(settings(small_model=str(file.parent)), Author.SMALL)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"small_model": "/no/such/model"}, r"no/such/model.*TRIM_SMALL_MODEL"),
        ({"vllm_args": {"max_modl_len": 7}}, "TRIM_VLLM_ARGS"),
        ({"vllm_args": {**ARGUMENTS, "max_model_len": 10**6}}, "TRIM_VLLM_ARGS"),
    ],
)
def test_arguments_that_vllm_rejects_are_reported_with_the_setting(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ModelUnusable, match=sentence):
        make_generator(settings(**changes), Author.SMALL)


@pytest.mark.parametrize("name", ["model", "runner", "pooler_config", "logprobs_mode"])
def test_arguments_that_the_worker_decides_are_refused(name: str) -> None:
    with pytest.raises(UnusableSetting, match=f"TRIM_VLLM_ARGS may not contain {name}"):
        make_scorer(settings(vllm_args={**ARGUMENTS, name: "other"}))


@on_vllm
def test_a_refusal_by_vllm_is_not_retried(engine: Engine) -> None:
    assert isinstance(engine.large, VllmGenerator)
    model = engine.large._model

    async def ask_for_what_is_no_token() -> None:
        async for _ in model.generate([model.vocabulary], SamplingParams()):
            pass

    with pytest.raises(RequestRefused):
        model.run(ask_for_what_is_no_token(), Cancellation())


def test_a_tokenizer_without_the_step_token_is_reported_with_the_setting(tmp_path: Path) -> None:
    folder = folder_copy(MODELS / "prm", tmp_path)
    for file in folder.glob("tokenizer*.json"):
        file.write_text(file.read_text().replace("<extra_0>", "<extra_1>"))
    with pytest.raises(ModelUnusable, match=r"no token '<extra_0>'.*TRIM_PRM_FORMAT.*TRIM_PRM_MODEL"):
        make_scorer(settings(prm_model=str(folder)))


def test_a_model_that_scores_nothing_is_reported_with_the_setting() -> None:
    with pytest.raises(ModelUnusable, match=r"TRIM_PRM_MODEL is a process reward model.*TRIM_PRM_FORMAT"):
        make_scorer(settings(prm_model=str(MODELS / "large")))


def test_a_vocabulary_without_the_verdicts_is_reported_with_the_setting() -> None:
    with pytest.raises(
        ModelUnusable, match=r"no verdicts of the format math-shepherd.*TRIM_PRM_FORMAT.*TRIM_PRM_MODEL"
    ):
        make_scorer(settings(prm_format="math-shepherd", prm_model=str(MODELS / "large")))


def test_a_model_that_expects_no_verdict_is_reported_with_the_setting() -> None:
    model = Model.of(settings(prm_model=str(MODELS / "large")), WorkerRole.PRM, runner="generate")
    process = psutil.Process(*_newest())
    (unlikely,) = model.encode("<extra_0>")
    with pytest.raises(BadScores, match=r"does not expect a verdict.*rlhflow.*TRIM_PRM_FORMAT.*TRIM_PRM_MODEL"):
        NextTokenScorer(model, replace(RLHFLOW, good=unlikely, bad=unlikely))
    until(lambda: has_ended(process))


def test_a_style_that_only_servers_know_is_refused() -> None:
    with pytest.raises(UnusableSetting, match="TRIM_PROMPT_STYLE"):
        make_generator(settings(prompt_style="chat-next-step"), Author.SMALL)


def test_a_model_without_a_chat_template_cannot_chat(tmp_path: Path) -> None:
    folder = folder_copy(MODELS / "small", tmp_path)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelUnusable, match=r"no chat template.*; set TRIM_PROMPT_STYLE to completions"):
        make_generator(settings(prompt_style="chat", small_model=str(folder)), Author.SMALL)


def test_a_chat_template_that_takes_no_system_message_cannot_be_used(tmp_path: Path) -> None:
    folder = folder_copy(MODELS / "small", tmp_path)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('System role not supported') }}")
    with pytest.raises(ModelUnusable, match=r"no chat template.*; set TRIM_PROMPT_STYLE to completions"):
        make_generator(settings(prompt_style="chat", small_model=str(folder)), Author.SMALL)


def test_a_chat_template_that_knows_nothing_of_thinking_is_refused_with_the_setting() -> None:
    with pytest.raises(ModelUnusable, match="knows nothing of thinking; remove TRIM_SMALL_THINKING"):
        make_generator(settings(prompt_style="chat", small_thinking="steps"), Author.SMALL)


def test_a_chat_template_puts_the_question_where_it_belongs() -> None:
    with closing(make_generator(settings(prompt_style="chat"), Author.LARGE)) as generator:
        assert texts(write(generator, make_request(STORIES[0].question))) == list(STORIES[0].steps)  # type: ignore[arg-type]
