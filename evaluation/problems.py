"""Reads files of problems with known answers: one JSON object a line, in the layouts of common benchmarks.

A line has its question as `question` or `problem`, and its answer as `reference` or `answer`. An answer of GSM8K ends
with `#### ` and the number; only that number counts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import PermanentError

MAX_LINE_BYTES = 2**20
"""Largest line; a longer one holds no question that the API accepts."""

MAX_QUESTION_CHARS = 20_000
"""Longest question: the default of the API (`TRIM_MAX_QUESTION_CHARS`)."""

MAX_REFERENCE_CHARS = 1000
"""Longest reference that the API accepts."""

BLANK = "It is blank."
"""Reason of a line without text."""

_QUESTIONS = ("question", "problem")
_REFERENCES = ("reference", "answer")
_IDS = ("id", "unique_id", "idx")
_SOLUTION_END = "####"
"""Stands between solution and answer in GSM8K."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class UnusableProblems(PermanentError):
    """The file has no problem with an answer; write one JSON object a line, with `question` and `answer`."""

    code = "unusable_problems"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownProblem:
    """A problem whose answer is known."""

    line: int
    """Line in the file, from 1."""
    id: str
    """Its id in the file; where it has none, `line 12`."""
    question: str
    reference: str


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that holds no usable problem."""

    line: int
    """Line in the file, from 1."""
    reason: str
    """One sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemFile:
    """The problems of a file, and its lines that hold none."""

    problems: Sequence[KnownProblem]
    bad_lines: Sequence[BadLine]
    digest: str
    """SHA-256 digest of the file."""


class UnusableLine(Exception):
    """A line is no problem; the message has the reason."""


def read_problems(path: Path, *, max_question_chars: int = MAX_QUESTION_CHARS) -> ProblemFile:
    """Read a file of problems. A byte-order mark and Windows line ends are allowed.

    Args:
        path: The file, in UTF-8.
        max_question_chars: Longest question that the service accepts.

    Raises:
        UnusableProblems: The file cannot be read, or no line has a question and an answer.
    """
    problems: dict[str, KnownProblem] = {}
    bad_lines: list[BadLine] = []
    digest = hashlib.sha256()
    for number, line in enumerate(_lines(path), start=1):
        digest.update(line)
        text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
        try:
            problem = _read(text, line_number=number, max_question_chars=max_question_chars)
        except UnusableLine as reason:
            bad_lines.append(BadLine(number, str(reason)))
            continue
        if (earlier := problems.setdefault(problem.id, problem)) is not problem:
            bad_lines.append(BadLine(number, f"Its id {problem.id!r} is that of line {earlier.line}."))
    if not problems:
        first = f" Line {bad_lines[0].line}: {bad_lines[0].reason}" if bad_lines else " It is empty."
        raise UnusableProblems(
            f"{path} has no problem with an answer; write one JSON object a line, with `question` and `answer`.{first}"
        )
    return ProblemFile(problems=list(problems.values()), bad_lines=bad_lines, digest=digest.hexdigest())


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise UnusableProblems(f"{path} cannot be read ({error.strerror}); name a file of problems.") from None


def _read(line: bytes, *, line_number: int, max_question_chars: int) -> KnownProblem:
    if len(line) > MAX_LINE_BYTES:
        raise UnusableLine(f"It is too long: it has {len(line)} bytes; the maximum is {MAX_LINE_BYTES}.")
    if not line.strip():
        raise UnusableLine(BLANK)
    values = read_object(line)
    question, reference = _question(values), _reference(values)
    if len(question) > max_question_chars:
        raise UnusableLine(
            f"The question is too long: {len(question)} characters; the maximum is {max_question_chars}."
        )
    if len(reference) > MAX_REFERENCE_CHARS:
        raise UnusableLine(
            f"The answer is too long: {len(reference)} characters; the maximum is {MAX_REFERENCE_CHARS}."
        )
    given = _first(values, _IDS)
    name = f"line {line_number}" if given is None else _plain(given)
    if not name:
        raise UnusableLine("Its id is neither text nor a number.")
    return KnownProblem(line=line_number, id=name, question=question, reference=reference)


def read_object(line: bytes) -> Mapping[str, Any]:
    """Read a line.

    Raises:
        UnusableLine: The line is not a JSON object.
    """
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UnusableLine("It is not UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise UnusableLine("It is not JSON.") from error
    if not isinstance(values, dict):
        raise UnusableLine("It is not a JSON object.")
    return values


def _question(values: Mapping[str, Any]) -> str:
    question = _first(values, _QUESTIONS)
    if not isinstance(question, str) or not question.strip():
        raise UnusableLine("It has no question (`question` or `problem`).")
    return _storable(question)


def _reference(values: Mapping[str, Any]) -> str:
    return read_reference(_first(values, _REFERENCES))


def read_reference(value: object) -> str:
    """Read the answer of a problem as text. One of GSM8K ends with `#### ` and the number; only that number counts.

    Raises:
        UnusableLine: It is neither text nor a number.
    """
    reference = _plain(value).rpartition(_SOLUTION_END)[2].strip()
    if not reference:
        raise UnusableLine("It has no answer (`reference` or `answer`, text or a number).")
    return _storable(reference)


def _first(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _plain(value: object) -> str:
    """Return text or a number as text, without the fraction of a whole number; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip()


def _storable(text: str) -> str:
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UnusableLine("It has a character that the database cannot store (NUL, or half of a surrogate pair).")
    return text
