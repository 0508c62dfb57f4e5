"""Files of step-labelled solutions: the layout of ProcessBench, with bad lines named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.domain.roles import Author
from tests.unit.training.arithmetic_engines import Engines, one_error
from training.labelled_file import UnusableSolutions, read_labelled, score_all

LINE: dict[str, Any] = {"problem": "Why?", "steps": ["A step.", "Another \u2028 step."], "label": 1}


def file_of(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "labelled.jsonl"
    path.write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in lines) + "\n\n")
    return path


def test_both_names_of_each_field_are_read(tmp_path: Path) -> None:
    other = {"question": "Why?", "steps": ["A."], "first_error": None, "author": "large", "tokens": [9], "id": "x"}
    first, second = read_labelled(file_of(tmp_path, LINE, other)).solutions
    traces = [first.trace([0.9, 0.2]), second.trace([0.8])]
    assert [each.first_error for each in traces] == [1, None]
    assert [each.tokens for each in traces] == [(1, 3), (9,)]
    assert [each.authors for each in traces] == [(Author.SMALL,) * 2, (Author.LARGE,)]


def test_minus_one_is_no_error(tmp_path: Path) -> None:
    [solution] = read_labelled(file_of(tmp_path, LINE | {"label": -1})).solutions
    assert solution.trace([0.5, 0.5]).first_error is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": 2}, "line 2: step 2 cannot be the first wrong one of 2"),
        ({"label": -2}, "line 2: label"),
        ({"steps": []}, "line 2: steps"),
        ({"problem": ""}, "line 2: problem"),
        ({"tokens": [1]}, "line 2: 2 steps have 1 token counts"),
        ({"tokens": [0, 0]}, r"line 2: tokens\.0: Input should be greater than or equal to 1"),
        ({"tokens": [9, -9]}, r"line 2: tokens\.1"),
        ({"tokens": [9, 10**12]}, r"line 2: tokens\.1: Input should be less than or equal to 1000000000"),
        ({"tokens": [9, 10**400]}, r"line 2: tokens\.1"),
        ({"tokens": [9, True]}, r"line 2: tokens\.1"),
        ({"tokens": [9, 9.0]}, r"line 2: tokens\.1"),
        ({"label": True}, "line 2: label"),
        ({"label": "1"}, "line 2: label"),
        ({"label": 10**400}, "line 2: label: Input should be less than"),
        ({"author": "me"}, "line 2: author"),
    ],
)
def test_a_line_that_is_no_solution_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UnusableSolutions, match=said):
        read_labelled(file_of(tmp_path, LINE, LINE | change))


def test_a_missing_or_empty_file_or_one_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    for content, said in ((None, "cannot be read"), ("\n", "is empty"), ("{", "line 1: it is not JSON")):
        if content is not None:
            path.write_text(content)
        with pytest.raises(UnusableSolutions, match=said):
            read_labelled(path)


def test_steps_are_scored_and_only_the_prm_computes(tmp_path: Path) -> None:
    made = Engines(small=one_error)
    bad = {"question": "Q", "steps": ["good", "bad", "good"], "label": 1}
    with made.loaded() as engines:
        traces = score_all(read_labelled(file_of(tmp_path, bad)).solutions, engines)
    assert [each.scores for each in traces] == [(0.9, 0.1, 0.1)]
    assert (made.small.calls, made.large.calls) == (0, 0)
