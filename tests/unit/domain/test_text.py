"""Reading a solution's text."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.text import (
    SEPARATOR,
    as_number,
    boxed_answer,
    extend_digest,
    is_degenerate,
    is_open,
    join_steps,
    prefix_digest,
    split_step,
)

quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def test_joined_steps_are_each_closed_by_the_separator() -> None:
    assert join_steps([]) == ""
    assert join_steps(["a", "b"]) == "a\n\nb\n\n"


@pytest.mark.parametrize(
    ("text", "expected"), [("", True), (" .\n-", True), ("a", False), ("…7…", False), ("é", False)]
)
def test_a_step_without_a_letter_or_digit_is_degenerate(text: str, expected: bool) -> None:
    assert is_degenerate(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", False),
        ("```\ncode", True),
        ("```\ncode\n```", False),
        ("\n\n\t ```", True),
        ("inline ``` is no fence", False),
        ("\\begin{align} x", True),
        ("\\begin{align} x \\end{align}", False),
        ("\\begin{a}\\begin{b}\\end{b}", True),
        ("\\end{a} \\begin{b}", True),
        ("\\end{a}", False),
    ],
)
def test_text_is_open_inside_a_fence_or_an_environment(text: str, expected: bool) -> None:
    assert is_open(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one", None),
        ("one\n", None),
        ("one\n\n", ("one", "")),
        (" one \n\n\n\ntwo\n\nthree", ("one", "two\n\nthree")),
        ("\n\none", ("", "one")),
        ("```\na\n\nb\n```\n\nc", ("```\na\n\nb\n```", "c")),
        ("\\begin{a}\n\nb", None),
    ],
)
def test_a_step_ends_at_the_first_blank_line_that_is_not_inside_something(
    text: str, expected: tuple[str, str] | None
) -> None:
    assert split_step(text) == expected


@quick
@given(
    st.lists(st.text(alphabet="ab.\n ", min_size=1).map(str.strip).filter(lambda text: text and SEPARATOR not in text))
)
def test_splitting_undoes_joining(steps: list[str]) -> None:
    found, rest = [], join_steps(steps)
    while (split := split_step(rest)) is not None:
        step, rest = split
        found.append(step)
    assert (found, rest) == (steps, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", None),
        ("\\boxed{7}", "7"),
        ("\\boxed{1} then \\boxed{ 2 }", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1} and \\boxed{2", "1"),
        ("\\boxed{1", None),
        ("} \\boxed{3}", "3"),
        ("\\boxed{a \\boxed{b} c}", "b"),
        ("\\boxed{}", ""),
    ],
)
def test_the_answer_is_the_last_balanced_box(text: str, expected: str | None) -> None:
    assert boxed_answer(text) == expected


def slow_boxed_answer(text: str) -> str | None:
    """Try each box from the last one on: the definition, in quadratic time."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth = 0
        for position in range(start + 6, len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start + 7 : position].strip()
        start = text.rfind("\\boxed{", 0, start)
    return None


@quick
@given(st.lists(st.sampled_from(["\\boxed{", "{", "}", "a", " "]), max_size=16).map("".join))
def test_reading_the_answer_in_one_pass_gives_what_the_definition_gives(text: str) -> None:
    assert boxed_answer(text) == slow_boxed_answer(text)


@pytest.mark.timeout(5)
def test_hostile_text_is_read_in_reasonable_time() -> None:
    assert boxed_answer("\\boxed{" * 20_000) is None
    assert split_step("\\begin{a}" + "\n" * 3_000) is None


def test_a_digest_names_the_question_and_every_step_in_order() -> None:
    assert prefix_digest("q", []) == extend_digest("", "q")
    assert prefix_digest("q", ["a", "b"]) == extend_digest(prefix_digest("q", ["a"]), "b")
    assert prefix_digest("q", ["a", "b"]) == "d009b6c7acee2afb", "drafts under way name it"
    different = {prefix_digest("q", steps) for steps in (["a", "b"], ["b", "a"], ["ab"], ["a"], [], ["a", "b", ""])}
    assert len(different) == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", Decimal(42)),
        ("-3.50", Decimal("-3.5")),
        ("+1,200", Decimal(1200)),
        ("1,20", None),
        ("1e5", None),
        ("", None),
        ("NaN", None),
        ("1/2", None),
        ("42\n", None),
        ("9" * 41, None),
    ],
)
def test_only_plain_numbers_are_numbers(text: str, expected: Decimal | None) -> None:
    assert as_number(text) == expected


@quick
@given(st.text(alphabet="0123456789,.+-٣e ", max_size=60))
def test_reading_a_number_never_raises(text: str) -> None:
    number = as_number(text)
    assert number is None or number.is_finite()
