"""A policy is fitted to engines whose errors are known, twice the same, and pays for no step twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evaluation.engines import LoadedEngines
from evaluation.in_process import OtherModels, solve
from evaluation.problem_sources import ProblemSet
from shared.domain.options import Sampling
from shared.policies.artefact import Artefact
from shared.policies.pomdp.policy import Pomdp
from tests.unit.policies.pomdp_models import artefact_of, make_model
from tests.unit.training.arithmetic_engines import Engines, one_error, problems
from training.fitting import CannotFit, fit_to_labelled, fit_to_problems
from training.labelled_file import LabelledFile, LabelledSolution

NONE = ProblemSet(problems=[], source="test")
CARD = {"created_at": datetime(2026, 1, 2, tzinfo=UTC), "command": "test"}


def silent(_label: str) -> Callable[[int, int], None]:
    return lambda _done, _count: None


def fit(engines: Engines, memory: Path | None = None, *, validation: float = 0.0) -> Artefact:
    learned_from, held_out = problems(60).drawn(None, seed=0).split(validation)
    with engines.loaded(memory) as loaded:
        return fit_to(learned_from, loaded, held_out)


def fit_to(learned_from: ProblemSet, engines: LoadedEngines, held_out: ProblemSet = NONE) -> Artefact:
    return fit_to_problems(learned_from, held_out, engines, seed=0, large_token_price=1e-3, card=CARD, show=silent)


def test_the_fit_finds_how_often_the_models_err(tmp_path: Path) -> None:
    made = fit(Engines(small=one_error))
    # The small model errs in 2 problems of 3, at one step of those 1 to 6 that it writes after right ones.
    assert 0.8 < float(made.arrays["small_accuracy"]) < 0.92
    assert float(made.arrays["rewrite_accuracy"]) == 1.0
    assert made.card.data["solutions"] == 60
    assert "Math-Shepherd" in made.card.data["labels"]
    assert made.card.metrics == {}


def test_held_out_problems_measure_the_result() -> None:
    made = fit(Engines(small=one_error), validation=0.4)
    assert made.card.data["problems"] == 36
    metrics = made.card.metrics
    assert metrics["accuracy"] == metrics["large_accuracy"] == 1.0
    assert 0.1 < metrics["small_accuracy"] < 0.5
    assert metrics["large_share"] < 0.5


def test_a_second_fit_computes_nothing_and_finds_the_same(tmp_path: Path) -> None:
    first, second = Engines(small=one_error), Engines(small=one_error)
    memory = tmp_path / "memory.sqlite3"
    assert fit(first, memory, validation=0.2).digest == fit(second, memory, validation=0.2).digest
    assert first.calls > 0
    assert second.calls == 0


def test_solutions_that_show_too_little_are_refused_in_one_sentence() -> None:
    with pytest.raises(CannotFit, match=r"no trace holds .*; collect more solutions"):
        fit(Engines(small=lambda _question, _index: False))


def test_the_card_and_a_refusal_count_the_solutions_that_were_left_out() -> None:
    made = fit(Engines(small=one_error))
    assert made.card.data["left_out"] == {}
    unverified = ProblemSet(problems=[(f"Problem {each}", "x") for each in range(3)], source="test")
    some = ProblemSet(problems=[*problems(60).problems, ("Problem 61", "x")], source="test")
    with Engines(small=one_error).loaded() as engines:
        with pytest.raises(CannotFit, match=r"no traces to fit; .* \(left out: 3 unverified\)"):
            fit_to(unverified, engines)
        assert fit_to(some, engines).card.data["left_out"] == {"unverified": 1}


def test_labelled_solutions_of_both_models_are_enough() -> None:
    solutions = [
        LabelledSolution.model_validate({"question": "Q", "steps": steps, "label": label, "author": author})
        for steps, label, author in (
            (["good", "bad", "good"], 1, "small"),
            (["good", "good"], -1, "small"),
            (["good", "good"], -1, "large"),
        )
    ]
    made = Engines(small=one_error)
    file = LabelledFile(path=Path("labelled.jsonl"), solutions=solutions)
    with made.loaded() as engines:
        fitted = fit_to_labelled(file, engines, card=CARD, show=silent)
        assert float(fitted.arrays["small_accuracy"]) == pytest.approx(3 / 4)
        assert float(fitted.arrays["final_accuracy"]) == pytest.approx((1 + 5 * 3 / 4) / 6)
        with pytest.raises(CannotFit, match="no step of the large model"):
            fit_to_labelled(LabelledFile(path=file.path, solutions=solutions[:2]), engines, card=CARD, show=silent)
    assert Pomdp().fitted(fitted).models is not None


def test_a_policy_of_other_models_is_refused_before_it_solves_anything() -> None:
    policy = Pomdp().fitted(artefact_of(make_model(), small="small@9", prm="prm@2"))
    said = (
        "The policy 'pomdp' was fitted on the small model small@9, not small@1; name a version that was fitted on the"
        " models of the settings."
    )
    with Engines(small=one_error).loaded() as engines, pytest.raises(OtherModels, match=said):
        solve(ProblemSet(problems=[("Q 1", "7")], source="test").problems, policy, engines, sampling=Sampling())
