r"""Lead-ins: lines that announce what follows them, and are no steps by themselves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.lead_ins import LEAD_IN_BLANK_LINES, is_lead_in
from shared.domain.text import split_step

quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    "paragraph",
    [
        # A colon at the end
        "Step 1:",
        "We have:",
        "First we add.\nThis gives:",
        "**Solution:**",
        "**Step 1: Add**:",
        "__Given:__",
        "We have:  ",
        "我们有：",
        "Es gilt:",
        # A heading
        "**Step 1: Add**",
        "***Step 1***",
        "__Step 1__",
        "1. **Add the numbers**",
        "- **Add**",
        "### Step 1",
        "# Solution",
        "### Step 2: Solve x + 2 = 5",
        "### 1. Setup.",
        "Step 1",
        "step 12.",
        r"\textbf{Step 1}",
        r"\section*{Step 1}",
        r"\subsection{Setup}",
    ],
)
def test_a_paragraph_that_announces_something_is_a_lead_in(paragraph: str) -> None:
    assert is_lead_in(paragraph)


@pytest.mark.parametrize(
    "paragraph",
    [
        "",
        ":",
        "**:**",
        "2:",
        "We add 3 and 4.",
        "Note: we add 3 and 4.",
        "At 12:30",
        "Step 1: 3 + 4 = 7",
        "Step 1: Add",
        "Step by step",
        "**Step 1:** Add 3 and 4.",
        "We **add**",
        "**3** and **4**",
        "**We add 3 and 4.**",
        "**x = 7**",
        "**7**",
        "** 7 **",
        "#5",
        "## 5",
        "####",
        "#hashtag",
        # It has the answer
        "#### 720",
        "**Answer: 720**",
        "### The answer is 720",
        r"### \boxed{7}",
        r"**The total is \boxed{7}**",
        # More than a heading
        "### Step 1\n3 + 4 = 7",
        "3 + 4 = 7\n### Step 2",
        "**" + "long " * 40 + "**",
    ],
)
def test_other_paragraphs_are_steps(paragraph: str) -> None:
    assert not is_lead_in(paragraph)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**Step 1: Add**\n\n3 + 4 = 7.\n\nB", ("**Step 1: Add**\n\n3 + 4 = 7.", "B")),
        ("We get:\n\n\\[\nx\n\\]\n\nB", ("We get:\n\n\\[\nx\n\\]", "B")),
        ("We get:\n\n```\na:\n\nb\n```\n\nB", ("We get:\n\n```\na:\n\nb\n```", "B")),
        ("Then:\n\n1. 3 + 4\n2. 7 + 1\n\nB", ("Then:\n\n1. 3 + 4\n2. 7 + 1", "B")),
        ("Then:\n\n1. 3 + 4\n\n2. 7 + 1\n\n", ("Then:\n\n1. 3 + 4", "2. 7 + 1\n\n")),
        ("## Sum\n\n### Step 1\n\nWe have:\n\n7\n\nB", ("## Sum\n\n### Step 1\n\nWe have:\n\n7", "B")),
        ("We add.\n\nWe get:\n\n7\n\n", ("We add.", "We get:\n\n7\n\n")),
        ("a:\r\n\r\nb\r\n\r\nB", ("a:\r\n\r\nb", "B")),
        ("a:\n\n", None),
        ("a:\n\nb", None),
        ("```\na:\n```\n\nB", ("```\na:\n```", "B")),
        ("It is `a:`\n\nB", ("It is `a:`", "B")),
        # Bounds
        ("a:\n\nb:\n\nc:\n\nd:\n\nB", ("a:\n\nb:\n\nc:\n\nd:", "B")),
        ("a:\n\n\n\nb\n\nB", ("a:\n\n\n\nb", "B")),
        ("a:\n\n\n\n\nB", ("a:", "B")),
    ],
)
def test_a_lead_in_and_what_it_announces_are_one_step(text: str, expected: tuple[str, str] | None) -> None:
    assert split_step(text) == expected


def test_lead_ins_alone_hold_a_step_open_for_a_limited_number_of_blank_lines() -> None:
    found = split_step("So:\n\n" * 10)
    assert found is not None
    assert found[0].count("\n\n") == LEAD_IN_BLANK_LINES


@quick
@given(st.lists(st.sampled_from(["a", "a:", "# b", "**c**", "\n", "\n\n", "$$", "```\n", " ", ":"]), max_size=14))
def test_text_in_pieces_has_the_same_steps(pieces: list[str]) -> None:
    def steps(*arriving: str) -> list[str]:
        found, text = [], ""
        for piece in arriving:
            text += piece
            while (split := split_step(text)) is not None:
                step, text = split
                found += [step] if step else []
        return found

    assert steps(*"".join(pieces)) == steps("".join(pieces))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["a:\n\n", "**a** ", "*", ":", ":*", "# ", "####", "a = ", "1. ", "The answer is "])
def test_hostile_text_is_read_in_reasonable_time(unit: str) -> None:
    is_lead_in(unit * 4_000)
    split_step(unit * 4_000 + "\n\n")
