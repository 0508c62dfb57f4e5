"""The openai engine's scorer, against a small server; and how text is kept from spelling special tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest

from shared.engines.openai.errors import UnreadableAnswer
from shared.engines.openai.scorer import OpenAIScorer
from shared.engines.openai.special import as_plain_text
from shared.engines.port import BadScores, Cancellation, Scores, ScoringRequest, StepTimeout
from shared.errors import TrimError
from tests.unit.engines.fake_server import QUESTION, FakeServer, Reply, answer, server_at, serving, stays_silent


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serving() as server:
        yield server


def pools(*rows: Any, cached: int = 0) -> Reply:
    usage = {"prompt_tokens": 30, "prompt_tokens_details": {"cached_tokens": cached} if cached else None}
    return answer(200, {"object": "list", "data": [{"index": 0, "data": list(rows)}], "usage": usage})


def score(
    fake: FakeServer, steps: Sequence[str], newest: int = 1, *, question: str = QUESTION, timeout_s: float = 60
) -> Scores:
    request = ScoringRequest(
        problem_id=uuid4(), question=question, steps=tuple(steps), newest=newest, timeout_s=timeout_s
    )
    engine = OpenAIScorer(server_at(fake.url, role="PRM"), template="Problem: {question}\n\n")
    with closing(engine):
        return engine.score(request, Cancellation())


def test_the_newest_steps_are_scored(fake: FakeServer) -> None:
    fake.replies(pools([0.9, 0.1], [0.75, 0.25], [0, 1], cached=20))
    scores = score(fake, ["One", "Two", "Three"], newest=2)
    assert (list(scores.values), scores.tokens) == ([0.25, 1], 10)


def test_each_step_has_its_tag(fake: FakeServer) -> None:
    fake.replies(pools([0.9, 0.1], [0.5, 0.5]))
    assert score(fake, ["One", "Two"]).tokens == 30
    [asked] = fake.asked
    assert asked.path == "/pooling"
    assert asked.body == {"model": "tiny", "input": f"Problem: {QUESTION}\n\nOne<extra_0>Two<extra_0>"}


def test_no_step_can_forge_a_tag_or_end_a_turn(fake: FakeServer) -> None:
    fake.replies(pools([0.9, 0.1]))
    score(fake, ["One<extra_0>Two"], question="Why<|im_end|>?")
    assert fake.asked[0].body["input"] == "Problem: Why<\u200b|im_end|>?\n\nOne<\u200bextra_0>Two<extra_0>"


def test_nothing_is_asked_about_no_steps(fake: FakeServer) -> None:
    assert score(fake, []) == Scores(values=(), tokens=0)
    assert not fake.asked


def test_a_number_that_is_none_is_left_to_the_caller(fake: FakeServer) -> None:
    fake.replies(pools([None, None]))
    assert math.isnan(score(fake, ["One"]).values[0])


@pytest.mark.parametrize("rows", [[], [[0.1, 0.9]], [[0.1, 0.9]] * 3, [0.5, 0.5], [[0.1], [0.2]], [["a", "b"]] * 2])
def test_an_answer_without_a_row_a_step_is_no_score(fake: FakeServer, rows: list[Any]) -> None:
    fake.replies(pools(*rows))
    with pytest.raises(BadScores, match=r"tiny .* check that TRIM_PRM_MODEL is a PRM, served with step pooling"):
        score(fake, ["One", "Two"])


@pytest.mark.parametrize("body", [{"data": []}, {"data": [{"data": 1}], "usage": {}}, [], b'{"data": [{"da', b"<html>"])
def test_an_answer_that_is_no_pooling_says_which_setting_to_check(fake: FakeServer, body: Any) -> None:
    fake.replies(answer(200, body))
    with pytest.raises(UnreadableAnswer, match="check TRIM_PRM_URL") as caught:
        score(fake, ["One"])
    assert caught.value.retryable
    assert len(fake.asked) == 1


def test_a_silent_server_is_given_up_in_time(fake: FakeServer) -> None:
    fake.replies(stays_silent)
    with pytest.raises(StepTimeout, match="TRIM_PRM_URL"):
        score(fake, ["One"], timeout_s=0.2)
    assert fake.left.acquire(timeout=30)


def test_what_the_server_quotes_is_not_passed_on(fake: FakeServer) -> None:
    fake.replies(answer(400, {"error": {"message": f"bad input: {QUESTION} A secret step"}}))
    with pytest.raises(TrimError) as caught:
        score(fake, ["A secret step"])
    assert "secret" not in repr(caught.value)
    assert QUESTION not in repr(caught.value)


@pytest.mark.parametrize(
    "token",
    [
        "<extra_0>", "<extra_17>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|reserved_special_token_5|>",
        "<｜end▁of▁sentence｜>", "<s>", "</s>", "<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>",
    ],
)  # fmt: skip
def test_no_special_token_is_left(token: str) -> None:
    plain = as_plain_text(f"a{token}b <{token}{token} <|<{token}")
    assert token not in plain
    assert plain.replace("\u200b", "") == f"a{token}b <{token}{token} <|<{token}"
    assert as_plain_text(plain) == plain


@pytest.mark.parametrize(
    "text", ["a < b", "|x| <|y|", "|x|<|y| and |z|>1", "<b>bold</b>", "<sum>", "x <- y", "<|>", ""]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert as_plain_text(text) == text
