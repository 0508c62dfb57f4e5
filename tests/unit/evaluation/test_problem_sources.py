"""Problems of a file: drawn, split, and identified by their digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.problem_sources import ProblemSet, keep_problems, kept_problems, problems_of_database, problems_of_file
from evaluation.problems import UnusableProblems
from shared.settings import MissingSetting, Settings

TEN = ProblemSet(problems=[(f"Question {each}?", str(each)) for each in range(10)], source="ten")


def test_a_draw_depends_on_its_seed_alone() -> None:
    assert TEN.drawn(4, seed=1) == TEN.drawn(4, seed=1) != TEN.drawn(4, seed=2)
    assert sorted(TEN.drawn(None, seed=1).problems) == sorted(TEN.drawn(99, seed=2).problems) == sorted(TEN.problems)


def test_a_split_shares_no_problem_and_leaves_some_to_learn_from() -> None:
    first, second = TEN.split(0.25)
    assert (len(first.problems), len(second.problems)) == (8, 2)
    assert [*first.problems, *second.problems] == TEN.problems
    assert first.data["problems_sha256"] != second.data["problems_sha256"] != TEN.data["problems_sha256"]
    with pytest.raises(UnusableProblems, match="1 problems are too few"):
        TEN.drawn(1, seed=0).split(0.9)


def test_a_training_has_three_parts_that_share_no_problem() -> None:
    parts = TEN.split_for_training(validation_share=0.2, measuring_share=0.3)
    assert [len(each.problems) for each in parts] == [5, 2, 3]
    assert [problem for each in parts for problem in each.problems] == TEN.problems


@pytest.mark.parametrize(("validation", "measuring"), [(0, 0.2), (0.2, 0), (0.5, 0.5), (0.9, 0.9), (0.04, 0.2)])
def test_a_training_without_one_of_its_parts_is_refused_in_one_sentence(validation: float, measuring: float) -> None:
    with pytest.raises(UnusableProblems, match=r"10 problems .* change --validation-share or --measuring-share\.$"):
        TEN.split_for_training(validation_share=validation, measuring_share=measuring)


def test_a_blank_line_is_no_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('\n{"question": "1 + 1?", "answer": "2"}\n\n')
    assert problems_of_file(path, Settings()).problems == [("1 + 1?", "2")]


def test_kept_problems_are_read_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "database-problems.jsonl"
    odd = ProblemSet(problems=[*TEN.problems, (" A?\u2028B ", "#### 3"), ("long" * 9000, "1" * 2000)], source="service")
    keep_problems(odd, path, count=20)
    assert kept_problems(path, count=20) == odd


def test_kept_problems_of_another_command_or_a_damaged_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "database-problems.jsonl"
    keep_problems(TEN, path, count=20)
    with pytest.raises(UnusableProblems, match="with --problems 20, not 10; use the same number"):
        kept_problems(path, count=10)
    for content in ("", '{"question": "A?", "reference": "1"}\n', "7\n", "no JSON"):
        path.write_text(content)
        with pytest.raises(UnusableProblems, match=r"cannot be read .* delete it"):
            kept_problems(path, count=20)


def test_a_file_with_a_bad_line_is_refused_and_the_line_named(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "A?", "answer": 1}\nno JSON\n{}\n')
    with pytest.raises(UnusableProblems, match=r"line 2: It is not JSON\. 1 more lines"):
        problems_of_file(path, Settings())


def test_without_the_databases_address_there_are_no_problems_of_the_service() -> None:
    with pytest.raises(MissingSetting, match="TRIM_DATABASE_URL"):
        problems_of_database(Settings(database_url=None), count=1)
