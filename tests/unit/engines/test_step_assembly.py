from __future__ import annotations

from collections.abc import Generator
from typing import Any
from uuid import uuid4

import pytest

from shared.domain.drafts import Finish
from shared.domain.options import Sampling
from shared.engines.port import EngineFailed, GeneratedStep, GenerationRequest, Meter
from shared.engines.step_assembly import StepAssembler


def assembler(**changes: Any) -> StepAssembler:
    values: dict[str, Any] = {"prefix": (), "max_steps": 30, "max_step_tokens": 512, "max_tokens": 4096, **changes}
    request = GenerationRequest(problem_id=uuid4(), question="?", step_timeout_s=1, sampling=Sampling(), **values)
    writing = StepAssembler(request, Meter())
    writing.count_input(7, 3)
    return writing


def feed(to: StepAssembler, *pieces: str) -> list[GeneratedStep]:
    return [step for piece in pieces if (step := to.feed(piece)) is not None]


def test_a_blank_line_ends_a_step() -> None:
    writing = assembler()
    (step,) = feed(writing, "1+1", "=2", ".\n\n")
    assert (step.text, step.finish, step.tokens) == ("1+1=2.", Finish.SEPARATOR, 3)
    assert not writing.is_done


def test_a_blank_line_that_comes_in_two_pieces_ends_a_step() -> None:
    assert [step.text for step in feed(assembler(), "one.\n", "\n", "two.\n", "\n")] == ["one.", "two."]


def test_a_blank_line_with_white_space_in_it_ends_a_step() -> None:
    pieces = "one.\n", " ", "\n", "two.\r\n", "\r", "\nthree", ".\n\t\n \n"
    assert [step.text for step in feed(assembler(), *pieces)] == ["one.", "two.", "three."]


def test_what_follows_the_separator_in_the_same_piece_begins_the_next_step() -> None:
    assert [step.text for step in feed(assembler(), "one.\n\ntw", "o.\n\n")] == ["one.", "two."]


def test_the_input_is_counted_with_the_first_step_alone() -> None:
    first, second = feed(assembler(), "one.\n\n", "two.\n\n")
    assert (first.prompt_tokens, first.cached_tokens) == (7, 3)
    assert (second.prompt_tokens, second.cached_tokens) == (0, 0)


@pytest.mark.parametrize(
    "pieces",
    [
        ("```\n", "a = 1\n\n", "b = 2\n", "```\n\n"),
        ("\\begin{align}\n\n", "x\n\n", "\\end{align}", "\n\n"),
        ("~~~\n", "a\n", " \n", "b\n", "~~~\n\n"),
        ("\\", "[", "\nx\r\n", "\r\n\\]", "\r\n", "\r\n"),
    ],
)
def test_a_blank_line_inside_a_fence_or_an_environment_ends_no_step(pieces: tuple[str, ...]) -> None:
    (step,) = feed(assembler(), *pieces)
    assert step.text == "".join(pieces).strip()


def test_a_lead_in_ends_no_step() -> None:
    pieces = "**Step 1: ", "Add**", "\n", "\n", "so 1+1", "=2:\n\n", "\\[2\\]\n", "\n", "Two.\n\n"
    assert [step.text for step in feed(assembler(), *pieces)] == ["**Step 1: Add**\n\nso 1+1=2:\n\n\\[2\\]", "Two."]


def test_a_lead_in_that_nothing_follows_is_a_step_if_the_model_ends() -> None:
    writing = assembler()
    assert feed(writing, "So:", "\n\n") == []
    assert writing.end().text == "So:"


def test_a_degenerate_step_is_dropped_once_and_billed_to_the_next_one() -> None:
    writing = assembler()
    (step,) = feed(writing, "...", "\n\n", "one.", "\n\n")
    assert (step.text, step.tokens) == ("one.", 4)
    assert not writing.is_done


