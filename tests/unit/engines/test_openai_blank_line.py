r"""What the openai engine sends of a blank line, so that the model goes on as it would without interruption."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import pytest

from shared.cancellation import Cancellation
from shared.domain.drafts import Finish
from shared.domain.text import join_steps
from shared.engines.openai.blank_line import BlankLine, TemplateStrips, find_blank_line, shortened
from shared.engines.openai.errors import BodyRefused
from shared.engines.openai.generator import OpenAIGenerator
from shared.engines.openai.prompts import Style
from shared.engines.port import GeneratedStep, Meter
from shared.engines.solution_ids import SolutionIds
from tests.unit.engines.fake_server import QUESTION, FakeServer, Reply, make_request, server_at, step, write, writes
from tests.unit.engines.sensitive_model import next_token
from tests.unit.engines.tokenizer_kinds import END, KINDS, encode, encoder_of, tokenizer_of

PROMPT = f"Problem: {QUESTION}\n\n"
KEPT = {kind: BlankLine.FIRST_NEWLINE if kind == "gpt2" else BlankLine.WHOLE for kind in KINDS}
LENGTH = 140


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_of_each_tokenizer_is_found(kind: str) -> None:
    assert find_blank_line(lambda text: len(encode(kind, f"Problem: 1\n\n{text}"))) is KEPT[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_that_strips_is_found_for_each_tokenizer(kind: str) -> None:
    with pytest.raises(TemplateStrips):
        find_blank_line(lambda text: len(encode(kind, f"Problem: 1\n\n{text.strip()}")))


def test_a_server_that_does_not_count_gets_the_whole_blank_line() -> None:
    assert find_blank_line(lambda _: 0) is BlankLine.WHOLE


def test_a_tokenizer_that_fits_neither_form_gets_the_whole_blank_line() -> None:
    assert find_blank_line({"One\n\nA": 5, "One\n\n": 3, "One\n": 2, "One": 1}.__getitem__) is BlankLine.WHOLE


@pytest.mark.parametrize(("text", "sent"), [("a\n\n", "a\n"), ("a\n", "a\n"), ("a", "a"), ("", "")])
def test_only_a_blank_line_is_shortened(text: str, sent: str) -> None:
    assert shortened(text, BlankLine.FIRST_NEWLINE) == sent
    assert shortened(text, BlankLine.WHOLE) == text


def counting(kind: str, fake: FakeServer) -> None:
    fake.count = lambda text: len(encode(kind, text))


def test_the_model_writes_the_second_newline_where_the_tokenizer_needs_it(fake: FakeServer) -> None:
    counting("gpt2", fake)
    fake.replies(step("\nOne"), step("\nTwo\n"), step("Three"), writes("\nFour", stop_reason=None))
    steps = write(fake, make_request(max_steps=9))
    assert [each.text for each in steps] == ["One", "Two", "Three", "Four"]
    assert [request.body["prompt"] for request in fake.requests] == [
        PROMPT[:-1],
        PROMPT + "One\n",
        PROMPT + "One\n\nTwo\n\n",
        PROMPT + "One\n\nTwo\n\n\nThree\n",
    ]


def test_chat_sends_one_newline_where_the_tokenizer_needs_it(fake: FakeServer) -> None:
    counting("gpt2", fake)
    fake.replies(step("\nOne", chat=True), step("\nTwo", chat=True), step("Three", chat=True))
    steps = write(fake, make_request(max_steps=2), "chat")
    assert [each.text for each in steps] == ["One", "Two"]
    assert fake.requests[1].body["messages"][-1] == {"role": "assistant", "content": "\nOne\n"}


@pytest.mark.parametrize("style", ["completions", "chat"])
def test_the_probe_is_sent_once(fake: FakeServer, style: Style) -> None:
    engine = OpenAIGenerator(server_at(fake.url), style=style, template="Problem: {question}\n\n")
    fake.replies(step("One", chat=style == "chat"))
    with closing(engine):
        for _ in range(2):
            list(engine.stream(make_request(), Cancellation(), Meter()))
    assert [probe["max_tokens"] for probe in fake.probes] == [1, 1, 1]
    assert len(fake.requests) == 2


def test_chat_next_step_needs_no_probe(fake: FakeServer) -> None:
    fake.replies(writes("One", chat=True))
    write(fake, make_request(), "chat-next-step")
    assert fake.probes == []


def test_a_chat_template_that_strips_is_refused_before_anything_is_written(fake: FakeServer) -> None:
    fake.count = lambda text: len(text.strip())
    fake.replies(step("One", chat=True))
    for _ in range(2):
        with pytest.raises(TemplateStrips, match=r"template of tiny strips.*TRIM_PROMPT_STYLE to completions"):
            write(fake, make_request(), "chat")
    assert fake.requests == []


@pytest.mark.parametrize("template", ["Problem: {question} ", "Problem: {question}\t \t"])
def test_the_model_writes_the_space_at_the_end_of_a_template(fake: FakeServer, template: str) -> None:
    fake.replies(step(" One"), step("Two"))
    engine = OpenAIGenerator(server_at(fake.url), style="completions", template=template)
    with closing(engine):
        list(engine.stream(make_request(max_steps=2), Cancellation(), Meter()))
    sent = [request.body["prompt"] for request in fake.requests]
    assert sent == [f"Problem: {QUESTION}", f"{template.replace('{question}', QUESTION)} One\n\n"]


def test_a_later_call_goes_on_from_the_text_as_it_was_written(fake: FakeServer) -> None:
    engine = OpenAIGenerator(server_at(fake.url), style="completions", template="Problem: {question}\n\n")
    fake.replies(step("\nOne "), step("Two"), step("Three"))
    with closing(engine):
        for prefix in ([], ["One"], ["Eins"]):
            list(engine.stream(make_request(prefix), Cancellation(), Meter()))
    assert [request.body["prompt"] for request in fake.requests] == [
        PROMPT, f"{PROMPT}\nOne \n\n", f"{PROMPT}Eins\n\n"
    ]  # fmt: skip


# --- A server whose model depends on every id -------------------------------------------------------------------------


def serve_model(kind: str, fake: FakeServer) -> None:
    """Answer with the text that a sensitive model writes, which stops at a blank line."""
    counting(kind, fake)

    def reply(server: FakeServer, handler: object) -> None:
        ids, text = encode(kind, server.requests[-1].body["prompt"]), ""
        begin = len(ids)
        end = tokenizer_of(kind).token_to_id(END)
        while "\n\n" not in text and (token := next_token(kind, ids, seed=1, ends_at=LENGTH)) != end:
            ids.append(token)
            text = tokenizer_of(kind).decode(ids[begin:])
        stopped = "\n\n" in text
        said = writes(text.split("\n\n")[0], tokens=len(ids) - begin, stop_reason="\n\n" if stopped else None)
        said(server, handler)  # type: ignore[arg-type]

    fake.replies(reply)


def solve(fake: FakeServer, *, max_steps: int) -> list[GeneratedStep]:
    engine = OpenAIGenerator(server_at(fake.url), style="completions", template="Problem: {question}\n\n")
    steps: list[GeneratedStep] = []
    with closing(engine):
        while not steps or steps[-1].finish is Finish.SEPARATOR:
            request = make_request([each.text for each in steps], max_steps=max_steps)
            steps += engine.stream(request, Cancellation(), Meter())
    return steps


def solutions(fake: FakeServer) -> Sequence[list[str]]:
    return [[each.text for each in solve(fake, max_steps=max_steps)] for max_steps in (1, 3, 30)]


@pytest.mark.parametrize("kind", ["gpt2", "qwen", "colon"])
def test_any_number_of_steps_a_call_gives_the_same_solution(fake: FakeServer, kind: str) -> None:
    serve_model(kind, fake)
    one, three, all_at_once = solutions(fake)
    assert one == three == all_at_once
    assert len(one) > 2


def test_a_stopped_message_without_words_is_requested_without_a_stop(fake: FakeServer) -> None:
    fake.replies(step("", chat=True, tokens=1), writes("\n\nOne", chat=True, tokens=4))
    [one] = write(fake, make_request(), "chat-next-step")
    assert (one.text, one.tokens, one.prompt_tokens) == ("One", 5, 80)
    assert ["stop" in request.body for request in fake.requests] == [True, False]


def test_a_message_that_stops_inside_a_fence_is_requested_without_a_stop(fake: FakeServer) -> None:
    fake.replies(step("```\na = 1", chat=True, tokens=6), writes("```\na = 1\n\nb = 2\n```", chat=True, tokens=12))
    [one] = write(fake, make_request(), "chat-next-step")
    assert (one.text, one.tokens) == ("```\na = 1\n\nb = 2\n```", 18)
    assert fake.requests[1].body["max_tokens"] == 94


def test_chat_next_step_stops_the_server_at_the_end_of_the_step(fake: FakeServer) -> None:
    fake.replies(step("One", chat=True, tokens=3), writes("DONE", chat=True, tokens=1))
    one, _ = write(fake, make_request(max_steps=5), "chat-next-step")
    assert (one.text, one.finish, one.tokens) == ("One", Finish.SEPARATOR, 3)
    assert fake.requests[0].body["stop"][0] == "\n\n"


def test_a_probe_that_fails_is_sent_again_by_the_next_call(fake: FakeServer) -> None:
    engine = OpenAIGenerator(server_at(fake.url), style="completions", template="Problem: {question}\n\n")
    fake.refuses_probes = True
    fake.replies(step("One"))
    with closing(engine):
        with pytest.raises(BodyRefused):
            list(engine.stream(make_request(), Cancellation(), Meter()))
        fake.refuses_probes = False
        assert [each.text for each in engine.stream(make_request(), Cancellation(), Meter())] == ["One"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "merging"])
@pytest.mark.parametrize("count", range(4))
def test_a_server_continues_the_ids_that_engines_in_the_worker_continue(kind: str, count: int) -> None:
    steps = ["We have:", "1 + 1 = 2.", "So $x$"][:count]
    encoder = encoder_of(kind)
    ids = SolutionIds(encoder, QUESTION, encoder.prompt(PROMPT), steps).ids
    sent = encode(kind, shortened(PROMPT + join_steps(steps), KEPT[kind]))
    assert sent == (ids[:-1] if KEPT[kind] is BlankLine.FIRST_NEWLINE else ids)
    assert tokenizer_of(kind).decode(ids[len(sent) :]) in ("", "\n")


@pytest.mark.parametrize(
    ("replies", "prompts", "texts", "tokens"),
    [
        ([step("", tokens=2), step("\nTwo", tokens=3)], ["One\n", "One\n\n"], ["One", "Two"], 5),
        (
            [*[step("", tokens=2)] * 3, step("\nTwo", tokens=3)],
            ["One\n", "One\n\n", "One\n\n\n", "One\n\n\n\n"], ["One", "Two"], 9,
        ),
        ([step("", tokens=2)], ["One\n", "One\n\n", "One\n\n\n", "One\n\n\n\n"], ["One", ""], 8),
        ([step("", tokens=100), step("\nTwo")], ["One\n"], ["One", ""], 100),
    ],
)  # fmt: skip
def test_a_newline_more_than_a_blank_line_is_part_of_what_the_model_wrote(
    fake: FakeServer, replies: list[Reply], prompts: list[str], texts: list[str], tokens: int
) -> None:
    counting("gpt2", fake)
    fake.replies(step("One"), *replies)
    steps = write(fake, make_request(max_steps=2))
    assert ([each.text for each in steps], steps[1].tokens) == (texts, tokens)
    assert [each.body["prompt"].removeprefix(PROMPT) for each in fake.requests][1 : len(prompts) + 1] == prompts
