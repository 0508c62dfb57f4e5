"""Files of problems: the layouts of benchmarks are read, and a bad line never spoils the others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from evaluation.problems import MAX_LINE_BYTES, MAX_REFERENCE_CHARS, ProblemFile, UnusableProblems, read_problems


def read(folder: Path, *lines: object, end: str = "\n") -> ProblemFile:
    path = folder / "problems.jsonl"
    text = end.join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return read_problems(path, max_question_chars=100)


GOOD = {"question": "What is 1 + 1?", "answer": "2"}


@pytest.mark.parametrize(
    ("line", "name", "reference"),
    [
        ({"id": "a", "question": "What is 1 + 1?", "reference": "2"}, "a", "2"),
        (
            {"problem": "What is 1 + 1?", "solution": "...", "answer": "2", "unique_id": "t/1.json"},
            "t/1.json",
            "2",
        ),
        ({"question": "What is 1 + 1?", "answer": "It is 1 + 1 = <<1+1=2>>2.\n#### 2", "idx": 0}, "0", "2"),
        ({"id": 60, "problem": "What is 1 + 1?", "answer": "204", "question": "What is 1 + 1?"}, "60", "204"),
        ({"id": 0, "problem": "What is 1 + 1?", "answer": 27.0, "url": "https://example.org"}, "0", "27"),
        ({"question": "What is 1 + 1?", "answer": 0.5}, "line 1", "0.5"),
        ({"question": "What is 1 + 1?", "reference": "2", "answer": "a long solution"}, "line 1", "2"),
        ({"question": "What is 1 + 1?", "answer": "\\frac{14}{3}"}, "line 1", "\\frac{14}{3}"),
    ],
)
def test_layouts_of_benchmarks_are_read(tmp_path: Path, line: object, name: str, reference: str) -> None:
    (problem,) = read(tmp_path, line).problems
    assert (problem.id, problem.question, problem.reference) == (name, "What is 1 + 1?", reference)


def test_a_byte_order_mark_and_windows_line_ends_are_tolerated_and_blank_lines_reported(tmp_path: Path) -> None:
    found = read(tmp_path, "\ufeff" + json.dumps(GOOD), "", "  ", json.dumps(GOOD), end="\r\n")
    assert [problem.line for problem in found.problems] == [1, 4]
    assert [(each.line, each.reason) for each in found.bad_lines] == [(2, "It is blank."), (3, "It is blank.")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not a JSON object"),
        ({"answer": "2"}, "no question"),
        ({"question": " ", "answer": "2"}, "no question"),
        ({"question": 3, "answer": "2"}, "no question"),
        ({"question": "What?"}, "no answer"),
        ({"question": "What?", "answer": None}, "no answer"),
        ({"question": "What?", "answer": True}, "no answer"),
        ({"question": "What?", "answer": ["2"]}, "no answer"),
        ({"question": "What?", "answer": "by hand ####"}, "no answer"),
        ('{"question": "What?", "answer": NaN}', "no answer"),
        ({"question": "What?", "answer": "2", "id": [1]}, "id is neither"),
        ({"question": "x" * 101, "answer": "2"}, "question is too long"),
        ({"question": "What?", "answer": "2" * (MAX_REFERENCE_CHARS + 1)}, "answer is too long"),
        (" " * MAX_LINE_BYTES + "{}", "It is too long"),
        ({"question": "What\x00?", "answer": "2"}, "cannot store"),
        ('{"question": "What?", "answer": "\\ud800"}', "cannot store"),
        ("\udc80", "not UTF-8"),
    ],
)
def test_a_bad_line_is_reported_with_its_number_and_the_others_are_read(
    tmp_path: Path, line: object, reason: str
) -> None:
    found = read(tmp_path, GOOD, line, GOOD)
    assert [problem.line for problem in found.problems] == [1, 3]
    assert [bad.line for bad in found.bad_lines] == [2]
    assert reason in found.bad_lines[0].reason


def test_the_second_problem_with_an_id_is_reported(tmp_path: Path) -> None:
    found = read(tmp_path, {**GOOD, "id": 7}, GOOD, {**GOOD, "id": "7"})
    assert [problem.line for problem in found.problems] == [1, 2]
    assert found.bad_lines[0].line == 3
    assert found.bad_lines[0].reason == "Its id '7' is that of line 1."


def test_a_file_without_an_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableProblems, match=r"no problem with an answer.*Line 1: It has no answer"):
        read(tmp_path, {"question": "What?"}, {"question": "Why?"})


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableProblems, match="It is empty"):
        read(tmp_path, "")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableProblems, match="No such file"):
        read_problems(tmp_path / "none.jsonl")


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    found = read(tmp_path, "\ufeff" + json.dumps(GOOD), "")
    assert found.digest == hashlib.sha256((tmp_path / "problems.jsonl").read_bytes()).hexdigest()