def test_the_second_degenerate_step_in_a_row_is_returned_and_ends_the_call() -> None:
    writing = assembler()
    (step,) = feed(writing, "\n\n", "-\n\n")
    assert (step.text, step.finish, step.tokens) == ("-", Finish.SEPARATOR, 2)
    assert writing.is_done


def test_degenerate_steps_with_a_good_one_between_them_are_both_dropped() -> None:
    writing = assembler()
    assert [step.text for step in feed(writing, "\n\n", "one.\n\n", "\n\n", "two.\n\n")] == ["one.", "two."]
    assert not writing.is_done


def test_the_models_own_end_closes_the_step_and_the_call() -> None:
    writing = assembler()
    assert feed(writing, "so 3.") == []
    step = writing.end()
    assert (step.text, step.finish, step.tokens) == ("so 3.", Finish.ENDED, 2)
    assert writing.is_done


def test_an_end_right_after_a_separator_is_an_empty_step() -> None:
    writing = assembler()
    feed(writing, "one.\n\n")
    step = writing.end()
    assert (step.text, step.finish, step.tokens) == ("", Finish.ENDED, 1)
    assert writing.is_done


def test_a_step_is_closed_at_its_token_limit_and_ends_the_call() -> None:
    writing = assembler(max_step_tokens=2)
    (step,) = feed(writing, "one", " two")
    assert (step.text, step.finish) == ("one two", Finish.LENGTH)
    assert writing.is_done, "nothing is joined to half a number"


@pytest.mark.parametrize("pieces", [("one", " two"), ("one.\n\n",), ()])
def test_the_end_of_the_context_cuts_the_step_and_ends_the_call(pieces: tuple[str, ...]) -> None:
    writing = assembler()
    feed(writing, *pieces)
    step = writing.cut()
    assert (step.text, step.finish) == ("one two" if len(pieces) == 2 else "", Finish.LENGTH)
    assert writing.is_done


def test_a_box_that_is_called_the_answer_ends_the_call() -> None:
    writing = assembler()
    feed(writing, "The answer is \\boxed{\\frac{1}{2}}.\n\n")
    assert writing.is_done


def test_after_another_box_the_model_is_asked_once_and_words_go_on() -> None:
    writing = assembler()
    feed(writing, "\\boxed{3} is the first root.\n\n")
    assert not writing.is_done
    feed(writing, "The other one is 7.\n\n")
    assert not writing.is_done


@pytest.mark.parametrize("prefix", [(), ("\\boxed{3} is the first root.",)])
def test_the_first_step_without_words_after_a_box_is_returned_and_ends_the_call(prefix: tuple[str, ...]) -> None:
    writing = assembler(prefix=prefix)
    if not prefix:
        feed(writing, "\\boxed{3} is the first root.\n\n")
    (step,) = feed(writing, "---\n\n")
    assert (step.text, step.finish, step.tokens) == ("---", Finish.SEPARATOR, 1)
    assert writing.is_done


@pytest.mark.parametrize(
    ("prefix", "pieces"),
    [((), "a.\n\n A.\n\n"), (("a.",), "a.\n\n"), (("b.", "a."), "b.\n\n a.\n\n"), (("b.", "a.", "b."), "a.\n\n")],
)
def test_a_step_or_cycle_of_steps_that_is_written_again_ends_the_call(prefix: tuple[str, ...], pieces: str) -> None:
    writing = assembler(prefix=prefix)
    feed(writing, *pieces.split(" "))
    assert writing.is_done


def test_no_further_step_is_begun_once_the_call_has_its_tokens() -> None:
    writing = assembler(max_tokens=3)
    assert len(feed(writing, "a.", "\n\n")) == 1
    assert not writing.is_done
    assert len(feed(writing, "b.", "\n\n")) == 1
    assert writing.is_done


def test_the_call_ends_with_its_last_step() -> None:
    writing = assembler(max_steps=2)
    feed(writing, "a.\n\n")
    assert not writing.is_done
    feed(writing, "b.\n\n")
    assert writing.is_done


# Log-probabilities


