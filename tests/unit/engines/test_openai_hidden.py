"""The openai engine with servers that hide where a model ended, or how many tokens it decoded."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.engines.openai.errors import BodyRefused
from shared.engines.openai.generator import OpenAIGenerator
from shared.engines.openai.prompts import Style
from shared.engines.port import Meter
from tests.unit.engines.fake_server import (
    FakeServer,
    Reply,
    answer,
    events,
    make_request,
    server_at,
    step,
    write,
    writes,
)

# --- ends that a server hides ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made_up",
    [
        "Problem: Tom has 3 cows.",
        "**Problem 2:** Tom",
        "### Question 7:\nTom",
        "Question: Why?",
        "Human: thanks",
        "Q: 1+1",
    ],
)
@pytest.mark.parametrize("style", ["completions", "chat"])
def test_a_made_up_problem_after_a_hidden_end_is_never_a_step(fake: FakeServer, made_up: str, style: Style) -> None:
    is_chat = style == "chat"
    fake.replies(writes("So it is 2.", chat=is_chat), writes(made_up, chat=is_chat), writes("It is 5.", chat=is_chat))
    steps = write(fake, make_request(max_steps=5), style)
    assert [(each.text, each.finish) for each in steps] == [("So it is 2.", Finish.SEPARATOR), ("", Finish.ENDED)]


def test_a_made_up_problem_on_a_line_of_the_last_step_is_cut_off(fake: FakeServer) -> None:
    fake.replies(writes("So it is 2.\nProblem: Tom has 3 cows."))
    steps = write(fake, make_request(["One"], max_steps=5))
    assert [(each.text, each.finish) for each in steps] == [("So it is 2.", Finish.ENDED)]


@pytest.mark.parametrize("text", ["Problem: we add one and one.", "The problem: 1+1.", "Our question is: why?"])
def test_a_first_step_may_restate_the_problem_and_steps_may_speak_of_it(fake: FakeServer, text: str) -> None:
    fake.replies(writes(text))
    assert write(fake, make_request())[0].text == text


def test_a_server_that_names_what_stopped_the_model_hides_no_end(fake: FakeServer) -> None:
    fake.replies(step("Problem: this remains."))
    assert write(fake, make_request(["One"]))[0].text == "Problem: this remains."


# --- tokens that a server does not count ----------------------------------------------------------------------------


def uncounted(text: str, **usage: Any) -> Reply:
    chunks = [{"choices": [{"text": text, "finish_reason": "stop", "stop_reason": "\n\n"}], "usage": usage or None}]
    return answer(200, events(*chunks))


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_a_step_without_usage_stands_with_an_estimate(fake: FakeServer, usage: dict[str, Any]) -> None:
    fake.replies(uncounted("One and one is two.", **usage))
    [written] = write(fake, make_request())
    assert (written.text, written.tokens, written.estimated_tokens) == ("One and one is two.", 0, 5)
    assert (written.prompt_tokens, written.cached_tokens) == (0, 0)


def test_counted_and_estimated_tokens_of_a_step_are_never_added(fake: FakeServer) -> None:
    fake.replies(step("---", tokens=3), uncounted("One and one is two."))
    [written] = write(fake, make_request())
    assert (written.tokens, written.estimated_tokens) == (3, 5)


def test_limits_apply_to_estimated_tokens(fake: FakeServer) -> None:
    fake.replies(uncounted("```\na = 1 + 1 + 1"), step("b\n```"))
    write(fake, make_request(max_step_tokens=100))
    assert fake.requests[1].body["max_tokens"] == 95
    fake.replies(*(uncounted(f"One and one is {number}.") for number in range(9)))
    assert len(write(fake, make_request(max_steps=9, max_tokens=12))) == 3


def test_the_meter_keeps_estimates_apart(fake: FakeServer) -> None:
    fake.replies(uncounted("One and one is two."), uncounted("---"), answer(400, {}))
    meter = Meter()
    with (
        closing(OpenAIGenerator(server_at(fake.url), style="completions", template="{question}")) as engine,
        pytest.raises(BodyRefused),
    ):
        list(engine.stream(make_request(max_steps=5), Cancellation(), meter))
    assert meter == Meter(estimated_tokens=1)
