"""The engine vllm writes what its model writes without interruption, token for token; its engine is played here."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.engines.event_loop import EventLoop
from shared.engines.port import GeneratedStep, Meter
from tests.unit.engines.bundled import make_request, texts
from tests.unit.engines.sensitive_model import next_token, steps_of, uninterrupted
from tests.unit.engines.tokenizer_kinds import END, tokenizer_of

pytest.importorskip("vllm", reason="needs vLLM; run make test-vllm")

from shared.engines.vllm.generator import VllmGenerator
from shared.engines.vllm.model import Model

if TYPE_CHECKING:
    from vllm import SamplingParams

QUESTION = "How many coins does Kim have?"
LENGTH = 150
KINDS = ("gpt2", "qwen", "colon", "bytes", "newlines")
SEEDS = range(3)


class Played:
    """Stands in for vLLM's engine, with a sensitive model."""

    errored = False

    def __init__(self, kind: str) -> None:
        self.kind, self.seed, self.requests = kind, 0, 0

    def get_tokenizer(self) -> Any:
        return SimpleNamespace(apply_chat_template=lambda messages, **_: f"Q: {messages[-1]['content']}\n\n")

    async def generate(self, prompt: Any, sampling: SamplingParams, _name: str) -> AsyncIterator[Any]:
        """Write until a stop, the end or the limit; one output a token, or one in all."""
        self.requests += 1
        ids, written = list(prompt["prompt_token_ids"]), list[int]()
        end, finish, stop = tokenizer_of(self.kind).token_to_id(END), None, None
        while finish is None:
            token = next_token(self.kind, [*ids, *written], seed=self.seed, ends_at=LENGTH)
            written.append(token)
            text = tokenizer_of(self.kind).decode(written)
            stop = next((each for each in sampling.stop or () if each in text), None)
            if token == end or stop is not None:
                finish = "stop"
            elif len(written) >= (sampling.max_tokens or LENGTH):
                finish = "length"
            if sampling.output_kind.name == "DELTA":
                yield _output([token], finish, stop)
        if sampling.output_kind.name != "DELTA":
            yield _output(written, finish, stop)

    def shutdown(self) -> None:
        pass


def _output(ids: list[int], finish: str | None, stop: str | None) -> Any:
    written = SimpleNamespace(token_ids=ids, finish_reason=finish, stop_reason=stop, logprobs=None)
    return SimpleNamespace(num_cached_tokens=0, outputs=[written])


def generator_of(kind: str, *, style: Any = "completions", template: str = "Problem: {question}\n\n") -> VllmGenerator:
    model = Model.__new__(Model)
    model.name, model.max_tokens, model.tokenizer = kind, 2 * LENGTH, tokenizer_of(kind)
    model.tags = {}
    model._special, model._names = re.compile("(?!)"), iter(range(10**6))  # type: ignore[assignment]
    model._loop, model._engine = EventLoop(kind), Played(kind)  # type: ignore[assignment]
    return VllmGenerator(model, style=style, template=template)


@pytest.fixture(params=KINDS)
def generator(request: pytest.FixtureRequest) -> Iterator[VllmGenerator]:
    with closing(generator_of(request.param)) as made:
        yield made


def played(generator: VllmGenerator) -> Played:
    engine = generator._model._engine
    assert isinstance(engine, Played)
    return engine


def write(generator: VllmGenerator, prefix: Sequence[str] = (), *, max_steps: int = 30) -> list[GeneratedStep]:
    meter = Meter()
    request = make_request(QUESTION, prefix, max_steps=max_steps)
    steps = list(generator.stream(request, Cancellation(), meter))
    # A request for one step stops at the blank lines that models commonly write, and past those that they do not.
    assert meter == Meter(tokens=meter.tokens if max_steps == 1 else 0)
    return steps


def one_by_one(generator: VllmGenerator, prefix: Sequence[str] = ()) -> list[GeneratedStep]:
    steps: list[GeneratedStep] = []
    while not steps or steps[-1].finish is Finish.SEPARATOR:
        steps += write(generator, [*prefix, *texts(steps)], max_steps=1)
    return steps


def expected(generator: VllmGenerator, prefix: Sequence[str]) -> tuple[list[str], int]:
    """Return the steps that the model writes in one go after a prefix, and the number of tokens with its end."""
    engine, ids = played(generator), generator._solution(QUESTION, prefix)[0].ids
    whole = uninterrupted(engine.kind, ids, seed=engine.seed, ends_at=LENGTH)
    return steps_of(tokenizer_of(engine.kind).decode(whole[len(ids) :])), len(whole) - len(ids) + 1


@pytest.mark.parametrize("seed", SEEDS)
def test_any_number_of_steps_a_call_gives_the_uninterrupted_solution(generator: VllmGenerator, seed: int) -> None:
    engine = played(generator)
    engine.seed = seed
    whole, tokens = expected(generator, ())
    at_once = write(generator)
    assert (texts(at_once), sum(step.tokens for step in at_once)) == (whole, tokens)
    assert engine.requests == 1
    assert [step.prompt_tokens > 0 for step in at_once] == [True, *[False] * (len(at_once) - 1)]
    generator._encoder.written.clear()
    assert [(step.text, step.tokens) for step in one_by_one(generator)] == [
        (each.text, each.tokens) for each in at_once
    ]
    generator._encoder.written.clear()
    begun = write(generator, max_steps=2)
    assert texts([*begun, *write(generator, texts(begun))]) == whole


@pytest.mark.parametrize("seed", SEEDS)
def test_the_solution_goes_on_after_a_step_of_another_model(generator: VllmGenerator, seed: int) -> None:
    played(generator).seed = seed
    (first, *_) = write(generator)
    prefix = [first.text, "So we have:\n\n3 + 4 = 7."]
    assert texts(write(generator, prefix)) == expected(generator, prefix)[0]
    assert texts(one_by_one(generator, prefix)) == expected(generator, prefix)[0]


def test_the_input_of_each_request_is_booked(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(generator_of("qwen")) as generator:
        sizes = list[int]()
        generate: Callable[..., Any] = played(generator).generate

        def counted(prompt: Any, sampling: Any, name: str) -> Any:
            sizes.append(len(prompt["prompt_token_ids"]))
            return generate(prompt, sampling, name)

        monkeypatch.setattr(played(generator), "generate", counted)
        for seed in range(60):
            played(generator).seed = seed
            sizes.clear()
            (step,) = write(generator, max_steps=1)
            assert step.prompt_tokens == sum(sizes)
            if len(sizes) > 1:
                return
    raise AssertionError("no step took a second request")


def test_a_chat_template_keeps_its_end() -> None:
    with closing(generator_of("gpt2", style="chat")) as generator:
        ids = generator._solution(QUESTION, ())[0].ids
        assert ids == list(tokenizer_of("gpt2").encode(f"Q: {QUESTION}\n\n").ids)
