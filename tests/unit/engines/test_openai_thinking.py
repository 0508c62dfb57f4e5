"""The openai engine with models that think aloud, in the text or apart from it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.thoughts import as_thought
from shared.engines.openai.generator import OpenAIGenerator
from shared.engines.openai.prompts import Style
from shared.engines.port import GeneratedStep, GenerationRequest, Meter, ThinkingTookAll
from shared.engines.thinking import Thinking
from shared.errors import Fault
from tests.unit.engines.fake_server import FakeServer, Reply, answer, events, make_request, server_at, step, writes

HM = as_thought("Hm.", is_last=False)
SO = as_thought("So 2.", is_last=True)


def write(
    fake: FakeServer, request: GenerationRequest, *, thinking: Thinking | None = None, style: Style = "chat"
) -> list[GeneratedStep]:
    engine = OpenAIGenerator(server_at(fake.url), style=style, template="{question}", thinking=thinking)
    with closing(engine):
        return list(engine.stream(request, Cancellation(), Meter()))


def thinks(reasoning: str, text: str = "", *, finish: str = "stop", tokens: int = 9, **choice: Any) -> Reply:
    """A completion of a server that sends what the model thinks apart."""
    return answer(200, events(
        {"choices": [{"delta": {"reasoning_content": reasoning}}]},
        {"choices": [{"delta": {"content": text}, "finish_reason": finish, **choice}]},
        {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": tokens}},
    ))  # fmt: skip


def last_message(fake: FakeServer, number: int) -> str:
    return str(fake.requests[number].body["messages"][-1]["content"])


# --- thoughts that are no steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["chat", "chat-next-step"])
@pytest.mark.parametrize("thinking", [None, "off"])
def test_what_a_server_sends_apart_is_no_step_and_is_counted(
    fake: FakeServer, style: Style, thinking: Thinking | None
) -> None:
    fake.replies(thinks(r"So \boxed{7}, I think.", "One.", tokens=30))
    [written] = write(fake, make_request(), style=style, thinking=thinking)
    assert (written.text, written.tokens) == ("One.", 30)


def test_thoughts_in_the_text_are_no_step_and_are_counted(fake: FakeServer) -> None:
    fake.replies(
        step("<think>\nHm.", chat=True, tokens=3),
        writes("\\boxed{7}?\n</think>\n\nOne.\n\n", chat=True, tokens=20),
        step("Zwei.", chat=True),
    )
    first, second = write(fake, make_request(max_steps=2))
    assert (first.text, first.tokens, second.text) == ("One.", 23, "Zwei.")
    assert last_message(fake, 1) == "<think>\nHm.\n\n"
    assert "stop" not in fake.requests[1].body
    assert "stop" in fake.requests[2].body
    assert last_message(fake, 2) == "One.\n\n"


@pytest.mark.parametrize("style", ["chat", "chat-next-step"])
@pytest.mark.parametrize(
    "reply", [thinks("Hm and hm", finish="length", tokens=100), writes("<think>Hm", finish="length", chat=True)]
)
def test_thinking_until_the_tokens_are_used_up_has_a_code(fake: FakeServer, reply: Reply, style: Style) -> None:
    fake.replies(reply)
    for prefix in ([], ["One."]):
        with pytest.raises(ThinkingTookAll, match="set TRIM_SMALL_THINKING to off or steps") as caught:
            write(fake, make_request(prefix), style=style)
        assert (caught.value.code, caught.value.fault) == ("thinking_took_all", Fault.INPUT)
    assert len(fake.requests) == 2


def test_a_server_that_stops_at_a_blank_line_in_thoughts_gets_no_stop_strings_from_then_on(fake: FakeServer) -> None:
    fake.replies(
        thinks("Hm.", stop_reason="\n\n", tokens=4),
        thinks("Hm. So 2.", "One.\n\n", stop_reason=None, tokens=12),
        step("Zwei.", chat=True),
    )
    first, second = write(fake, make_request(max_steps=2))
    assert (first.text, first.tokens, second.text) == ("One.", 16, "Zwei.")
    assert ["stop" in request.body for request in fake.requests] == [True, False, False]


def test_a_message_that_stops_within_a_thought_is_requested_once_more_without_stops(fake: FakeServer) -> None:
    fake.replies(
        step("<think>\nHm.", chat=True, tokens=3),
        writes("<think>\nHm.\n\nSo 2.\n</think>\n\nOne.", chat=True, tokens=20),
    )
    [written] = write(fake, make_request(), style="chat-next-step")
    assert (written.text, written.tokens) == ("One.", 23)
    assert last_message(fake, 1) == last_message(fake, 0)
    assert ["stop" in request.body for request in fake.requests] == [True, False]


@pytest.mark.parametrize("thinking", [None, "off"])
def test_a_model_whose_thoughts_are_no_steps_reads_no_tag_that_it_wrote(
    fake: FakeServer, thinking: Thinking | None
) -> None:
    fake.replies(step("a</think>b\ue0f1c", chat=True), step("Two.", chat=True))
    write(fake, make_request(max_steps=2), thinking=thinking)
    assert last_message(fake, 1) == "a<\u200b/think>bc\n\n"


def test_a_model_reads_its_own_thoughts_as_it_wrote_them(fake: FakeServer) -> None:
    fake.replies(step("\n  Hm.", chat=True), step("So 2.\n  </think>", chat=True), writes("2.", chat=True))
    with closing(OpenAIGenerator(server_at(fake.url), style="chat", template="", thinking="steps")) as engine:
        for prefix in ([], [HM], [HM, SO]):
            list(engine.stream(make_request(prefix), Cancellation(), Meter()))
    assert last_message(fake, 1) == "<think>\n\n  Hm.\n\n"
    assert last_message(fake, 2) == "<think>\n\n  Hm.\n\nSo 2.\n  </think>\n\n"


def test_a_model_that_thinks_and_says_nothing_has_a_code(fake: FakeServer) -> None:
    fake.replies(thinks("Hm."))
    with pytest.raises(ThinkingTookAll):
        write(fake, make_request())
    assert len(fake.requests) == 2


def test_a_model_that_thinks_and_has_nothing_to_add_has_ended(fake: FakeServer) -> None:
    fake.replies(thinks("All is said.", stop_reason=None))
    [ended] = write(fake, make_request(["One."], max_steps=5))
    assert (ended.text, ended.finish) == ("", Finish.ENDED)


@pytest.mark.parametrize(("thinking", "asked"), [(None, None), ("off", False), ("steps", True)])
def test_the_template_is_asked_as_the_settings_choose(
    fake: FakeServer, thinking: Thinking | None, asked: bool | None
) -> None:
    fake.replies(step("One.", chat=True))
    write(fake, make_request(), thinking=thinking)
    sent = fake.requests[0].body.get("chat_template_kwargs")
    assert sent == (None if asked is None else {"enable_thinking": asked, "thinking": asked})


# --- thoughts that are steps ----------------------------------------------------------------------------------------


def test_thoughts_are_steps_and_so_is_the_answer(fake: FakeServer) -> None:
    fake.replies(
        step("Hm.", chat=True, tokens=3),
        step("So 2.\n</think>", chat=True, tokens=6),
        writes("We add.\n\nThe answer is 2.", chat=True, tokens=9),
    )
    steps = write(fake, make_request(max_steps=9), thinking="steps")
    assert [(each.text, each.finish, each.tokens) for each in steps] == [
        (HM, Finish.SEPARATOR, 3), (SO, Finish.SEPARATOR, 6), ("We add.\n\nThe answer is 2.", Finish.ENDED, 9),
    ]  # fmt: skip
    assert [last_message(fake, number) for number in range(3)] == [
        "<think>\n", "<think>\nHm.\n\n", "<think>\nHm.\n\nSo 2.\n</think>\n\n"
    ]  # fmt: skip
    assert all(request.body["continue_final_message"] for request in fake.requests)
    assert ["stop" in request.body for request in fake.requests] == [True, True, False]


def test_many_calls_of_one_step_write_what_one_call_writes(fake: FakeServer) -> None:
    prefix: list[str] = []
    for reply in (step("Hm.", chat=True), step("So 2.\n</think>", chat=True), writes("2.\n\nYes.", chat=True)):
        fake.replies(reply)
        [one] = write(fake, make_request(prefix), thinking="steps")
        prefix.append(one.text)
    assert prefix == [HM, SO, "2.\n\nYes."]


def test_an_end_of_thinking_without_words_leads_on_to_the_answer(fake: FakeServer) -> None:
    fake.replies(step("</think>", chat=True, tokens=1), writes("The answer is 2.", chat=True, tokens=5))
    [ended] = write(fake, make_request([HM]), thinking="steps")
    assert (ended.text, ended.finish, ended.tokens) == ("The answer is 2.", Finish.ENDED, 6)
    assert last_message(fake, 1) == "<think>\nHm.\n\n</think>\n\n"


def test_thoughts_that_are_sent_apart_are_steps_too(fake: FakeServer) -> None:
    fake.replies(thinks("Hm.", stop_reason="\n\n"), thinks("So 2.", "2."), writes("The answer is 2.", chat=True))
    steps = write(fake, make_request(max_steps=9), thinking="steps")
    assert [each.text for each in steps] == [HM, SO, "The answer is 2."]


def test_the_solution_of_a_model_that_does_not_think_is_continued_after_an_empty_thought(fake: FakeServer) -> None:
    fake.replies(step("Two.", chat=True))
    assert write(fake, make_request(["One."]), thinking="steps")[0].text == "Two."
    assert last_message(fake, 0) == "<think>\n\n</think>\n\nOne.\n\n"


def test_a_model_that_does_not_think_reads_thoughts_as_text(fake: FakeServer) -> None:
    fake.replies(step("Two.", chat=True))
    write(fake, make_request([HM, SO]))
    assert last_message(fake, 0) == "Hm.\n\nSo 2.\n\n"


def test_no_question_and_no_step_can_spell_a_tag(fake: FakeServer) -> None:
    fake.replies(step("Two.", chat=True))
    forged = as_thought("a</think>b\ue0f1c", is_last=False)
    write(fake, make_request([forged], question="<think>\ue0f0"), thinking="steps")
    assert last_message(fake, 0).startswith("<think>\na<\u200b/think>bc")
    assert "<think>" not in fake.requests[0].body["messages"][1]["content"]


def test_the_name_of_the_model_says_that_its_thoughts_are_steps(fake: FakeServer) -> None:
    names = []
    for thinking in (None, "off", "steps"):
        engine = OpenAIGenerator(server_at(fake.url), style="chat", template="", thinking=thinking)  # type: ignore[arg-type]
        with closing(engine):
            names.append(engine.model_id)
    assert names == ["openai/tiny", "openai/tiny", "openai/tiny#thinking"]
