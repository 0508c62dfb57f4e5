"""What the openai engine counts of calls that do not end by themselves."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.engines.openai.blank_line import TemplateStrips
from shared.engines.openai.errors import BodyRefused, IncompleteAnswer
from shared.engines.openai.generator import OpenAIGenerator
from shared.engines.openai.prompts import Style
from shared.engines.port import GeneratedStep, Meter, StepTimeout
from shared.engines.thinking import Thinking
from tests.unit.engines.fake_server import (
    FakeServer,
    answer,
    begins,
    chunks_of,
    events,
    make_request,
    server_at,
    step,
)


def meter_after(fake: FakeServer, error: type[Exception], style: Style = "completions", **changes: Any) -> Meter:
    """Write until an error; return the meter."""
    engine, meter = OpenAIGenerator(server_at(fake.url), style=style, template="Problem: {question}\n\n"), Meter()
    with closing(engine), pytest.raises(error):
        list(engine.stream(make_request(**{"max_steps": 5, "step_timeout_s": 1, **changes}), Cancellation(), meter))
    return meter


def with_usage(chunk: dict[str, Any], tokens: int) -> dict[str, Any]:
    return {**chunk, "usage": {"prompt_tokens": 40, "completion_tokens": tokens}}


def test_an_unfinished_answer_is_metered_by_the_chunks_that_arrived(fake: FakeServer) -> None:
    fake.replies(step("One"), begins(*chunks_of("So far")[:1], *chunks_of("so good")[:1]))
    assert meter_after(fake, StepTimeout) == Meter(estimated_tokens=2)


def test_an_unfinished_answer_is_metered_by_the_servers_own_count(fake: FakeServer) -> None:
    first, second = chunks_of("So far")[0], chunks_of("so good")[0]
    fake.replies(begins(with_usage(first, 3), with_usage(second, 8)))
    assert meter_after(fake, StepTimeout) == Meter(estimated_tokens=8)


def test_chunks_without_text_count_as_no_tokens(fake: FakeServer) -> None:
    fake.replies(begins({"choices": [{"delta": {"role": "assistant", "content": ""}}]}))
    assert meter_after(fake, StepTimeout, "chat").tokens == 0


def test_an_answer_that_breaks_off_is_metered(fake: FakeServer) -> None:
    fake.replies(answer(200, events(*chunks_of("One")[:1], {"error": {"code": 500}})))
    assert meter_after(fake, IncompleteAnswer) == Meter(estimated_tokens=1)


def test_a_dropped_attempt_is_metered_with_the_request_that_follows(fake: FakeServer) -> None:
    fake.replies(step("---", tokens=3), begins(with_usage(chunks_of("One")[0], 4)))
    assert meter_after(fake, StepTimeout) == Meter(tokens=3, estimated_tokens=4, prompt_tokens=40, cached_tokens=32)


def test_a_request_that_the_server_does_not_accept_used_nothing(fake: FakeServer) -> None:
    fake.replies(step("---", tokens=3), answer(400, {}))
    assert meter_after(fake, BodyRefused) == Meter(tokens=3, prompt_tokens=40, cached_tokens=32)


def test_a_refused_chat_template_is_metered(fake: FakeServer) -> None:
    fake.replies(step("One", chat=True), step("", chat=True, tokens=2))
    assert meter_after(fake, TemplateStrips, "chat") == Meter(tokens=4, prompt_tokens=80, cached_tokens=64)


def test_a_call_that_is_closed_between_two_steps_used_nothing_more(fake: FakeServer) -> None:
    fake.replies(step("One"))
    engine, meter = OpenAIGenerator(server_at(fake.url), style="completions", template="{question}"), Meter()
    with closing(engine):
        stream = engine.stream(make_request(max_steps=5), Cancellation(), meter)
        next(stream)
        stream.close()
    assert meter == Meter()


PIECES = ["One", " and", " one.", "\n\n", "Two", " and", " two."]
"""Tokens that a server writes which ignores the stop strings; the step has the first four."""


def pieces(*, chat: bool, count: bool = False, usage: dict[str, Any] | None = None) -> list[Any]:
    """Stream the pieces, with the number of tokens so far in each chunk if `count` is set."""
    said = [{"delta": {"content": piece}} if chat else {"text": piece} for piece in PIECES]
    chunks: list[Any] = [{"choices": [each]} for each in said]
    if count:
        chunks = [with_usage(chunk, number) for number, chunk in enumerate(chunks, start=1)]
    nothing: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    chunks.append({"choices": [{**nothing, "finish_reason": "stop", "stop_reason": None}]})
    return [*chunks, {"choices": [], "usage": usage}] if usage else chunks


@pytest.mark.parametrize("style", ["completions", "chat", "chat-next-step"])
@pytest.mark.parametrize(
    ("changes", "kept", "cut_off"),
    [
        ({"usage": {"prompt_tokens": 40, "completion_tokens": 8}}, 4, 4),
        ({"count": True, "usage": {"prompt_tokens": 40, "completion_tokens": 8}}, 4, 4),
        ({"usage": {"prompt_tokens": 40, "completion_tokens": 14}}, 8, 6),
        ({"usage": {"prompt_tokens": 40, "completion_tokens": 3}}, 2, 1),
    ],
)
def test_what_a_server_writes_past_the_end_of_a_step_is_left_on_the_meter(
    fake: FakeServer, style: Style, changes: dict[str, Any], kept: int, cut_off: int
) -> None:
    fake.replies(answer(200, events(*pieces(chat=style != "completions", **changes))))
    written, meter = write_one(fake, style)
    assert (written.text, written.tokens, meter) == ("One and one.", kept, Meter(tokens=cut_off))


@pytest.mark.parametrize("style", ["completions", "chat", "chat-next-step"])
def test_an_estimate_of_it_is_left_there_too(fake: FakeServer, style: Style) -> None:
    fake.replies(answer(200, events(*pieces(chat=style != "completions"))))
    written, meter = write_one(fake, style)
    assert (written.tokens, written.estimated_tokens, meter) == (0, 4, Meter(estimated_tokens=3))


def test_a_body_in_one_piece_is_divided_by_its_characters(fake: FakeServer) -> None:
    choice = {"text": "One.\n\nTwo and three.", "finish_reason": "stop", "stop_reason": None}
    fake.replies(answer(200, {"choices": [choice], "usage": {"completion_tokens": 10}}))
    written, meter = write_one(fake, "completions")
    assert (written.text, written.tokens, meter) == ("One.", 3, Meter(tokens=7))


def test_thoughts_of_a_step_are_no_part_of_what_is_cut_off(fake: FakeServer) -> None:
    thoughts = [{"choices": [{"delta": {"reasoning": piece}}]} for piece in ("Hm", ".")]
    usage = {"prompt_tokens": 40, "completion_tokens": 10}
    fake.replies(answer(200, events(*thoughts, *pieces(chat=True, usage=usage))))
    written, meter = write_one(fake, "chat")
    assert (written.text, written.tokens, meter) == ("One and one.", 6, Meter(tokens=4))


def test_the_answer_after_a_thought_is_cut_off(fake: FakeServer) -> None:
    thoughts = [{"choices": [{"delta": {"reasoning": piece}}]} for piece in ("Hm", ".\n\n", "So", " 2.")]
    usage = {"prompt_tokens": 40, "completion_tokens": 12}
    fake.replies(answer(200, events(*thoughts, *pieces(chat=True, usage=usage))))
    written, meter = write_one(fake, "chat", thinking="steps")
    assert (written.text, written.tokens, meter) == ("<think>\nHm.", 2, Meter(tokens=10))


def test_a_made_up_problem_is_cut_off(fake: FakeServer) -> None:
    choice = {"text": "So 2.\nProblem: Kim has coins.", "finish_reason": "stop"}
    fake.replies(answer(200, {"choices": [choice], "usage": {"completion_tokens": 10}}))
    written, meter = write_one(fake, "completions")
    assert (written.text, written.finish, written.tokens, meter) == ("So 2.", Finish.ENDED, 2, Meter(tokens=8))


def write_one(fake: FakeServer, style: Style, *, thinking: Thinking | None = None) -> tuple[GeneratedStep, Meter]:
    """Write one step; also return what is left on the meter."""
    engine = OpenAIGenerator(server_at(fake.url), style=style, template="Problem: {question}\n\n", thinking=thinking)
    meter = Meter()
    with closing(engine):
        (written,) = engine.stream(make_request(), Cancellation(), meter)
    return written, meter
