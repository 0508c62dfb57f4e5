from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.score_drift import (
    BadReference,
    Comparison,
    Drift,
    ReferenceScores,
    chance,
    compare,
    count,
    edges,
    stability_index,
)
from stack.whole_files import CannotWrite

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def drawn(problems: int, *, mean: float = 0.0, seed: int = 0) -> list[list[float]]:
    """Scores of problems; those of one problem resemble each other."""
    rng = np.random.default_rng(seed)
    logits = mean + 1.5 * rng.normal(size=(problems, 1)) + 0.5 * rng.normal(size=(problems, 6))
    scores: list[list[float]] = (1 / (1 + np.exp(-logits))).tolist()
    return scores


def reference(problems: int = 300) -> ReferenceScores:
    return ReferenceScores.of(drawn(problems), prm="prm-1", created_at=NOW, source="batch 1")


def against(scores: list[list[float]]) -> Comparison:
    return compare(reference(), {"prm-1": scores})


def test_scores_of_the_same_distribution_are_stable() -> None:
    found = against(drawn(300, seed=1))
    assert found.drift is Drift.STABLE
    assert (found.reference_problems, found.reference_scores, found.problems, found.scores) == (300, 1800, 300, 1800)


def test_scores_that_moved_are_found() -> None:
    assert against(drawn(300, mean=2.0, seed=1)).drift is Drift.SHIFTED
    assert against(drawn(300, mean=0.8, seed=1)).drift is Drift.WATCH


def test_a_few_problems_do_not_alarm_although_their_index_is_high() -> None:
    few = [against(drawn(5, seed=seed)) for seed in range(1, 41)]
    assert sum(each.index > 0.25 for each in few) > 20
    assert sum(each.drift is not Drift.STABLE for each in few) <= 6  # 2 are expected


def test_the_bound_is_higher_where_scores_of_a_problem_resemble_each_other() -> None:
    scores = drawn(40)
    bounds = edges(np.ravel(scores))
    single = [[score] for each in scores for score in each]
    now, apart = (
        count(drawn(20, seed=1), bounds),
        count([[score] for each in drawn(20, seed=1) for score in each], bounds),
    )
    assert chance(count(scores, bounds), now) > 2 * chance(count(single, bounds), apart)


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3), st.lists(st.integers(0, 50), min_size=3, max_size=3))
def test_the_index_is_symmetric_and_zero_only_between_equal_shares(first: list[int], second: list[int]) -> None:
    one, two = np.array(first), np.array(second)
    assert stability_index(one, two) == pytest.approx(float(stability_index(two, one)))
    assert stability_index(one, two) >= 0
    assert stability_index(one, one) == 0


def test_the_index_is_that_of_its_definition() -> None:
    # Smoothed shares: 0.25 and 0.75, then 0.75 and 0.25.
    assert stability_index(np.array([0, 1]), np.array([1, 0])) == pytest.approx(2 * 0.5 * np.log(3))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_scores_that_were_all_equal_have_a_bin_for_themselves(value: float) -> None:
    same = ReferenceScores.of([[value] * 5] * 50, prm="prm-1", created_at=NOW, source="batch 1")
    assert compare(same, {"prm-1": [[value] * 5] * 50}).index == 0
    for other in {0.2, 0.8, 1.0, 0.0} - {value}:
        assert compare(same, {"prm-1": [[other] * 5] * 50}).drift is Drift.SHIFTED


def test_bins_hold_about_the_same_number_of_scores() -> None:
    scores = drawn(100)
    assert count(scores, edges(np.ravel(scores))).sum(axis=0).tolist() == pytest.approx([60] * 10, abs=2)


def test_a_reference_survives_its_file(tmp_path: Path) -> None:
    saved = reference(5)
    saved.write(tmp_path / "reference.json")
    assert ReferenceScores.read(tmp_path / "reference.json") == saved
    assert [each.name for each in tmp_path.iterdir()] == ["reference.json"]


def test_scores_of_another_prm_are_refused() -> None:
    with pytest.raises(BadReference, match=r"^The reference has scores of prm-1, and these are of prm-2; "):
        compare(reference(), {"prm-2": drawn(5)})


def test_there_must_be_scores() -> None:
    with pytest.raises(ValueError, match="no scores to compare"):
        compare(reference(), {"prm-1": [[], []]})
    with pytest.raises(ValueError, match="no scores to make bins of"):
        ReferenceScores.of([[]], prm="prm-1", created_at=NOW, source="batch 1")


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: saved | {"format": 2},
        lambda saved: saved | {"counts": [[1, 2]]},
        lambda saved: saved | {"counts": []},
        lambda saved: saved | {"counts": [[10**30] * len(saved["counts"][0])]},
        lambda saved: saved | {"counts": [[0] * len(saved["counts"][0])]},
        lambda saved: saved | {"edges": saved["edges"][::-1]},
        lambda saved: [saved],
    ],
)
def test_a_damaged_reference_is_refused(damage: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(damage(json.loads(reference(5).model_dump_json()))))
    with pytest.raises(BadReference, match="is not a reference of PRM scores"):
        ReferenceScores.read(path)


def test_files_that_cannot_be_read_or_written_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadReference, match=r"none.json cannot be read \(No such file or directory\)"):
        ReferenceScores.read(tmp_path / "none.json")
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match="cannot be written"):
        reference(5).write(tmp_path / "file" / "reference.json")
