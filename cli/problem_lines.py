"""Reads files of problems to submit: one JSON object a line, as the API takes problems, or as benchmarks write them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from evaluation.problems import BadLine, UnusableLine, read_object, read_reference
from shared.errors import PermanentError
from shared.spelling import suggest
from trim_client import NewProblem

FIELDS: Final = tuple(sorted(NewProblem.__required_keys__ | NewProblem.__optional_keys__))
"""Fields of a problem in the API."""

ALIASES: Final = {"problem": "question", "answer": "reference"}
"""Names that benchmarks have for fields."""

NAMES: Final = frozenset({"id", "unique_id", "idx"})
"""Fields that only name a line; they are left out."""

CHUNK_BYTES: Final = 3_000_000
"""Largest size of a batch's problems. The default limit of a body is larger (`TRIM_MAX_BODY_BYTES`); a server may cut
the connection of one that exceeds it, instead of a refusal."""

SHOWN: Final = 5
"""Number of bad lines that a message names."""


class BadLines(PermanentError):
    """Lines of the file hold no problem; correct them, or submit the others with --skip-bad-lines."""

    code = "bad_lines"

    def __init__(self, file: str, bad: Sequence[BadLine]) -> None:
        named = " ".join(f"Line {each.line}: {each.reason}" for each in bad[:SHOWN])
        more = f" {len(bad) - SHOWN} more lines are bad." if len(bad) > SHOWN else ""
        advice = "Nothing more was submitted; correct the file, or submit the other lines with --skip-bad-lines."
        super().__init__(f"{file}: {named}{more} {advice}")


@dataclass(frozen=True, slots=True)
class ProblemLine:
    """A problem of a file."""

    line: int
    """Line in the file, from 1."""
    problem: Mapping[str, Any]
    """The problem as the API takes it."""


def read_lines(lines: Iterable[bytes], *, ignored: Collection[str]) -> tuple[list[ProblemLine], list[BadLine]]:
    """Read lines; blank ones are left out.

    Args:
        lines: Lines of the file, in UTF-8.
        ignored: Names of fields to leave out.

    Returns:
        The problems, and the lines that hold none.
    """
    good: list[ProblemLine] = []
    bad: list[BadLine] = []
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            continue
        try:
            good.append(ProblemLine(number, _problem(read_object(text), ignored)))
        except UnusableLine as reason:
            bad.append(BadLine(number, str(reason)))
    return good, bad


def _problem(values: Mapping[str, Any], ignored: Collection[str]) -> Mapping[str, Any]:
    problem: dict[str, Any] = {}
    for name, value in values.items():
        field = name if name in FIELDS else ALIASES.get(name, name)
        if name in ignored or (name in NAMES and name not in FIELDS):
            continue
        if field not in FIELDS:
            raise UnusableLine(f"It has a field {name!r} that problems do not have; {suggest(name, FIELDS)}")
        if field in problem:
            raise UnusableLine(f"It has its {field} twice, once as {name!r}.")
        problem[field] = read_reference(value) if name == "answer" else value
    question = problem.get("question")
    if not isinstance(question, str) or not question.strip():
        raise UnusableLine("It has no question (`question` or `problem`).")
    return problem


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines that are submitted as one batch."""

    lines: Sequence[ProblemLine]

    @property
    def problems(self) -> list[Mapping[str, Any]]:
        """The problems as the API takes them."""
        return [each.problem for each in self.lines]

    def halves(self) -> Iterator[Chunk]:
        """Divide the lines in two."""
        middle = len(self.lines) // 2
        yield Chunk(self.lines[:middle])
        yield Chunk(self.lines[middle:])

    def without(self, numbers: Collection[int]) -> Chunk:
        """Leave out some lines."""
        return Chunk([each for each in self.lines if each.line not in numbers])


def chunks(lines: Iterable[ProblemLine], *, size: int) -> Iterator[Chunk]:
    """Divide lines into batches of at most `size` problems and `CHUNK_BYTES`, in their order."""
    part: list[ProblemLine] = []
    length = 0
    for each in lines:
        more = len(json.dumps(each.problem))
        if part and (len(part) == size or length + more > CHUNK_BYTES):
            yield Chunk(part)
            part, length = [], 0
        part.append(each)
        length += more
    if part:
        yield Chunk(part)


class Keys:
    """Makes the idempotency keys of batches from what they ask for, so that the same command submits nothing twice.

    Equal batches of one file have different keys: all of their problems are meant.
    """

    def __init__(self, *, run: str, defaults: Mapping[str, Any]) -> None:
        """Take the name of the run and the options of all problems."""
        self._run, self._defaults = run, defaults
        self._seen: Counter[str] = Counter()

    def key(self, chunk: Chunk) -> str:
        """Return the key of the next batch."""
        content = json.dumps([self._run, self._defaults, chunk.problems], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:40]
        self._seen[digest] += 1
        return f"trim-submit-{digest}-{self._seen[digest]}"
