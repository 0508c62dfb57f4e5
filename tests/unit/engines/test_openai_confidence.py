"""Log-probabilities of the openai engine against a fake server."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from shared.cancellation import Cancellation
from shared.engines.openai.errors import BodyRefused
from shared.engines.openai.generator import OpenAIGenerator
from shared.engines.openai.prompts import Style
from shared.engines.port import GeneratedStep, GenerationRequest, Meter
from tests.unit.engines.fake_server import (
    FakeServer,
    answer,
    events,
    make_request,
    server_at,
    step,
    write,
    writes,
)


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
        with pytest.raises(BodyRefused):
            list(engine.stream(asking(), Cancellation(), Meter()))
        fake.replies(step("One", logprobs=LIKE_OPENAI))
        assert confidences(list(engine.stream(asking(), Cancellation(), Meter()))) == [(-1.0, -1.5)]
