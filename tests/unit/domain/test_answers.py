r"""Reading the answer in a step's text."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.problems.drawing import Split, draw
from shared.domain.answers import boxed_answer, states_answer

quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", None),
        (r"\boxed{7}", "7"),
        (r"\boxed{1} then \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{1", None),
        (r"} \boxed{3}", "3"),
        (r"\boxed{a \boxed{b} c}", "b"),
        (r"\boxed{\boxed{5}}", "5"),
        # Other boxes
        (r"\fbox{5}", "5"),
        (r"\fbox{$x + 1$}", "x + 1"),
        (r"\boxed{$5 or $6}", "$5 or $6"),
        (r"\framebox{5}", "5"),
        (r"\framebox[2cm][c]{5}", "5"),
        (r"\\boxed{5}", "5"),
        (r"x \\\boxed{5}", "5"),
        (r"\mbox{5} \makebox{5} \boxedtext{5} \Boxed{5} boxed{5}", None),
        (r"\boxed[5]", None),
        # Arguments without braces
        (r"\boxed {5}", "5"),
        ("\\boxed\n{5}", "5"),
        ("\\boxed\n\n{5}", None),
        (r"\boxed 5", "5"),
        (r"\boxed 12.", "12"),
        (r"\boxed12", "12"),
        (r"\boxed .5", ".5"),
        (r"$\boxed -1,200.50$.", "-1,200.50"),
        (r"\boxed 3/4, so", "3/4"),
        (r"\boxed B.", "B"),
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed \frac{\sqrt{2}}{2}$", r"\frac{\sqrt{2}}{2}"),
        (r"\boxed\sqrt[3]{5} {x}", r"\sqrt[3]{5}"),
        (r"\boxed\frac12", r"\frac12"),
        (r"\boxed\pi", r"\pi"),
        (r"Use \boxed notation, as \boxed does.", None),
        (r"\[ \boxed \]", None),
        (r"\begin{a} \boxed \end{a}", None),
        # Escaped braces
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1 \\{2}}", r"1 \\{2}"),
        (r"\boxed{1\}", None),
        # Nothing in it
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{\,}", None),
        (r"\boxed{\ }", None),
        (r"\boxed{~\quad{}\hspace{1cm}}", None),
        (r"\boxed{\boxed{}}", None),
        (r"\boxed{\phantom{}}", None),
        (r"\boxed{5} and \boxed{}", "5"),
        (r"\boxed{\phantom{5}}", None),
        (r"\boxed{\underline{\hspace{1cm}}}", None),
        (r"\boxed{-}", "-"),
        (r"\boxed{<}", "<"),
        (r"\boxed{\text{>}}", r"\text{>}"),
        (r"\boxed{*}", "*"),
        (r"\boxed{[]}", "[]"),
        (r"\boxed{\emptyset}", r"\emptyset"),
        # Placeholders
        (r"\boxed{your answer}", None),
        (r"\boxed{answer}", None),
        (r"\boxed{Final Answer}", None),
        (r"\boxed{\text{answer}}", None),
        (r"\boxed{\textbf{Your final answer here}}", None),
        (r"\boxed{<answer>}", None),
        (r"\boxed{[your answer]}", None),
        (r"\boxed{your\_answer}", None),
        (r"\boxed{...}", None),
        (r"\boxed{…}", None),
        (r"\boxed{\ldots}", None),
        (r"\boxed{?}", None),
        (r"\boxed{\square}", None),
        (r"\boxed{___}", None),
        (r"\boxed{答案}", None),
        (r"\boxed{5}, in the form \boxed{answer}", "5"),
        (r"\boxed{the answerer}", "the answerer"),
        (r"\boxed{1, 2, \ldots}", r"1, 2, \ldots"),
        # Code
        (r"`\boxed{5}`", None),
        (r"`` ` \boxed{5}``", None),
        ("```\n\\boxed{5}\n```", None),
        ("```\n\\boxed{5}", None),
        ("````\n```\n````\n\\boxed{5}", "5"),
        ("~~~ latex\n\\boxed{5}\n~~~", None),
        (r"\verb|\boxed{5}|", None),
        ("\\begin{lstlisting}\n\\boxed{5}\n\\end{lstlisting}", None),
        ("\\begin{verbatim*}\n\\boxed{5}\n\\end{verbatim*}", None),
        ("    \\boxed{5}", "5"),
        (r"\boxed{3} and `\boxed{5}`", "3"),
        (r"\boxed{`x`}", "`x`"),
        (r"``So'' it is \boxed{5}, ``as we saw''.", "5"),
        (r"5 ` 2 is \boxed{5}", "5"),
    ],
)
def test_the_answer_is_in_the_last_box_that_holds_one(text: str, expected: str | None) -> None:
    assert boxed_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"The question has \boxed{x + 1}.", None),
        (r"It is \boxed{7}, as in \boxed{x+1}.", "7"),
        (r"It is \boxed{x + 2}.", "x + 2"),
        (r"It goes in \boxed{n}.", None),
        (r"Choose \boxed{x + 1} or \boxed{n}.", None),
        (r"The answer is \boxed{x+1}.", "x+1"),
        (r"The correct option is $\boxed{n}$.", "n"),
        (r"Only n is even. Thus \boxed{n}.", "n"),
        (r"\boxed{n}", "n"),
    ],
)
def test_a_box_of_the_question_is_a_quotation_unless_it_is_called_the_answer(text: str, expected: str | None) -> None:
    assert boxed_answer(text, question=r"Replace \boxed{x + 1}, or write `\boxed{n}`.") == expected


def slow_boxed_answer(text: str) -> str | None:
    """Try each box from the last one on: the definition, in quadratic time."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth = 0
        for position in range(start + 6, len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                content = text[start + 7 : position].strip()
                if "a" in content:
                    return content
                break
        start = text.rfind("\\boxed{", 0, start)
    return None


@quick
@given(st.lists(st.sampled_from(["\\boxed{", "{", "}", "a", " "]), max_size=16).map("".join))
def test_reading_the_answer_in_one_pass_gives_what_the_definition_gives(text: str) -> None:
    assert boxed_answer(text) == slow_boxed_answer(text)


@pytest.mark.parametrize(
    "text",
    [
        r"The answer is \boxed{7}.",
        r"**Final Answer:** \boxed{7}",
        "**Final Answer**\n\\boxed{7}",
        "### Final Answer\nThe value of x is $\\boxed{7}$.",
        "The final answer is\n\\[\n\\boxed{7}\n\\]",
        "The answer is:\n$$\\boxed{7}$$",
        "Answer:\n- \\boxed{7}",
        r"Thus, the answer is $x = \boxed{7}$",
        r"\boxed{7} is the answer",
        r"$\boxed{7}$ is, therefore, the answer.",
        r"Answer: \boxed{7}",
        r"(ANS. \boxed{7})",
        r"So, the correct answer is (B): $\boxed{B}$",
        r"Step 5: The answer is \boxed{7}.",
        r"First we add. Then we divide. The answer is \boxed{7}.",
        r"The answer is 7, i.e. \boxed{7}",
        r"The answer is \boxed{5} metres per second.",
        r"The answer is $\boxed{\text{not prime}}$.",
        r"The answers are \boxed{2} and \boxed{3}.",
        r"The answers are \boxed{\boxed{2}} and \boxed{3}.",
        r"This gives us a final result of \boxed{7} apples.",
        r"The answer is \boxed{7} because 3 + 4 = 7.",
        r"The answer to the problem is $x_1 = \frac{14}{2} = \boxed{7}$.",
        r"The correct option is \boxed{C}.",
        r"Therefore, the final value is \boxed{7}",
        r"The answer is \boxed 7",
        r"Die Antwort ist \boxed{7}.",
        r"La réponse est \boxed{7}.",
        r"La respuesta es \boxed{7}.",
        r"Ответ: \boxed{7}.",
        r"答案是 \boxed{7}。",
        r"所以答案为$\boxed{7}$",
        r"\boxed{7}",
        r"$$\boxed{7}.$$",
        "\\[\n\\begin{aligned}\n\\boxed{7}\n\\end{aligned}\n\\]",
        r"Hence \boxed{42}",
        r"So it is \boxed{7}.",
        r"Step 3: \boxed{7}",
    ],
)
def test_a_text_states_the_answer(text: str) -> None:
    assert states_answer(text)


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 7.",
        r"The answer is \boxed{}.",
        r"The answer is `\boxed{7}`.",
        r"The answer is \boxed{your answer}.",
        r"\boxed{3} is the first root.",
        r"So the first root is \boxed{3}.",
        "So the first root is\n\\[\n\\boxed{3}\n\\]",
        r"The first root is 3. \boxed{3}",
        r"Thus $x = \boxed{3}$.",
        r"2 + 3 = \boxed{5}",
        r"\boxed{3} is not the answer yet",
        r"\boxed{3} isn't the answer.",
        r"\boxed{3} is not the answer but a hint.",
        r"I will box the answer in \boxed{5} later",
        r"Put the final answer in \boxed{5}.",
        r"We write the answer in the form \boxed{a + b}.",
        r"The answer to the first part is \boxed{3}.",
        r"For part (a), the answer is \boxed{3}.",
        r"The intermediate result is \boxed{12}.",
        r"The result of the division, \boxed{12}, is even.",
        r"To find the answer, we need \boxed{3}.",
        r"To answer the question, we need \boxed{3}.",
        r"Is the answer \boxed{7}?",
        r"\boxed{7}?",
        r"Let me check whether the answer is \boxed{7}.",
        r"If x = 3, the answer is \boxed{7}.",
        r"Maybe the answer is \boxed{7}.",
        r"The answer comes last. Now we get \boxed{3}.",
        "The final answer comes last.\nThe first root is \\boxed{3}.",
        "- The answer is a sum\n- Its first term is \\boxed{3}",
        r"We get \boxed{3}. The answer follows.",
        r"The unanswered part is \boxed{3}",
        r"The value is $\boxed{\text{the answer to all}}$",
        r"(a) The answer is \boxed{7}.",
        r"The answer to (a) is \boxed{7}.",
        r"The answer to question 1 is \boxed{7}.",
        r"The answer for Monday is \boxed{7}.",
        r"In case 1 the answer is \boxed{7}.",
        r"The answer is \boxed{7} if x is positive.",
        r"Alice's answer is \boxed{7}.",
        r"The answer box is \boxed{7}.",
        r"Remember that the answer goes in \boxed{7}.",
        r"So the result is \boxed{7}.",
        r"The answer is \boxed{7}. Wait, that is wrong.",
        "The answer is \\boxed{7}.\nNow for part (b):",
        r"Die Antwort ist nicht \boxed{7}.",
        r"答案不是 \boxed{7}。",
    ],
)
def test_a_text_does_not_state_the_answer(text: str) -> None:
    assert not states_answer(text)


def test_a_quotation_of_the_question_states_nothing() -> None:
    assert not states_answer(r"The last digit is \boxed{7}.", question=r"Is it \boxed{7}?")


def test_the_last_step_of_a_bundled_problem_alone_states_its_answer() -> None:
    for story in islice(draw(Split.TEST), 50):
        *steps, last = story.steps
        assert states_answer(last, question=story.question)
        assert not any(states_answer(step, question=story.question) for step in steps)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit",
    ["\\boxed{", "\\boxed{1}", "\\boxed\\a", "\\boxed", "`", "` `` ", "``a ", "$a ", "\\verb|", "not ", "answer put ",
     "answer to get ", "```\n\n", "\\begin{a}\n\n", "\\begin{verbatim}", "\n", " \n", "\\\\", "- ", "a. "],
)  # fmt: skip
def test_hostile_text_is_read_in_reasonable_time(unit: str) -> None:
    text = unit * 4_000 + "\\boxed{1} x"
    boxed_answer(text, question=text)
    states_answer(text, question=text)
