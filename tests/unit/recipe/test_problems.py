from __future__ import annotations

import operator
import re
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.problems import arithmetic
from recipe.problems.checker import Label, first_error, is_solved, label, steps_of
from recipe.problems.drawing import Split, draw, split_of
from recipe.problems.families import TRAINED, TRANSFER, Kind
from recipe.problems.story import NotAProblem, Story, parse
from shared.domain.answers import boxed_answer
from shared.domain.text import join_steps

FIRST_TEST_QUESTION = (
    "Kim has 22 coins. 1) Kim pays 9 coins for cookies. 2) Kim gets 55 coins for shells. 3) Kim "
    "pays 4 coins for shells. 4) Kim sells 6 shells for 3 coins each. 5) Kim sells 5 shells for "
    "2 coins each. How many coins does Kim have now?"
)

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}

numbers = st.integers(1, 99)
stories = st.builds(
    lambda split, seed, skipped: next(islice(draw(split, seed=seed), skipped, None)),
    st.sampled_from(list(Split)),
    st.integers(0, 50),
    st.integers(0, 9),
)


def calculated(work: str) -> None:
    """Check each equation of some column work, and that its result is that of its head."""
    head, _, lines = work.partition(": ")
    *equations, result = lines.split(", ")
    for equation in equations:
        left, right = equation.split("=")
        if "rest" in right:
            quotient, rest = map(int, right.split(" rest "))
            whole, divisor = map(int, left.split("/"))
            assert whole == quotient * divisor + rest
            assert 0 <= rest < divisor
        else:
            assert value_of(left) == int(right)
    assert value_of(head) == int(result.removeprefix("so "))


def value_of(expression: str) -> float:
    first, *rest = re.findall(r"(^|[-+*/])(\d+)", expression)
    value: float = int(first[1])
    for sign, number in rest:
        other = int(number)
        value = OPERATORS[sign](value, other)
    return value


@given(numbers, numbers)
def test_column_work_adds_and_subtracts(a: int, b: int) -> None:
    if a + b <= arithmetic.LARGEST:
        calculated(arithmetic.add(a, b))
    if a > b:
        calculated(arithmetic.subtract(a, b))


@given(numbers, st.integers(2, 9))
def test_column_work_multiplies_and_divides(a: int, factor: int) -> None:
    if a * factor <= arithmetic.LARGEST:
        calculated(arithmetic.multiply(a, factor))
        calculated(arithmetic.divide(a * factor, factor))


@given(stories)
def test_every_problem_is_read_back_from_its_question(story: Story) -> None:
    read = parse(story.question)
    assert (read.steps, read.answer, read.template) == (story.steps, story.answer, story.template)


@given(stories)
def test_a_solution_is_right_in_every_step_and_boxes_its_answer(story: Story) -> None:
    assert set(label(story.question, story.steps)) == {Label.RIGHT}
    assert boxed_answer(story.steps[-1]) == str(story.answer)
    assert steps_of(join_steps(story.steps)) == list(story.steps)
    assert is_solved(story.question, story.steps)
    assert not is_solved(story.question, story.steps[:-1])
    for step in story.steps[:-1]:
        found = re.search(r"\d+[-+*/]\d+: .*so \d+", step)
        if found:
            calculated(found[0])


@given(stories, st.data())
def test_one_changed_character_is_the_first_error_and_all_that_follows_is_wrong(story: Story, data: Any) -> None:
    at = data.draw(st.integers(0, len(story.steps) - 1))
    place = data.draw(st.integers(0, len(story.steps[at]) - 1))
    character = data.draw(st.sampled_from("0123456789 .abX=").filter(lambda new: new != story.steps[at][place]))
    changed = list(story.steps)
    changed[at] = changed[at][:place] + character + changed[at][place + 1 :]
    right = [Label.RIGHT] * at
    assert label(story.question, changed) == [
        *right,
        Label.FIRST_ERROR,
        *[Label.WRONG] * (len(changed) - at - 1),
    ]


