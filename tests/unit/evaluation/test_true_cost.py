"""What every model computes for a problem."""

from __future__ import annotations

from evaluation.true_cost import Computed, mean_cost, recounted
from shared.domain.drafts import Finish
from shared.domain.ledger import Ledger
from shared.domain.options import Plan
from shared.machine.state import State
from tests.unit.machine.histories import LARGE_ONLY, answer, running


def read(question: str, steps: tuple[str, ...]) -> list[str]:
    """Encode text with one token for a word, and one for the end of a step."""
    return [*question.split(), *(word for step in steps for word in [*step.split(), "end"])]


def solved(*texts: str, scores: tuple[float, ...], plan: Plan | None = None) -> State:
    """Solve a problem whose question has five tokens, and each step four words and its end."""
    state = running(**({"plan": plan} if plan else {}))
    to_score = iter(scores)
    for place, text in enumerate(texts):
        finish = Finish.ENDED if place == len(texts) - 1 else Finish.SEPARATOR
        is_scored = not state.is_escalating and plan is None
        state = answer(state, text, score=next(to_score) if is_scored else None, finish=finish)
    return state


def test_each_model_computes_what_it_has_not_seen_of_the_question_and_the_steps() -> None:
    # The second draft begins like the step that replaces it.
    state = solved("a b c d", "e f g x", "e f g h", "q q q q", "i j k l", scores=(0.9, 0.1, 0.1))
    ledger = recounted(state, read).ledger
    assert ledger.small_in == 5 + 1 + (5 - 3)
    assert ledger.prm_tokens == (5 + 6) + 6 + (6 - 3) + 6
    assert ledger.large_in == (5 + 5) + 1
    assert ledger.large_out == 10


def test_a_draft_that_the_large_model_repeats_costs_the_others_one_token() -> None:
    # The last draft ends the solution, so its tag takes the place of a token.
    state = solved("a b c d", "a b c d", "e f g h", scores=(0.1, 0.9))
    ledger = recounted(state, read).ledger
    assert ledger.small_in == 5 + 1
    assert ledger.prm_tokens == (5 + 6) + 1 + 5


def test_the_large_model_reads_the_accepted_steps_since_its_own() -> None:
    texts = ("q q q q", "a b c d", "e f g h", "q q q q", "i j k l")
    assert recounted(solved(*texts, scores=(0.1, 0.9, 0.1)), read).ledger.large_in == 5 + (1 + 5)


def test_a_model_alone_reads_the_question_once() -> None:
    large = recounted(solved("a b c d", scores=(), plan=LARGE_ONLY), read).ledger
    assert (large.large_in, large.small_in, large.prm_tokens) == (5, 0, 0)


def test_output_and_input_of_each_model_are_computed_tokens() -> None:
    ledger = Ledger(
        small_kept=1, small_discarded=2, small_wasted=4, small_in=8, large_out=16, large_wasted=32, large_in=64,
        prm_tokens=128, small_estimated=999, large_estimated=999, prm_estimated=999,
    )  # fmt: skip
    assert Computed.of(ledger) == Computed(small=15, prm=128, large=112)


def test_the_mean_cost_is_by_model_and_in_its_price() -> None:
    computed = [Computed(small=10, prm=0, large=1), Computed(small=20, prm=4, large=3)]
    cost = mean_cost(computed, Computed(small=1, prm=10, large=100))
    assert cost == Computed(small=15, prm=20, large=200)
    assert cost.total == 235
