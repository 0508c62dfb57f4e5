"""The setting that meets a target: chosen by hand-made curves, with intervals, and refused where none does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from evaluation.setting_choice import NONE, Target, TargetOutOfReach, find_setting, neighbours
from evaluation.setting_search import Candidate, Curve
from evaluation.study import Setting, Study, Trial
from evaluation.true_cost import Computed
from shared.domain.ledger import Ledger
from shared.domain.options import Sampling
from tests.unit.training.arithmetic_engines import Engines, one_error, problems

VALUES = [0.0, 0.25, 0.5, 1.0]
SHARE, ACCURACY = Target("large_share", 0.5), Target("accuracy", 0.75)


def setting(tokens: Sequence[int], solved: Sequence[bool]) -> Setting:
    pairs = zip(tokens, solved, strict=True)
    trials = [Trial(is_solved=right, large_tokens=spent, ledger=Ledger()) for spent, right in pairs]
    return Setting(policy="threshold", label="x", trials=trials)


def study(*settings: Setting, large: Sequence[int] = (10, 10, 10, 10)) -> Study:
    return Study(
        title="x", problems=4, seeds=1, settings=settings, prices=Computed(small=0, large=1, prm=0),
        small=setting([0] * 4, [True, False, False, False]), large=setting(large, [True, True, True, False]),
    )  # fmt: skip


CURVE = study(
    setting([0, 0, 0, 0], [True, False, False, False]),
    setting([0, 8, 0, 0], [True, True, False, False]),
    setting([0, 8, 8, 0], [True, True, True, False]),
    setting([10, 10, 10, 10], [True, True, True, False]),
)


def test_the_dearest_setting_within_a_share_and_the_cheapest_one_with_an_accuracy_are_chosen() -> None:
    shares = np.array([[0.0, 0.2, 0.4, 1.0], [0.6, 0.7, 0.8, 1.0], [0.5, 0.5, 0.9, 1.0]])
    accuracies = np.array([[0.2, 0.5, 0.75, 0.7], [0.1, 0.2, 0.3, 0.4], [0.8, 0.9, 0.9, 0.9]])
    assert SHARE.choose(shares, accuracies).tolist() == [2, NONE, 0]
    assert ACCURACY.choose(shares, accuracies).tolist() == [2, NONE, 0]


def test_a_setting_comes_with_its_figures_and_intervals() -> None:
    found = find_setting(CURVE, VALUES, ACCURACY)
    assert (found.setting.value, found.large_share.value, found.accuracy.value) == (0.5, 0.4, 0.75)
    assert found.accuracy.interval.low < 0.75 < found.accuracy.interval.high
    assert found.large_share.interval.low < 0.4 < found.large_share.interval.high
    assert found.setting.interval.low < 0.5, "on some resamples a lower setting is accurate enough"
    assert 0.5 < found.reached < 1, "on others none is: the fourth problem is never solved"
    assert find_setting(CURVE, VALUES, ACCURACY) == found


def test_the_neighbours_of_the_chosen_setting_enclose_it() -> None:
    assert neighbours(CURVE, VALUES, ACCURACY) == (0.25, 1.0)
    assert neighbours(CURVE, VALUES, Target("large_share", 0.0)) == (-math.inf, 0.25)


def test_a_target_that_is_not_met_is_sought_beside_and_beyond_the_nearest_setting() -> None:
    assert neighbours(CURVE, VALUES, Target("accuracy", 0.9)) == (0.25, 1.0)
    assert neighbours(study(*CURVE.settings[1:]), VALUES[1:], Target("large_share", 0.1)) == (-math.inf, 0.5)
    assert neighbours(study(*CURVE.settings[:2]), VALUES[:2], Target("accuracy", 0.9)) == (0.0, math.inf)


def test_what_is_reached_is_that_of_the_chosen_setting_alone() -> None:
    """On every resample at least one of two settings meets the target, and each of them only on some."""
    first = setting([0, 0, 8, 8], [True, False, True, False])
    second = setting([8, 8, 0, 0], [False, True, False, True])
    target = Target("large_share", 0.4)
    found = find_setting(study(first, second), [0.3, 0.6], target)
    met = [find_setting(study(each), [0.3], target).reached for each in (first, second)]
    assert found.reached == met[0]
    assert max(met) < 1 < sum(met)


def test_a_target_out_of_reach_is_refused_with_what_is_within_it() -> None:
    with pytest.raises(TargetOutOfReach, match=r"None of the 4 settings tried reaches an accuracy of 90.0%; the best"):
        find_setting(CURVE, VALUES, Target("accuracy", 0.9))
    dear = study(*CURVE.settings[2:])
    with pytest.raises(TargetOutOfReach, match=r"None of the 2 settings .* 10.0% .* cheapest spends 40.0%"):
        find_setting(dear, VALUES[2:], Target("large_share", 0.1))
    with pytest.raises(TargetOutOfReach, match="wrote no token"):
        find_setting(study(*CURVE.settings, large=[0] * 4), VALUES, ACCURACY)


def silent(_label: str) -> Callable[[int, int], None]:
    return lambda _done, _count: None


@pytest.mark.parametrize("name", ["threshold", "cascade"])
def test_the_setting_of_engines_with_known_errors_is_found(name: str) -> None:
    """Scores are 0.1 from the first error on, and 0.9 before it; so any threshold in between solves all problems."""
    made, target = Engines(small=one_error), Target("accuracy", 1.0)
    with made.loaded() as engines:
        curve = Curve(
            Candidate(name=name, parameters={}), problems(24).problems, engines, sampling=Sampling(), show=silent
        )
        curve.approach(target, points=4)
        calls = made.calls
        curve.approach(target, points=4)
    assert made.calls == calls
    found = find_setting(curve.study, curve.values, target)
    assert 0.1 < found.setting.value <= 0.9
    assert found.accuracy.value == 1.0
    assert 0.05 < found.large_share.value < 0.7