@given(stories)
def test_a_step_after_the_answer_is_an_error(story: Story) -> None:
    assert first_error(story.steps, [*story.steps, story.steps[-1]]) == len(story.steps)


@given(stories, st.data())
def test_a_question_with_one_changed_character_is_another_problem_or_none(story: Story, data: Any) -> None:
    place = data.draw(st.integers(0, len(story.question) - 1))
    character = data.draw(st.sampled_from("0123456789 .abX)").filter(lambda new: new != story.question[place]))
    changed = story.question[:place] + character + story.question[place + 1 :]
    try:
        read = parse(changed)
    except NotAProblem:
        return
    assert read.question == changed
    assert character.isdigit(), "only numbers can change"


@pytest.mark.parametrize(
    "question",
    [
        "",
        "What is 2+2?",
        "Mia has 5 coins. How many coins does Mia have now?",
        "Mia has 5 coins. 1) Mia earns 95 coins. How many coins does Mia have now?",
        "Mia has 5 coins. 1) Tom earns 3 coins. How many coins does Mia have now?",
        "Mia has 5 coins. 2) Mia earns 3 coins. How many coins does Mia have now?",
        "Mia has 5 beads. 1) Mia gives away half of the beads. How many beads does Mia have now?",
        "Mia has 6 beads. 1) Mia gives away half of the pens. How many beads does Mia have now?",
        "Mia is 5 years old. 1) Mia is 3 years older than Mia. How old is Mia?",
        "Mia has 6 beads. 1) Mia earns 3 coins. How many beads does Mia have now?",
        "Mia has 6 beads. 1) Tom has 3 more beads than Mia. How many beads does Mia have now?",
    ],
)
def test_a_question_of_no_family_is_refused(question: str) -> None:
    with pytest.raises(NotAProblem):
        parse(question)


def test_the_same_seed_draws_the_same_problems_and_another_one_others() -> None:
    first, again, other = ([story.question for story in islice(draw(Split.TEST, seed=seed), 40)] for seed in (0, 0, 1))
    assert first == again
    assert not set(first) & set(other)


def test_the_first_problems_never_change() -> None:
    # The sample, the figures of the model card and the trained models hang on it.
    assert next(draw(Split.TEST)).question == FIRST_TEST_QUESTION


def test_splits_share_no_template_and_hold_their_families() -> None:
    templates: dict[Split, set[str]] = {}
    for split in Split:
        drawn = list(islice(draw(split), 400))
        assert {split_of(story) for story in drawn} == {split}
        families = {story.family.name for story in drawn}
        assert families == ({TRANSFER.name} if split is Split.TRANSFER else {family.name for family in TRAINED})
        templates[split] = {story.template for story in drawn}
    for split, own in templates.items():
        for other, others in templates.items():
            assert split is other or not own & others


def test_every_family_uses_all_its_events_and_mixes_easy_and_hard_steps() -> None:
    drawn = list(islice(draw(Split.TRAIN), 500))
    for family in TRAINED:
        used = [event for story in drawn if story.family is family for event, _ in story.events]
        assert set(used) == set(family.events)
    steps = [len(story.steps) for story in drawn]
    assert min(steps) >= 4
    assert max(steps) > 8
    mixed = [
        {event.kind in (Kind.ADD, Kind.SUBTRACT) and len(fields["amount"]) == 1 for event, fields in story.events}
        for story in drawn
    ]
    assert sum(kinds == {True, False} for kinds in mixed) > len(mixed) / 2


def test_a_transfer_story_mixes_sentences_that_are_trained_as_no_trained_family_does() -> None:
    trained = {event for family in TRAINED for event in family.events}
    for story in islice(draw(Split.TRANSFER), 300):
        used = {event for event, _ in story.events}
        assert used <= trained
        assert not any(used <= set(family.events) for family in TRAINED)
