r"""Reading an answer that a solution states in words, without a box."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.problems.drawing import Split, draw
from shared.domain.worded_answers import worded_answer

quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # As in GSM8K
        ("#### 720", "720"),
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 5 apples", "5"),
        ("#### $1,200.50", "1,200.50"),
        ("#### Answer: 12", "12"),
        ("The answer is 5.\n#### 7", "7"),
        ("#### 7\nThe answer is 5.", "5"),
        # A name, and the value after it
        ("The answer is 720.", "720"),
        ("the answer is 720", "720"),
        ("We add. So the final answer is 720!", "720"),
        ("Step 5: The answer is 720", "720"),
        ("**Answer:** 720", "720"),
        ("**Answer: 720**", "720"),
        ("### Answer: 720", "720"),
        ("Final answer: The answer is 720", "720"),
        ("The answer, therefore, is 720.", "720"),
        ("The answer to the problem is 720.", "720"),
        ("The final value is **7** dollars.", "7"),
        ("The answer is 720 because 700 + 20 = 720.", "720"),
        ("The answer is 60 miles per hour.", "60"),
        ("Answer:\n720", "720"),
        ("Die Antwort ist 7.", "7"),
        ("La respuesta es 7.", "7"),
        ("答案是 720。", "720"),
        ("Ответ: 7", "7"),
        # The value first
        ("720 is the answer.", "720"),
        ("So 720 is, therefore, the final answer.", "720"),
        # A line that names it, and the value below
        ("**Answer**\n\n720", "720"),
        ("The answer is:\n\n720 dollars", "720"),
        ("The final answer is:\n\\[\n720\n\\]", "720"),
        ("**Final Answer**\n\n$x = 5$", "5"),
        # Values
        ("The answer is -5.", "-5"),
        ("The answer is .5", ".5"),
        ("The answer is 3/4", "3/4"),
        ("The answer is 25%.", "25%"),
        ("The answer is 25 \\%.", "25%"),
        ("The answer is $18", "18"),
        ("The answer is $18$.", "18"),
        ("The answer is $$18$$", "18"),
        ("The answer is \\(\\frac{1}{2}\\).", r"\frac{1}{2}"),
        ("The answer is \\[\\pi\\]", r"\pi"),
        ("The answer is x = 5.", "5"),
        ("The answer is 3 + 4 = 7.", "7"),
        ("The answer is $3 + 4 = 7$ apples", "7"),
        ("The correct option is (B).", "B"),
        ("The answer is B", "B"),
        ("The answer is yes.", "yes"),
        ("Answer: False", "False"),
    ],
)
def test_an_answer_that_a_text_ends_with_is_read(text: str, expected: str) -> None:
    assert worded_answer(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "720",
        "We found 720.",
        "x = 720",
        "So the total is 720.",
        "Answer",
        "The answer is",
        "The answer is in the box.",
        "The answer is as follows:",
        "The answer is obtained by adding 3.",
        "The answer is seven.",
        "Answer in 5 minutes",
        "Answer key: 5",
        "The answer box has 5.",
        "There is no answer.",
        # Negations and doubts
        "The answer is not 720.",
        "The answer isn't 720.",
        "5 is not the answer.",
        "The answer 7 is wrong.",
        "The answer is 5 is wrong",
        "Is the answer 720?",
        "The answer is 720?",
        "答案是 720？",
        "I think that the answer is 7, but no.",
        "Die Antwort ist nicht 7.",
        # Other problems, and parts of this one
        "Alice's answer is 7.",
        "If x = 3, the answer is 7.",
        "The answer is 7 if x is positive.",
        "The answer to (a) is 7.",
        "For part (a), the answer is 7.",
        "The answer for Monday is 7.",
        # Several candidates
        "The answer is 5 or 7.",
        "The answers are 5 and 7.",
        "The answers are 5, 7.",
        "The answer is between 5 and 7.",
        "The answer is $x = 5, y = 3$.",
        "The answer is $5 or $6",
        "The answer is $5 \\text{ or } 6$.",
        # Values of which a part would be read
        "The answer is 3 million.",
        "The answer is 7 minus 2.",
        "The answer is 5 hours 20 minutes.",
        "The answer is 2**3.",
        "The answer is 5 at least.",
        "The answer is A good one.",
        "The answer is \\(?\\).",
        "The answer is $\\square$? No.",
        "The answer is $\\boxed{}$.",
        # Text after it
        "The answer is 720. Let us check it.",
        "The answer is 720.\n\nWait, that is wrong.",
        "#### 720\nThis is right.",
        # Other marks
        "### 720",
        "####",
        "#### Step 3",
        "#### 3) Add",
        "`The answer is 720`",
        "```\n#### 720\n```",
        # Numbers of other languages
        "Die Antwort ist 3,14.",
        "Die Antwort ist 1.234.567",
        "La réponse est 1 200",
        "The answer is ７２.",
        "الجواب ٧٢",
    ],
)
def test_nothing_else_is_read_as_an_answer(text: str) -> None:
    assert worded_answer(text) is None


def test_the_bundled_models_state_no_answer_in_words() -> None:
    for story in islice(draw(Split.TEST), 50):
        assert [worded_answer(step) for step in story.steps] == [None] * len(story.steps)


@quick
@given(st.text(alphabet="answer is720.,$#*()\\[]=/%-\n :", max_size=60))
def test_reading_never_raises_and_returns_a_part_of_the_text(text: str) -> None:
    value = worded_answer(f"The answer is {text}")
    assert value is None or value.strip("%") in text.replace("*", "").replace("_", "")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit", ["The answer is ", "answer ", "1 = ", "$1", "1,", "a ", "\\[", "####", "* ", "**", "1 because ", "is so "]
)
def test_hostile_text_is_read_in_reasonable_time(unit: str) -> None:
    worded_answer(unit * 4_000)
    worded_answer("The answer is " + unit * 4_000)
    worded_answer(unit * 4_000 + " is the answer")
