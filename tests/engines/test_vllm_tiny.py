"""A tiny model on real vLLM, in the worker and behind its server: it writes in steps what it writes in one go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import pytest

from bench.vllm_on_cpu import ARGUMENTS
from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.thoughts import CLOSES, OPENS, as_thought
from shared.engines.openai.generator import OpenAIGenerator
from shared.engines.openai.prompts import Style
from shared.engines.port import GeneratedStep, Meter
from shared.engines.thinking import Thinking
from tests.engines.deployed import start_server, stop_servers, wait_until_up
from tests.unit.engines.bundled import make_request, texts
from tests.unit.engines.fake_server import server_at
from tests.unit.engines.sensitive_model import steps_of
from tests.unit.engines.tiny_models import SEEDS, tiny_model
from tests.unit.engines.tokenizer_kinds import THINKING

pytest.importorskip("vllm", reason="needs vLLM; run make test-vllm")

from vllm import SamplingParams

from shared.engines.vllm.generator import VllmGenerator
from shared.engines.vllm.model import Model

TEMPLATE = "Problem: {question}\n"
TOKENS = 40

CASES: Mapping[Style, tuple[str, str]] = {
    "completions": ("388?", "Problem: 388?\n"),
    "chat": ("104?", f"Problem: 104?\n:{OPENS}\n\n{CLOSES}\n\n"),
}
"""For each style a question after which the model writes steps with one blank line between them, and the prompt. In the
style `chat` it is asked not to think."""

Generator = VllmGenerator | OpenAIGenerator


@dataclass(frozen=True)
class Tiny:
    """A model in this process and behind a server."""

    model: Model
    url: str

    def generator(self, engine: str, style: Style, thinking: Thinking | None = None) -> Generator:
        """Make a generator that remembers nothing; to close one in this process would end the model."""
        if engine == "vllm":
            return VllmGenerator(self.model, style=style, template=TEMPLATE, thinking=thinking)
        return OpenAIGenerator(server_at(self.url), style=style, template=TEMPLATE, thinking=thinking)

    def whole(self, text: str) -> list[str]:
        """Return the tokens that the model writes in one go after a text."""

        async def write() -> list[int]:
            sampling = SamplingParams(temperature=0, max_tokens=TOKENS)
            outputs = [each async for each in self.model.generate(self.model.encode(text), sampling)]
            return [token for each in outputs[-1:] for token in each.outputs[0].token_ids]

        return [self.model.decode([token]) for token in self.model.run(write(), Cancellation())]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    """The model, whose tokenizer is like GPT-2's."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    tiny_model(folder, THINKING, seed=SEEDS[THINKING], heads=2, has_graph=False)
    with ExitStack() as stack:
        process, url, log = start_server("tiny", folder, folder.parent / "log", ("--dtype=float32",))
        stack.callback(stop_servers, [process])
        arguments = {**ARGUMENTS, "dtype": "float32"}
        model = Model(str(folder), setting="TRIM_SMALL_MODEL", runner="generate", arguments=arguments)
        stack.enter_context(closing(model))
        wait_until_up("tiny", process, url, log)
        yield Tiny(model, f"{url}/v1")


def write(generator: Generator, question: str, count: int, *, size: int, **changes: Any) -> list[GeneratedStep]:
    """Write some steps, a number of them in each call."""
    steps: list[GeneratedStep] = []
    while len(steps) < count and (not steps or steps[-1].finish is Finish.SEPARATOR):
        request = make_request(question, texts(steps), max_steps=min(size, count - len(steps)), **changes)
        steps += generator.stream(request, Cancellation(), Meter())
    return steps


both = pytest.mark.parametrize("engine", ["vllm", "openai"])


@both
@pytest.mark.parametrize("size", [1, 9])
@pytest.mark.parametrize("style", ["completions", "chat"])
def test_any_number_of_steps_a_call_gives_the_uninterrupted_solution(
    tiny: Tiny, engine: str, style: Style, size: int
) -> None:
    question, before = CASES[style]
    # Longer blank lines have more than one form in tokens, of which a server reads that of its tokenizer.
    *whole, _ = steps_of("".join(tiny.whole(before)).partition("\n\n\n")[0])
    assert len(whole) >= 2
    if engine == "openai" and style == "chat":  # The blank line that ends this template has another form before text.
        whole = whole[:1]
    generator = tiny.generator(engine, style, "off" if style == "chat" else None)
    assert texts(write(generator, question, len(whole), size=size)) == whole


@both
@pytest.mark.parametrize("size", [1, 9])
def test_each_paragraph_of_thinking_is_a_step_and_so_is_the_answer(tiny: Tiny, engine: str, size: int) -> None:
    thinking, _, answer = "".join(tiny.whole(f"Problem: 392?\n:{OPENS}\n")).partition(CLOSES)
    thoughts = steps_of(thinking)
    assert len(thoughts) >= 2
    *written, last = write(tiny.generator(engine, "chat", "steps"), "392?", 9, size=size, max_step_tokens=8)
    assert texts(written) == [
        as_thought(each, is_last=number == len(thoughts)) for number, each in enumerate(thoughts, start=1)
    ]
    assert (last.finish, last.tokens) == (Finish.LENGTH, 8)
    if engine == "vllm":  # A server continues after a blank line, whatever the model wrote there.
        assert "\n\n" in last.text
        assert answer.strip().startswith(last.text)


@both
@pytest.mark.parametrize("thinking", [None, "off"])
def test_thoughts_that_slip_through_are_no_step_and_are_counted(
    tiny: Tiny, engine: str, thinking: Thinking | None
) -> None:
    tokens = tiny.whole("Problem: 90!\n:")
    thought, tag, rest = "".join(tokens).partition(CLOSES)
    step, *_ = steps_of(rest)
    end = len(thought + tag) + rest.index(step) + len(f"{step}\n\n")
    count = next(number for number in range(len(tokens)) if len("".join(tokens[:number])) >= end)
    for size in (1, 2):
        first, *_ = write(tiny.generator(engine, "chat", thinking), "90!", size, size=size, max_step_tokens=64)
        assert first.text == step
        # Behind a server, the model writes the newline again that the prompt leaves out, and what follows the step is
        # cut off, where a piece may have several tokens.
        assert first.tokens == (count if engine == "vllm" else pytest.approx(count, abs=4))
