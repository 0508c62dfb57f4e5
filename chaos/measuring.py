"""Figures of a scenario from its record: arithmetic on rows, without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

OPEN = ("queued", "running")

Row = Mapping[str, Any]
"""A row of a table, by column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a scenario left behind."""

    questions: Sequence[str]
    """Questions that were submitted; they differ."""
    problems: Sequence[Row]
    steps: Sequence[Row]
    decisions: Sequence[Row]
    results: Mapping[str, Collection[Hashable]]
    """Different results that were seen of each question while the scenario ran."""
    moved: Collection[Hashable] = ()
    """Ids of problems that changed while the scenario waited at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one scenario."""

    problems: int
    succeeded: int
    lost: int
    """Problems that neither ended nor went on at the end, or do not exist."""
    doubled: int
    """Problems, steps, decisions and decided drafts that exist twice, and problems with two different results."""
    failed_innocents: int
    """Problems that ended without success, and should have succeeded."""
    small_twice: float
    """Tokens of the small model that were bought and did not count, as a share of those that did."""
    large_twice: float
    """The same of the large model."""
    longest_gap_s: float
    """Longest time between two accepted steps."""


def measure(record: Record, *, guilty: Collection[str] = ()) -> Figures:
    """Compute the figures of a record.

    Args:
        record: The record.
        guilty: Questions whose problems are meant to fail.
    """
    return Figures(
        problems=len(record.questions),
        succeeded=sum(each["status"] == "succeeded" for each in record.problems),
        lost=count_lost(record),
        doubled=count_doubled(record),
        failed_innocents=sum(
            each["status"] not in (*OPEN, "succeeded") and each["question"] not in guilty for each in record.problems
        ),
        small_twice=share(record.problems, "small_wasted", of=("small_kept", "small_discarded")),
        large_twice=share(record.problems, "large_wasted", of=("large_out",)),
        longest_gap_s=longest_gap_s(each["accepted_at"] for each in record.steps),
    )


def count_lost(record: Record) -> int:
    """Count the questions without a problem, and the open problems that do not go on.

    A queued problem goes on if any problem does: it waits for its turn.
    """
    known = {each["question"] for each in record.problems}
    still = [
        each
        for each in record.problems
        if each["status"] in OPEN and not (record.moved if each["status"] == "queued" else each["id"] in record.moved)
    ]
    return len(set(record.questions) - known) + len(still)


def count_doubled(record: Record) -> int:
    """Count what exists twice: each further copy counts, and so does each further result of a question."""
    return (
        _copies(each["question"] for each in record.problems)
        + _copies((each["problem_id"], each["step"]) for each in record.steps)
        + _copies((each["problem_id"], each["number"]) for each in record.decisions)
        + _copies(each["draft_id"] for each in record.decisions if each["draft_id"] is not None)
        + sum(len(results) - 1 for results in record.results.values())
    )


def _copies(things: Iterable[Hashable]) -> int:
    return sum(count - 1 for count in Counter(things).values())


def share(problems: Iterable[Row], wasted: str, *, of: Sequence[str]) -> float:
    """Divide a column of the ledger by the sum of others; 0 if nothing was bought."""
    rows = list(problems)
    counted = sum(each[column] for each in rows for column in of)
    lost: int = sum(each[wasted] for each in rows)
    return lost / counted if counted else float(lost > 0)


def longest_gap_s(times: Iterable[datetime]) -> float:
    """Return the longest time in seconds between two moments that follow each other; 0 for fewer than two."""
    return max(((later - earlier).total_seconds() for earlier, later in pairwise(sorted(times))), default=0.0)


def is_steady(before: float, after: float, *, tolerance: float) -> bool:
    """Tell whether two rates differ by no more than a share of the first."""
    return before > 0 and abs(after - before) <= tolerance * before
