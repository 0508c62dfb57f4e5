"""The openai engine's generator against a fake server."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.options import Sampling
from shared.engines.openai.blank_line import TemplateStrips
from shared.engines.openai.errors import AnswerWithheld
from shared.engines.openai.generator import OpenAIGenerator
from shared.engines.openai.prompts import Style
from shared.engines.port import GeneratedStep, InputTooLong, Meter
from shared.engines.prompts import request_seed
from tests.unit.engines.fake_server import (
    KEY,
    QUESTION,
    FakeServer,
    answer,
    make_request,
    server_at,
    step,
    write,
    writes,
)

PROMPT = f"Problem: {QUESTION}\n\n"


def prompts(fake: FakeServer) -> list[str]:
    return [request.body["prompt"] for request in fake.requests]


def test_each_step_is_one_request_that_continues_the_steps_before(fake: FakeServer) -> None:
    fake.replies(step("Two ", tokens=3), step("three", tokens=4), writes("four", tokens=6, stop_reason=None))
    steps = write(fake, make_request(["One"], max_steps=9))
    assert steps == [
        GeneratedStep(text="Two", finish=Finish.SEPARATOR, tokens=3, prompt_tokens=40, cached_tokens=32),
        GeneratedStep(text="three", finish=Finish.SEPARATOR, tokens=4, prompt_tokens=40, cached_tokens=32),
        GeneratedStep(text="four", finish=Finish.ENDED, tokens=6, prompt_tokens=40, cached_tokens=32),
    ]
    assert prompts(fake) == [
        PROMPT + "One\n\n",
        PROMPT + "One\n\nTwo \n\n",
        PROMPT + "One\n\nTwo \n\nthree\n\n",
    ]


def test_the_request_has_the_sampling_and_the_stop_sequence(fake: FakeServer) -> None:
    fake.replies(step("One"))
    write(fake, make_request(sampling=Sampling(temperature=0.3, top_p=0.9, top_k=7, seed=11)))
    [request] = fake.requests
    assert request.path == "/v1/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "tiny", "prompt": PROMPT, "stop": ["\n\n", "\n \n", "\r\n\r\n", "\n\t\n"], "max_tokens": 100,
        "temperature": 0.3, "top_p": 0.9, "top_k": 7, "seed": request_seed(11, 0),
        "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }  # fmt: skip


def test_an_unlimited_top_k_is_sent_as_minus_one(fake: FakeServer) -> None:
    fake.replies(step("One"))
    write(fake, make_request(sampling=Sampling(top_k=0)))
    assert fake.requests[0].body["top_k"] == -1


@pytest.mark.parametrize(
    ("choice", "finish"),
    [
        ({"stop_reason": "\n\n"}, Finish.SEPARATOR),
        ({"stop_reason": None}, Finish.ENDED),
        ({"stop_reason": 151643}, Finish.ENDED),
        ({"matched_stop": "\n\n"}, Finish.SEPARATOR),
        ({"stop_reason": "\r\n\r\n"}, Finish.SEPARATOR),
        ({"matched_stop": "\n \n"}, Finish.SEPARATOR),
        ({"stop_reason": "\n"}, Finish.ENDED),
        ({"matched_stop": 2}, Finish.ENDED),
        ({}, Finish.SEPARATOR),
        ({"finish": "length", "tokens": 100}, Finish.LENGTH),
    ],
)
def test_why_a_step_ends(fake: FakeServer, choice: dict[str, Any], finish: Finish) -> None:
    fake.replies(writes("One", **choice))
    assert [each.finish for each in write(fake, make_request())] == [finish]


def test_a_model_that_ends_at_once_writes_an_empty_step(fake: FakeServer) -> None:
    fake.replies(writes("", tokens=1, stop_reason=None))
    [ended] = write(fake, make_request(["One"], max_steps=5))
    assert (ended.text, ended.finish, ended.tokens) == ("", Finish.ENDED, 1)


def test_an_empty_response_without_a_finish_reason_is_the_end(fake: FakeServer) -> None:
    fake.replies(writes("One"), writes("", tokens=1))
    assert [(each.text, each.finish) for each in write(fake, make_request(max_steps=5))] == [
        ("One", Finish.SEPARATOR),
        ("", Finish.ENDED),
    ]


def test_a_full_context_without_another_word_does_not_end_the_solution(fake: FakeServer) -> None:
    fake.replies(writes("", finish="length", tokens=1))
    [cut] = write(fake, make_request(["One"], max_steps=5))
    assert (cut.text, cut.finish) == ("", Finish.LENGTH)


def test_a_first_step_without_words_is_requested_again_even_there(fake: FakeServer) -> None:
    fake.replies(writes("", tokens=1), writes("One"))
    assert write(fake, make_request())[0].text == "One"


def test_a_chat_template_that_cuts_off_the_blank_line_is_refused(fake: FakeServer) -> None:
    fake.replies(step("One", chat=True), step("", chat=True))
    with pytest.raises(TemplateStrips, match=r"tiny.*set TRIM_PROMPT_STYLE to completions"):
        write(fake, make_request(max_steps=5), "chat")
    assert len(fake.requests) == 3


def test_a_step_that_the_servers_filter_ends_is_not_requested_again(fake: FakeServer) -> None:
    fake.replies(writes("Sorry", chat=True, finish="content_filter"))
    with pytest.raises(AnswerWithheld) as caught:
        write(fake, make_request(), "chat-next-step")
    assert not caught.value.retryable


def test_a_full_context_ends_the_call_as_length(fake: FakeServer) -> None:
    fake.replies(writes("One and", finish="length", tokens=60))
    [cut] = write(fake, make_request(max_steps=5))
    assert (cut.text, cut.finish, cut.tokens) == ("One and", Finish.LENGTH, 60)


def test_a_full_context_between_two_steps_is_an_input_that_is_too_long(fake: FakeServer) -> None:
    refusal = answer(400, {"error": {"message": "This model's maximum context length is 64 tokens."}})
    fake.replies(step("One"), refusal)
    engine = OpenAIGenerator(server_at(fake.url), style="completions", template="Problem: {question}\n\n")
    with closing(engine):
        steps = engine.stream(make_request(max_steps=5), Cancellation(), Meter())
        assert next(steps).text == "One"
        with pytest.raises(InputTooLong):
            next(steps)


def test_a_step_that_was_cut_ends_the_call(fake: FakeServer) -> None:
    fake.replies(writes("So it is 1", finish="length", tokens=100), step("2"))
    [cut] = write(fake, make_request(max_steps=5))
    assert (cut.text, cut.finish, cut.tokens) == ("So it is 1", Finish.LENGTH, 100)


def test_a_box_that_is_called_the_answer_ends_the_call(fake: FakeServer) -> None:
    fake.replies(step(r"The answer is \boxed{2}."))
    assert len(write(fake, make_request(max_steps=5))) == 1
    assert len(fake.requests) == 1


@pytest.mark.parametrize("style", ["completions", "chat"])
def test_a_model_without_words_after_another_box_is_asked_once(fake: FakeServer, style: Style) -> None:
    fake.replies(
        step(r"\boxed{1} is the first number.", chat=style == "chat"), step("", tokens=1, chat=style == "chat")
    )
    root, end = write(fake, make_request(max_steps=5), style)
    assert (root.finish, end.text, end.tokens) == (Finish.SEPARATOR, "", 1)
    assert len(fake.requests) == 2


def test_no_step_is_begun_past_the_limit_of_tokens(fake: FakeServer) -> None:
    fake.replies(step("One", tokens=6))
    assert len(write(fake, make_request(max_steps=5, max_tokens=12))) == 2


def test_a_blank_line_in_a_fence_ends_no_step(fake: FakeServer) -> None:
    fake.replies(step("```\na = 1", tokens=30), step("b = 2\n```", tokens=8))
    [whole] = write(fake, make_request())
    assert (whole.text, whole.tokens, whole.prompt_tokens) == ("```\na = 1\n\nb = 2\n```", 38, 80)
    assert prompts(fake)[1] == PROMPT + "```\na = 1\n\n"
    assert fake.requests[1].body["max_tokens"] == 70


@pytest.mark.parametrize("style", ["completions", "chat"])
def test_a_lead_in_ends_no_step(fake: FakeServer, style: Style) -> None:
    fake.replies(*(step(text, chat=style == "chat") for text in ("### Step 1", "We add:", "1 + 1 = 2")))
    [whole] = write(fake, make_request(), style)
    assert (whole.text, whole.tokens) == ("### Step 1\n\nWe add:\n\n1 + 1 = 2", 15)


def test_a_server_that_says_nothing_after_a_lead_in_ends_the_step(fake: FakeServer) -> None:
    fake.replies(step("We add:"), writes("", tokens=1))
    [whole] = write(fake, make_request())
    assert (whole.text, len(fake.requests)) == ("We add:", 3)


def test_a_step_without_words_is_requested_again(fake: FakeServer) -> None:
    fake.replies(step("", tokens=1), step("One", tokens=4))
    [written] = write(fake, make_request())
    assert (written.text, written.tokens, written.prompt_tokens) == ("One", 5, 80)
    assert prompts(fake)[1] == PROMPT + "\n\n"


@pytest.mark.parametrize("style", ["completions", "chat", "chat-next-step"])
def test_the_second_step_without_words_ends_the_call(fake: FakeServer, style: Style) -> None:
    fake.replies(step("---", tokens=2, chat=style != "completions"))
    [silent] = write(fake, make_request(max_steps=5), style)
    assert (silent.text, silent.tokens) == ("---", 4)
    assert len(fake.requests) == 2


def test_nothing_is_requested_again_without_tokens_left(fake: FakeServer) -> None:
    fake.replies(writes("......", finish="length", tokens=100))
    [silent] = write(fake, make_request(max_steps=5))
    assert (silent.text, silent.finish, silent.tokens) == ("......", Finish.LENGTH, 100)


def test_what_a_server_writes_past_the_separator_is_dropped(fake: FakeServer) -> None:
    fake.replies(writes("One\n\nTwo\n\nThree", stop_reason=None), step("Zwei"))
    steps = write(fake, make_request(max_steps=2))
    assert [(each.text, each.finish) for each in steps] == [("One", Finish.SEPARATOR), ("Zwei", Finish.SEPARATOR)]
    assert prompts(fake)[1] == PROMPT + "One\n\n"


@pytest.mark.parametrize("blank", ["\n \n", "\r\n\r\n", "\n\t\n", "\n\u00a0\n", "\n  \n \n"])
def test_a_step_ends_at_a_blank_line_with_white_space_in_it(fake: FakeServer, blank: str) -> None:
    fake.replies(writes(f"One{blank}Two\n\n", stop_reason=None), writes("Zwei", stop_reason=blank), step("Drei"))
    first, second = write(fake, make_request(max_steps=2))
    assert (first.text, second.text) == ("One", "Zwei")
    assert prompts(fake)[1] == PROMPT + "One\n\n"


@pytest.mark.parametrize("included", ["", "\n\n"])
def test_a_server_may_include_the_stop_string(fake: FakeServer, included: str) -> None:
    written = "### Step 1", "```\na = 1", "b = 2\n```", "Two"
    fake.replies(*(step(text + included) for text in written), writes("", stop_reason=None))
    steps = write(fake, make_request(max_steps=9))
    assert [each.text for each in steps] == ["### Step 1\n\n```\na = 1\n\nb = 2\n```", "Two", ""]
    assert prompts(fake)[2] == PROMPT + "### Step 1\n\n```\na = 1\n\n"


def test_a_fence_holds_a_blank_line_with_white_space_in_it(fake: FakeServer) -> None:
    fake.replies(writes("```\na = 1", stop_reason="\n \n"), step("b = 2\n```"))
    [whole] = write(fake, make_request())
    assert whole.text == "```\na = 1\n\nb = 2\n```"


def test_special_tokens_in_questions_and_steps_stay_text(fake: FakeServer) -> None:
    fake.replies(step("One"))
    write(fake, make_request(["<|im_end|>"], question="<|endoftext|>{x}"))
    assert prompts(fake) == ["Problem: <\u200b|endoftext|>{x}\n\n<\u200b|im_end|>\n\n"]


def test_line_separators_in_json_break_no_event(fake: FakeServer) -> None:
    fake.replies(step("One\u2028and\x85two"))
    assert write(fake, make_request())[0].text == "One\u2028and\x85two"


def test_chat_continues_the_assistant_message(fake: FakeServer) -> None:
    fake.replies(step("One", chat=True), step("Two", chat=True))
    steps = write(fake, make_request(max_steps=2), "chat")
    assert [each.text for each in steps] == ["One", "Two"]
    first, second = (request.body for request in fake.requests)
    assert fake.requests[0].path == "/v1/chat/completions"
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert "continue_final_message" not in first
    assert second["messages"][1:] == [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "One\n\n"},
    ]
    assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)
    assert (second["stop"][0], second["top_k"]) == ("\n\n", 20)


def test_the_model_id_names_the_served_model(fake: FakeServer) -> None:
    with closing(OpenAIGenerator(server_at(fake.url), style="chat", template="{question}")) as engine:
        assert engine.model_id == "openai/tiny"
