"""The sign-flip test: exact, so that its p-values can be counted by hand."""

from __future__ import annotations

from itertools import product
from math import comb

import pytest

from evaluation.paired_test import sign_flip_test


def test_with_one_seed_it_is_the_exact_test_of_mcnemar() -> None:
    # 8 problems that only the first policy solved, 2 that only the second one did.
    tail = sum(comb(10, count) for count in (8, 9, 10)) / 2**10
    assert sign_flip_test([1] * 8 + [-1] * 2 + [0] * 90) == pytest.approx(2 * tail)


def test_with_several_seeds_it_counts_all_signs() -> None:
    differences = [3, -1, 2, 0, 1, 3]
    sums = [
        sum(sign * each for sign, each in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    assert sign_flip_test(differences) == pytest.approx(sum(abs(each) >= 8 for each in sums) / len(sums))


@pytest.mark.parametrize("differences", [[], [0, 0], [1, -1], [2, -2, 1, -1]])
def test_no_difference_has_the_p_value_1(differences: list[int]) -> None:
    assert sign_flip_test(differences) == 1.0


def test_a_thousand_problems_take_no_time_and_a_clear_difference_is_found() -> None:
    assert sign_flip_test([3, 2, 1, -1] * 300) < 1e-9
