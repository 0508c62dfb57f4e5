"""The openai engine's generator against a fake server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.options import Sampling
from shared.engines.openai.errors import AnswerWithheld, IncompleteAnswer
from shared.engines.openai.generator import OpenAIGenerator
from shared.engines.openai.prompts import Style
from shared.engines.port import GeneratedStep, GenerationRequest, Meter, RequestRefused, StepTimeout
from shared.engines.prompts import request_seed
from tests.unit.engines.fake_server import (
    KEY,
    QUESTION,
    FakeServer,
    answer,
    begins,
    chunks_of,
    events,
    make_request,
    server_at,
    serving,
    step,
    writes,
)

PROMPT = f"Problem: {QUESTION}\n\n"


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serving() as server:
        yield server


def write(fake: FakeServer, request: GenerationRequest, style: Style = "completions") -> list[GeneratedStep]:
    engine = OpenAIGenerator(server_at(fake.url), style=style, template="Problem: {question}\n\n")
    with closing(engine):
        return list(engine.stream(request, Cancellation(), Meter()))


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
        PROMPT + "One\n\nTwo\n\n",
        PROMPT + "One\n\nTwo\n\nthree\n\n",
    ]


def test_the_request_has_the_sampling_and_the_stop_sequence(fake: FakeServer) -> None:
    fake.replies(step("One"))
    write(fake, make_request(sampling=Sampling(temperature=0.3, top_p=0.9, top_k=7, seed=11)))
    [request] = fake.requests
    assert request.path == "/v1/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "tiny", "prompt": PROMPT, "stop": ["\n\n"], "max_tokens": 100,
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
    with pytest.raises(RequestRefused, match=r"tiny.*set TRIM_PROMPT_STYLE to completions"):
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


def test_a_step_that_was_cut_is_followed_by_the_next(fake: FakeServer) -> None:
    fake.replies(writes("One and", finish="length", tokens=100), step("Two"))
    steps = write(fake, make_request(max_steps=2))
    assert [each.finish for each in steps] == [Finish.LENGTH, Finish.SEPARATOR]
    assert prompts(fake)[1] == PROMPT + "One and\n\n"


def test_a_boxed_answer_ends_the_call(fake: FakeServer) -> None:
    fake.replies(step(r"It is \boxed{2}."))
    assert len(write(fake, make_request(max_steps=5))) == 1
    assert len(fake.requests) == 1


def test_no_step_is_begun_past_the_limit_of_tokens(fake: FakeServer) -> None:
    fake.replies(step("One", tokens=6))
    assert len(write(fake, make_request(max_steps=5, max_tokens=12))) == 2


def test_a_blank_line_in_a_fence_ends_no_step(fake: FakeServer) -> None:
    fake.replies(step("```\na = 1", tokens=30), step("b = 2\n```", tokens=8))
    [whole] = write(fake, make_request())
    assert (whole.text, whole.tokens, whole.prompt_tokens) == ("```\na = 1\n\nb = 2\n```", 38, 80)
    assert prompts(fake)[1] == PROMPT + "```\na = 1\n\n"
    assert fake.requests[1].body["max_tokens"] == 70


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
    assert (second["stop"], second["top_k"]) == (["\n\n"], 20)


def test_chat_next_step_requests_in_words_and_takes_the_first_step(fake: FakeServer) -> None:
    fake.replies(
        writes("\n\nTwo\n\nThree", chat=True, stop_reason=None),
        writes(r"So \boxed{2}", chat=True),
    )
    steps = write(fake, make_request(["One"], max_steps=5), "chat-next-step")
    assert [(each.text, each.finish) for each in steps] == [
        ("Two", Finish.SEPARATOR),
        (r"So \boxed{2}", Finish.SEPARATOR),
    ]
    first, second = (request.body for request in fake.requests)
    assert first["messages"][1]["content"] == f"Problem:\n{QUESTION}\n\nSolution so far:\nOne"
    assert second["messages"][1]["content"].endswith("\nOne\n\nTwo")
    assert not {"top_k", "stop", "continue_final_message"} & first.keys()
    assert "boxed" in first["messages"][0]["content"]


def test_chat_next_step_mentions_that_no_step_exists_yet(fake: FakeServer) -> None:
    fake.replies(writes("One", chat=True))
    write(fake, make_request(), "chat-next-step")
    assert fake.requests[0].body["messages"][1]["content"].endswith("(nothing yet)")


# Log-probabilities


def confidences(steps: list[GeneratedStep]) -> list[tuple[float | None, float | None]]:
    return [(step.mean_logprob, step.min_logprob) for step in steps]


def asking(**changes: Any) -> GenerationRequest:
    return make_request(reports_confidence=True, **changes)


LIKE_OPENAI = {"tokens": ["O", "ne"], "token_logprobs": [-0.5, -1.5], "top_logprobs": [{}, {}]}
LIKE_CHAT = {"content": [{"token": "O", "logprob": -0.5, "bytes": [79]}, {"token": "ne", "logprob": -1.5}]}


@pytest.mark.parametrize(
    ("style", "fields"),
    [
        ("completions", {"logprobs": 1}),
        ("chat", {"logprobs": True, "top_logprobs": 1}),
        ("chat-next-step", {"logprobs": True, "top_logprobs": 1}),
    ],
)
def test_log_probabilities_are_requested_only_for_a_call_that_asks(
    fake: FakeServer, style: Style, fields: dict[str, Any]
) -> None:
    fake.replies(step("One", chat=style != "completions", logprobs=LIKE_CHAT))
    request = make_request()
    assert confidences(write(fake, replace(request, reports_confidence=True), style)) == [(-1.0, -1.5)]
    write(fake, request, style)
    first, second = (each.body for each in fake.requests)
    assert first == second | fields


@pytest.mark.parametrize("logprobs", [LIKE_OPENAI, LIKE_CHAT])
def test_log_probabilities_of_all_chunks_and_requests_of_a_step_count(
    fake: FakeServer, logprobs: dict[str, Any]
) -> None:
    begun = events(
        {"choices": [{"text": "", "logprobs": {"token_logprobs": [-3.0]}}]},
        {"choices": [{"text": "```\na", "logprobs": logprobs, "finish_reason": "stop", "stop_reason": "\n\n"}]},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3}},
    )
    fake.replies(
        answer(200, begun), step("b\n```", logprobs={"token_logprobs": [-7.0]}), step("Two", logprobs=logprobs)
    )
    assert confidences(write(fake, asking(max_steps=2))) == [(-3.0, -7.0), (-1.0, -1.5)]


def test_a_dropped_attempt_is_left_out_of_the_log_probabilities(fake: FakeServer) -> None:
    fake.replies(step("---", logprobs={"token_logprobs": [-9.0]}), step("One", logprobs=LIKE_OPENAI))
    assert confidences(write(fake, asking())) == [(-1.0, -1.5)]


def test_the_end_of_the_solution_has_log_probabilities(fake: FakeServer) -> None:
    fake.replies(writes("One", stop_reason=None, logprobs=LIKE_OPENAI))
    assert confidences(write(fake, asking())) == [(-1.0, -1.5)]


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"token_logprobs": [-0.1, None]},
        {"token_logprobs": [-0.1, float("nan")]},
        {"token_logprobs": [-0.1, float("-inf")]},
        {"token_logprobs": []},
        {"token_logprobs": [0.1]},
        {"content": [{"token": "One"}]},
        {"content": None},
        "many",
        [-0.5],
    ],
)
def test_a_server_without_usable_log_probabilities_still_writes_steps(fake: FakeServer, logprobs: Any) -> None:
    fake.replies(step("One", logprobs=logprobs))
    [written] = write(fake, asking())
    assert (written.text, written.mean_logprob, written.min_logprob) == ("One", None, None)


def test_a_step_that_was_cut_out_of_a_longer_text_has_none(fake: FakeServer) -> None:
    fake.replies(writes("One\n\nTwo", chat=True, logprobs=LIKE_CHAT))
    assert confidences(write(fake, asking(), "chat-next-step")) == [(None, None)]


def test_a_server_that_refuses_log_probabilities_is_asked_for_them_once(fake: FakeServer) -> None:
    refusal = answer(400, {"error": {"message": "This model does not support the 'logprobs' parameter."}})
    fake.replies(refusal, step("One", chat=True))
    engine = OpenAIGenerator(server_at(fake.url), style="chat-next-step", template="{question}")
    with closing(engine):
        steps = [step for _ in range(2) for step in engine.stream(asking(), Cancellation(), Meter())]
    assert [(each.text, each.mean_logprob) for each in steps] == [("One", None), ("One", None)]
    assert ["logprobs" in request.body for request in fake.requests] == [True, False, False]


def test_a_server_that_refuses_something_else_is_asked_for_log_probabilities_again(fake: FakeServer) -> None:
    engine = OpenAIGenerator(server_at(fake.url), style="completions", template="{question}")
    with closing(engine):
        fake.replies(answer(400, {}))
        with pytest.raises(RequestRefused):
            list(engine.stream(asking(), Cancellation(), Meter()))
        fake.replies(step("One", logprobs=LIKE_OPENAI))
        assert confidences(list(engine.stream(asking(), Cancellation(), Meter()))) == [(-1.0, -1.5)]


def test_the_model_id_names_the_served_model(fake: FakeServer) -> None:
    with closing(OpenAIGenerator(server_at(fake.url), style="chat", template="{question}")) as engine:
        assert engine.model_id == "openai/tiny"


# The meter


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
    assert meter_after(fake, RequestRefused) == Meter(tokens=3, prompt_tokens=40, cached_tokens=32)


def test_a_refused_chat_template_is_metered(fake: FakeServer) -> None:
    fake.replies(step("One", chat=True), step("", chat=True, tokens=2))
    assert meter_after(fake, RequestRefused, "chat") == Meter(tokens=4, prompt_tokens=80, cached_tokens=64)


def test_a_call_that_is_closed_between_two_steps_used_nothing_more(fake: FakeServer) -> None:
    fake.replies(step("One"))
    engine, meter = OpenAIGenerator(server_at(fake.url), style="completions", template="{question}"), Meter()
    with closing(engine):
        stream = engine.stream(make_request(max_steps=5), Cancellation(), meter)
        next(stream)
        stream.close()
    assert meter == Meter()


def test_chat_next_step_requests_no_usage_because_hosted_servers_refuse_it(fake: FakeServer) -> None:
    fake.replies(writes("One", chat=True))
    write(fake, make_request(), "chat-next-step")
    assert fake.requests[0].body["stream_options"] == {"include_usage": True}
