r"""Token ids of a solution so far: those of the uninterrupted solution, for each kind of tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.text import join_steps
from shared.engines import solution_ids
from shared.engines.solution_ids import Prompt, SolutionIds
from tests.unit.engines.tokenizer_kinds import KINDS, encode, encoder_of

QUESTION = "How many coins does Kim have?"
STEPS = ["First we add:", "So 3 + 4 = 7.", "### Step 2", "x $y$", "Then 12", "- one\n- two", r"\[x\]", "(a) é", "Done"]
KNOWN = [kind for kind in KINDS if kind != "merging"]

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)
steps_of = st.lists(
    st.text(alphabet="aAT. :\n12$-(é", min_size=1, max_size=12).map(str.strip).filter(lambda text: "\n\n" not in text),
    max_size=5,
).map(lambda steps: [step for step in steps if step])


def ids_of(kind: str, steps: list[str], *, template: str = "Problem: {}\n\n") -> list[int]:
    encoder = encoder_of(kind)
    return SolutionIds(encoder, QUESTION, encoder.prompt(template.format(QUESTION)), steps).ids


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("count", range(len(STEPS)))
def test_the_ids_are_the_beginning_of_the_uninterrupted_solution(kind: str, count: int) -> None:
    whole = encode(kind, f"Problem: {QUESTION}\n\n{join_steps(STEPS)}")
    ids = ids_of(kind, STEPS[:count])
    assert ids == whole[: len(ids)]
    assert encoder_of(kind)._decode(ids).endswith("\n\n")


@quick
@pytest.mark.parametrize("kind", KNOWN)
@given(steps=steps_of)
def test_steps_have_the_ids_of_the_whole_text(kind: str, steps: list[str]) -> None:
    assert ids_of(kind, steps) == encode(kind, f"Problem: {QUESTION}\n\n{join_steps(steps)}A")[:-1]


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("template", ["Q: {}\nA:", "Q: {} A: ", "Q: {} \t", "{}\n", "{}"])
def test_a_template_may_end_in_any_white_space(kind: str, template: str) -> None:
    prompt = template.format(QUESTION)
    whole = encode(kind, prompt + join_steps(["The sum is 7.", "Done"]) + "A")[:-1]
    assert ids_of(kind, [], template=template) == whole[: len(ids_of(kind, [], template=template))]
    assert ids_of(kind, ["The sum is 7.", "Done"], template=template) == whole


def test_the_end_of_a_chat_template_stays_as_the_template_has_it() -> None:
    encoder = encoder_of("gpt2")
    prompt = Prompt("user\n\n", encode("gpt2", "user\n\n"), lambda text: encode("gpt2", text))
    assert SolutionIds(encoder, QUESTION, prompt, ["One."]).ids == [*prompt.ids, *encode("gpt2", "One.\n\nA")[:-1]]


def test_a_letter_that_merges_with_the_blank_line_is_not_used() -> None:
    assert encoder_of("merging")._following == "x"
    assert ids_of("merging", ["One."]) == encode("merging", f"Problem: {QUESTION}\n\nOne.\n\n")


def test_without_any_usable_letter_the_blank_line_is_encoded_as_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solution_ids, "_FOLLOWING", ("A", "T"))
    assert encoder_of("merging")._following == ""
    assert ids_of("merging", ["One."]) == encode("merging", f"Problem: {QUESTION}\n\nOne.\n\n")
    assert ids_of("merging", ["One."], template="{} ")[-1] == encode("merging", "\n")[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_that_the_model_wrote_are_kept(kind: str) -> None:
    encoder = encoder_of(kind)
    prompt = encoder.prompt(f"{QUESTION}\n\n")
    writing = SolutionIds(encoder, QUESTION, prompt, [])
    written = [index for letter in "\nOne.\n\n" for index in encode(kind, letter)]
    writing.ids += written
    writing.finish_step("One.", rest="")
    assert SolutionIds(encoder, QUESTION, prompt, ["One."]).ids == prompt.ids + written
    then = SolutionIds(encoder, QUESTION, prompt, ["One.", "Two."])
    assert then.ids == prompt.ids + written + encoder.step_ids("Two.")
    other = SolutionIds(encoder, "Another question?", prompt, ["One."])
    assert other.ids == prompt.ids + encoder.step_ids("One.")


def test_a_token_that_holds_the_begin_of_the_next_step_is_not_kept() -> None:
    encoder = encoder_of("merging")
    prompt = encoder.prompt(f"{QUESTION}\n\n")
    writing = SolutionIds(encoder, QUESTION, prompt, [])
    writing.ids += encode("merging", "One.\n\nA")
    writing.finish_step("One.", rest="A")
    writing.ids += encode("merging", " sum.\n\n")
    writing.finish_step("A sum.", rest="\n")
    assert SolutionIds(encoder, QUESTION, prompt, ["One.", "A sum."]).ids == (
        prompt.ids + encoder.step_ids("One.") + encoder.step_ids("A sum.")
    )
