"""The style `chat-next-step` of the openai engine against a fake server."""

from __future__ import annotations

import pytest

from shared.domain.drafts import Finish
from shared.domain.text import STOPS
from tests.unit.engines.fake_server import (
    QUESTION,
    FakeServer,
    make_request,
    write,
    writes,
)


def test_chat_next_step_requests_in_words_and_takes_the_first_step(fake: FakeServer) -> None:
    fake.replies(
        writes("\n\nTwo\n\nThree", chat=True, stop_reason=None),
        writes(r"So \boxed{2}", chat=True),
    )
    steps = write(fake, make_request(["One"], max_steps=5), "chat-next-step")
    assert [(each.text, each.finish) for each in steps] == [
        ("Two", Finish.SEPARATOR),
        (r"So \boxed{2}", Finish.ENDED),
    ]
    first, second = (request.body for request in fake.requests)
    assert first["messages"][1]["content"] == f"Problem:\n{QUESTION}\n\nSolution so far:\nOne"
    assert second["messages"][1]["content"].endswith("\nOne\n\nTwo")
    assert not {"top_k", "continue_final_message"} & first.keys()
    assert first["stop"] == list(STOPS)
    assert "boxed" in first["messages"][0]["content"]


@pytest.mark.parametrize("reply", ["DONE", "**DONE.**", "\n\n`DONE`\n", "Done."])
def test_chat_next_step_takes_a_reply_of_nothing_but_done_as_the_end(fake: FakeServer, reply: str) -> None:
    fake.replies(writes(reply, chat=True, tokens=2))
    [end] = write(fake, make_request([r"It is \boxed{2}."], max_steps=5), "chat-next-step")
    assert (end.text, end.finish, end.tokens) == ("", Finish.ENDED, 2)
    assert "DONE" in fake.requests[0].body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("So it is 2.\nDONE", "So it is 2."),
        ("So it is 2.\n\n**DONE**", "So it is 2."),
        ("Therefore, the final answer is 2.", "Therefore, the final answer is 2."),
        ("**Final answer:** 2", "**Final answer:** 2"),
        ("1 + 1 = 2. The solution above is complete.", "1 + 1 = 2. The solution above is complete."),
        ("There is nothing left to add.", "There is nothing left to add."),
        (r"`\boxed{2}` is code, and \boxed{2} the answer.", r"`\boxed{2}` is code, and \boxed{2} the answer."),
    ],
)
def test_chat_next_step_ends_with_a_step_that_declares_the_solution_complete(
    fake: FakeServer, reply: str, text: str
) -> None:
    fake.replies(writes(reply, chat=True))
    [end] = write(fake, make_request(["One"], max_steps=5), "chat-next-step")
    assert (end.text, end.finish) == (text, Finish.ENDED)


@pytest.mark.parametrize(
    "reply",
    [
        "One\n\nTwo\n\nDONE",
        "We are done with the first part.",
        "To find what the final answer is, add both.",
        "The final answer is obtained by adding both.",
        "Now it is not the case that the problem is solved.",
        "Is the solution complete?",
        "The final answer is 2. But let us check it.",
    ],
)
def test_chat_next_step_goes_on_after_any_other_step(fake: FakeServer, reply: str) -> None:
    fake.replies(writes(reply, chat=True), writes("DONE", chat=True))
    steps = write(fake, make_request(max_steps=2), "chat-next-step")
    assert [each.finish for each in steps] == [Finish.SEPARATOR, Finish.ENDED]


@pytest.mark.parametrize("further", [["As was said: 1 + 1 = 2."], ["The sum is 2.", "As was said: 1 + 1 = 2."]])
def test_a_model_that_never_says_that_it_is_done_ends_when_it_repeats_itself(
    fake: FakeServer, further: list[str]
) -> None:
    fake.replies(*(writes(text, chat=True) for text in ["1 + 1 = 2.", *further * 5]))
    steps = write(fake, make_request(max_steps=30), "chat-next-step")
    assert len(steps) == 1 + 2 * len(further)


def test_chat_next_step_mentions_that_no_step_exists_yet(fake: FakeServer) -> None:
    fake.replies(writes("One", chat=True))
    write(fake, make_request(), "chat-next-step")
    assert fake.requests[0].body["messages"][1]["content"].endswith("(nothing yet)")


def test_chat_next_step_requests_no_usage_because_hosted_servers_refuse_it(fake: FakeServer) -> None:
    fake.replies(writes("One", chat=True))
    write(fake, make_request(), "chat-next-step")
    assert fake.requests[0].body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("replies", [["**Step 1: Add**\n\n1 + 1 = 2."], ["**Step 1: Add**", "1 + 1 = 2."]])
def test_chat_next_step_takes_a_heading_and_its_sentence_as_one_step(fake: FakeServer, replies: list[str]) -> None:
    fake.replies(*(writes(reply, chat=True) for reply in [*replies, "DONE"]))
    first, end = write(fake, make_request(max_steps=5), "chat-next-step")
    assert (first.text, first.finish) == ("**Step 1: Add**\n\n1 + 1 = 2.", Finish.SEPARATOR)
    assert end.finish is Finish.ENDED