def confidences(to: StepAssembler, *pieces: tuple[str, float | None]) -> list[tuple[float | None, float | None]]:
    """Feed pieces of one token each; return mean and least log-probability of each step."""
    fed = [to.feed(piece, logprobs=None if logprob is None else (logprob,)) for piece, logprob in pieces]
    return [(step.mean_logprob, step.min_logprob) for step in fed if step is not None]


def test_the_log_probabilities_of_a_step_are_those_of_its_tokens_and_its_end() -> None:
    pieces = ("One", -0.5), (".", -1.0), ("\n\n", -3.0), ("Two", -0.25), (".\n\n", -0.75)
    assert confidences(assembler(), *pieces) == [(-1.5, -3.0), (-0.5, -0.75)]


def test_a_dropped_attempt_is_left_out_of_the_log_probabilities() -> None:
    assert confidences(assembler(), ("...", -5.0), ("\n\n", None), ("One.", -1.0), ("\n\n", -2.0)) == [(-1.5, -2.0)]


def test_a_step_with_a_token_of_unknown_log_probability_has_none() -> None:
    pieces = ("One", -0.5), (".\n\n", None), ("Two", -1.0), (".\n\n", -2.0)
    assert confidences(assembler(), *pieces) == [(None, None), (-1.5, -2.0)]


def test_the_models_own_end_is_one_of_the_tokens() -> None:
    writing = assembler()
    writing.feed("One", logprobs=(-1.0,))
    step = writing.end(logprobs=(-3.0,))
    assert (step.mean_logprob, step.min_logprob) == (-2.0, -3.0)


def test_a_cut_needs_no_token() -> None:
    writing = assembler()
    writing.feed("One", tokens=2, logprobs=(-1.0, -3.0))
    step = writing.cut()
    assert (step.mean_logprob, step.min_logprob) == (-2.0, -3.0)


# The meter


def pieces(*texts: str, to: StepAssembler) -> Generator[GeneratedStep, None, None]:
    """Feed texts while the steps are delivered."""
    for text in texts:
        if (step := to.feed(text)) is not None:
            yield step


def test_the_meter_holds_the_step_that_is_being_written() -> None:
    writing = assembler()
    feed(writing, "...\n\n", "One", " and")
    assert writing.meter == Meter(tokens=3, prompt_tokens=7, cached_tokens=3), "the dropped attempt is part of it"


def test_a_delivered_step_is_taken_off_the_meter() -> None:
    writing = assembler()
    steps = writing.deliver(pieces("One.\n\n", "Two", ".\n\n", "Three", to=writing))
    assert next(steps).tokens == 1
    assert writing.meter == Meter()
    assert next(steps).tokens == 2
    with pytest.raises(EngineFailed, match="before its last step"):
        next(steps)  # The call is not over, so these cannot be all.
    assert writing.meter == Meter(tokens=1)


def test_a_step_that_was_finished_ahead_of_the_caller_stays_on_the_meter() -> None:
    writing = assembler()
    finished = feed(writing, "One.\n\n", "Two", ".\n\n", "Three")
    steps = writing.deliver(step for step in finished)
    next(steps)
    steps.close()
    assert writing.meter == Meter(tokens=3)


def test_nothing_is_counted_once_the_caller_has_left() -> None:
    writing = assembler()
    steps = writing.deliver(pieces("One.\n\n", to=writing))
    next(steps)
    steps.close()
    assert writing.feed("Two.\n\n") is None
    writing.count_input(5, 0)
    assert writing.meter == Meter()


def test_streamed_tokens_are_an_estimate_until_the_exact_number_is_known() -> None:
    writing = assembler()
    for tokens in (1, 4):
        writing.count_streamed(tokens)
    assert writing.meter == Meter(estimated_tokens=4, prompt_tokens=7, cached_tokens=3)
    writing.feed("One", tokens=6)
    assert writing.meter == Meter(tokens=6, prompt_tokens=7, cached_tokens=3)
    writing.count_streamed(1)
    assert (writing.meter.tokens, writing.meter.estimated_tokens) == (6, 1)
