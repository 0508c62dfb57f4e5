"""Reading a solution's text."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.text import (
    as_number,
    extend_digest,
    is_degenerate,
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
        ("one", None),
        ("one\n", None),
        ("one\n\n", ("one", "")),
        (" one \n\n\n\ntwo\n\nthree", ("one", "two\n\nthree")),
        ("\n\none", ("", "one")),
        ("```\na\n\nb\n```\n\nc", ("```\na\n\nb\n```", "c")),
        ("\\begin{a}\n\nb", None),
        # White space of any kind in the blank line
        ("a\r\n\r\nb", ("a", "b")),
        ("a\n \nb", ("a", "b")),
        ("a\n\t\nb", ("a", "b")),
        ("a\n\u00a0\nb", ("a", "b")),
        ("a\n\x0c\nb", ("a", "b")),
        ("a\n\u2028\u3000\nb", ("a", "b")),
        ("a\n\r\n \t\n\n  b", ("a", "  b")),
        ("a\n\n \n", ("a", "")),
        ("a\n\n  ", ("a", "  ")),
        (" \n \na", ("", "a")),
        ("a\n ", None),
        ("a\r\rb", None),
        ("a\r\nb\r\n", None),
        ("a\u2028\u2028b", None),
        ("a\u2029b", None),
        ("a\n\u200b\nb", None),
        ("a\n.\nb", None),
        ("a\n>\nb", None),
        ("a\\n\\nb", None),
    ],
)
def test_a_step_ends_at_the_first_blank_line_that_is_not_inside_something(
    text: str, expected: tuple[str, str] | None
) -> None:
    assert split_step(text) == expected


@quick
@given(st.lists(st.lists(st.text(alphabet="ab. ", min_size=1).map(str.strip).filter(bool), min_size=1).map("\n".join)))
def test_splitting_undoes_joining(steps: list[str]) -> None:
    found, rest = [], join_steps(steps)
    while (split := split_step(rest)) is not None:
        step, rest = split
        found.append(step)
    assert (found, rest) == (steps, "")


@pytest.mark.timeout(5)
def test_hostile_text_is_read_in_reasonable_time() -> None:
    closed = "```\n\n```\n" * 4_000
    assert split_step(closed + "\n") == (closed.strip(), "")
    assert split_step("\\begin{a}" + "\n" * 3_000) == ("\\begin{a}", "")


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
