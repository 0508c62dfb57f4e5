"""Thoughts: what of a model's text they are, how a model reads them again, and which steps they become."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from shared.domain.drafts import Finish
from shared.domain.endings import final_answer, find_ending, follows_answer
from shared.domain.options import Sampling
from shared.domain.status import StopReason
from shared.domain.thoughts import as_thought, closes_thinking, is_thought, without_mark
from shared.engines.port import GenerationRequest, Meter
from shared.engines.step_assembly import StepAssembler
from shared.engines.thinking import Hiding, Thinking, Thoughts, Transcript, template_arguments

HM = as_thought("Hm.", is_last=False)
SO = as_thought("So 2.", is_last=True)


# --- what is hidden -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("<think>\nHm.\n\nSo 2.\n</think>\n\nOne.\n\nTwo.", "One.\n\nTwo."),
        ("<think>\n\n</think>\n\nOne.", "One."),
        ("<think>Hm", ""),
        ("One.\n\n<think>Hm</think>Two.", "One.\n\nTwo."),
        ("1 < 2 <b> <thin </think>", "1 < 2 <b> <thin </think>"),
        ("One <", "One <"),
        ("", ""),
    ],
)
def test_thoughts_are_hidden_however_the_text_arrives(text: str, visible: str) -> None:
    for size in (1, 2, 5, len(text) or 1):
        hiding = Hiding()
        pieces = [text[begin : begin + size] for begin in range(0, len(text), size)]
        assert "".join(map(hiding.visible, pieces)) + hiding.rest() == visible
        assert hiding.is_thinking is text.startswith("<think>Hm")


# --- what a model reads again ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thinking", "steps", "text", "opened"),
    [
        (None, [], "", "\n</think>\n\n"),
        (None, ["One.", "Two."], "One.\n\nTwo.\n\n", "\n</think>\n\nOne.\n\nTwo.\n\n"),
        ("off", [HM, SO, "2."], "Hm.\n\nSo 2.\n\n2.\n\n", "\n</think>\n\nHm.\n\nSo 2.\n\n2.\n\n"),
        ("steps", [], "<think>\n", ""),
        ("steps", [HM], "<think>\nHm.\n\n", "Hm.\n\n"),
        ("steps", [HM, SO], "<think>\nHm.\n\nSo 2.\n</think>\n\n", "Hm.\n\nSo 2.\n</think>\n\n"),
        ("steps", [HM, SO, "2."], "<think>\nHm.\n\nSo 2.\n</think>\n\n2.\n\n", "Hm.\n\nSo 2.\n</think>\n\n2.\n\n"),
        ("steps", [HM, "2."], "<think>\nHm.\n\n</think>\n\n2.\n\n", "Hm.\n\n</think>\n\n2.\n\n"),
        ("steps", ["One."], "<think>\n\n</think>\n\nOne.\n\n", "\n</think>\n\nOne.\n\n"),
    ],
)
def test_a_solution_as_the_model_reads_it(thinking: Thinking | None, steps: list[str], text: str, opened: str) -> None:
    assert "".join(Transcript(thinking, str).write(steps)) == text
    assert "".join(Transcript(thinking, str, is_opened=True).write(steps)) == opened


def test_no_step_can_spell_a_tag_for_the_model() -> None:
    transcript = Transcript("steps", lambda text: text.replace("<", "&lt;"))
    steps = [as_thought("a</think>b", is_last=False), "<think>c"]
    assert "".join(transcript.write(["One.", *steps])).count("<") == 2


@pytest.mark.parametrize("thinking", [None, "off", "steps"])
def test_templates_are_asked_only_if_the_settings_choose(thinking: Thinking | None) -> None:
    thinks = thinking == "steps"
    expected = {} if thinking is None else {"enable_thinking": thinks, "thinking": thinks}
    assert template_arguments(thinking) == expected


# --- which steps they become ----------------------------------------------------------------------------------------


def written(text: str, *, prefix: list[str] | None = None, size: int = 1, **changes: Any) -> list[tuple[str, Finish]]:
    """Return the steps of a text that a model in the mode `steps` writes and ends."""
    values: dict[str, Any] = {"max_steps": 30, "max_step_tokens": 512, "max_tokens": 4096, **changes}
    transcript = Transcript("steps", str)
    transcript.write(prefix or [])
    request = GenerationRequest(
        problem_id=uuid4(), question="?", prefix=tuple(prefix or ()), step_timeout_s=1, sampling=Sampling(), **values
    )
    assembler = StepAssembler(request, Meter(), Thoughts.after(transcript))
    steps = []
    for begin in range(0, len(text), size):
        if assembler.is_done:
            break
        if (step := assembler.feed(text[begin : begin + size])) is not None:
            steps.append(step)
    if not assembler.is_done:
        steps.append(assembler.end())
    return [(step.text, step.finish) for step in steps]


THOUGHT = Finish.SEPARATOR


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("begin", ["", "<think>\n"])
def test_paragraphs_of_thought_are_steps_and_the_answer_is_the_last_one(begin: str, size: int) -> None:
    text = f"{begin}Hm.\n\nSo 2.\n</think>\n\nWe add.\n\nThe answer is 2."
    assert written(text, size=size) == [
        (HM, THOUGHT), (SO, THOUGHT), ("We add.\n\nThe answer is 2.", Finish.ENDED),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 4])
def test_an_end_of_thinking_without_words_is_no_step(size: int) -> None:
    assert written("Hm.\n\n</think>\n\n2.", size=size) == [(HM, THOUGHT), ("2.", Finish.ENDED)]
    assert written("\n</think>\n\n2.", size=size) == [("2.", Finish.ENDED)]


def test_a_box_within_thoughts_never_ends_a_solution() -> None:
    boxed = r"So the answer is \boxed{7}."
    steps = written(rf"{boxed}" + "\n\nNo.\n</think>\n\n" + r"The answer is \boxed{2}.")
    assert [text for text, _ in steps] == [
        as_thought(boxed, is_last=False), as_thought("No.", is_last=True), r"The answer is \boxed{2}.",
    ]  # fmt: skip
    texts = [text for text, _ in steps]
    assert final_answer(texts, question="?") == "2"
    assert final_answer(texts[:2], question="?") is None
    assert not follows_answer(texts[:1], "?")
    assert find_ending(texts[0], finish=Finish.SEPARATOR, before=(), question="?") is None


def test_no_answer_in_words_is_read_from_a_thought_or_before_one() -> None:
    said = as_thought("The answer is 7.", is_last=True)
    assert final_answer([said], question="?") is None
    assert final_answer(["The answer is 7.", HM], question="?") is None
    assert final_answer([said, "The answer is 2."], question="?") == "2"


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ([HM], [(as_thought("A.", is_last=False), THOUGHT), (as_thought("B.", is_last=False), Finish.ENDED)]),
        ([HM, SO], [("A.\n\nB.", Finish.ENDED)]),
        (["One."], [("A.", THOUGHT), ("B.", Finish.ENDED)]),
    ],
)
def test_the_prefix_decides_whether_the_model_thinks_answers_or_writes(prefix: list[str], expected: Any) -> None:
    assert written("A.\n\nB.", prefix=prefix) == expected


def test_a_thought_is_cut_like_any_step() -> None:
    assert written("And on and on", max_step_tokens=5) == [(as_thought("And o", is_last=False), Finish.LENGTH)]


def test_a_thought_that_is_written_again_ends_the_solution() -> None:
    assert find_ending(HM, finish=Finish.SEPARATOR, before=[HM], question="?") is StopReason.REPEATED


def test_thoughts_without_words_are_dropped_and_end_the_call() -> None:
    assert written("---\n\n...\n\nNo.") == [("...", Finish.SEPARATOR)]


@pytest.mark.parametrize(("step", "text"), [(HM, "Hm."), (SO, "So 2."), ("One. </think>", "One. </think>")])
def test_readers_of_a_thought_see_it_without_its_mark(step: str, text: str) -> None:
    assert without_mark(step) == text
    assert (is_thought(step), closes_thinking(step)) == (step in (HM, SO), step == SO)
