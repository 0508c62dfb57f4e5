"""Where a measurement or a training takes its problems from: a file, or the problems that users have submitted."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.problems import BLANK, UnusableProblems, read_problems
from shared.settings import Settings
from shared.store.database import Database
from shared.store.references import read_references
from shared.store.tables import DEFAULT_TENANT
from stack.whole_files import write_whole

Problem = tuple[str, str]
"""A question and the reference of its answer."""


@dataclass(frozen=True, kw_only=True)
class ProblemSet:
    """Problems, and what identifies them."""

    problems: Sequence[Problem]
    source: str
    """Where they come from, in a few words."""

    @property
    def data(self) -> dict[str, Any]:
        """What an artefact's card holds of them; other problems have another digest."""
        digest = hashlib.sha256(json.dumps(self.problems).encode()).hexdigest()
        return {"source": self.source, "problems": len(self.problems), "problems_sha256": digest}

    def drawn(self, count: int | None, *, seed: int) -> ProblemSet:
        """Draw a number of the problems, in random order; all of them by default."""
        size = len(self.problems) if count is None else min(count, len(self.problems))
        drawn = random.Random(seed).sample(self.problems, size)  # noqa: S311 - not a secret
        return ProblemSet(problems=drawn, source=self.source)

    def split(self, share: float) -> tuple[ProblemSet, ProblemSet]:
        """Split off the last problems, which measure the result.

        Args:
            share: Share of the problems to split off, rounded to whole problems.

        Returns:
            The problems to learn from, and those that measure; the latter may be none.

        Raises:
            UnusableProblems: No problem is left to learn from.
        """
        size = round(share * len(self.problems))
        if size >= len(self.problems):
            raise UnusableProblems(
                f"{len(self.problems)} problems are too few for a validation share of {share:g}; add problems, or lower"
                " --validation-share."
            )
        first = len(self.problems) - size
        rest, held_out = self.problems[:first], self.problems[first:]
        return ProblemSet(problems=rest, source=self.source), ProblemSet(problems=held_out, source=self.source)

    def split_for_training(
        self, *, validation_share: float, measuring_share: float
    ) -> tuple[ProblemSet, ProblemSet, ProblemSet]:
        """Split into three parts, none of them empty.

        Args:
            validation_share: Share of the problems that choose the best weights.
            measuring_share: Share of the problems that measure the result.

        Returns:
            The problems to train on, those that choose, and those that measure; the last ones measure.

        Raises:
            UnusableProblems: A part would be empty.
        """
        count = len(self.problems)
        chosen, measured = round(validation_share * count), round(measuring_share * count)
        first, second = count - chosen - measured, count - measured
        if not (first > 0 and chosen and measured):
            raise UnusableProblems(
                f"{count} problems with a validation share of {validation_share:g} and a measuring share of"
                f" {measuring_share:g} leave no problem to train on, to choose the best weights, or to measure the"
                " result; add problems, or change --validation-share or --measuring-share."
            )
        parts = self.problems[:first], self.problems[first:second], self.problems[second:]
        learned_from, validation, held_out = (ProblemSet(problems=part, source=self.source) for part in parts)
        return learned_from, validation, held_out


def problems_of_file(path: Path, settings: Settings) -> ProblemSet:
    """Read the problems of a file.

    Raises:
        UnusableProblems: It has none, or a line that is not blank is none; the message names the line.
    """
    found = read_problems(path, max_question_chars=settings.max_question_chars)
    if bad_lines := [each for each in found.bad_lines if each.reason != BLANK]:
        first, *others = bad_lines
        more = f" {len(others)} more lines are unusable." if others else ""
        raise UnusableProblems(f"{path}, line {first.line}: {first.reason}{more}")
    return ProblemSet(problems=[(each.question, each.reference) for each in found.problems], source=path.name)


def problems_of_database(settings: Settings, *, count: int) -> ProblemSet:
    """Read the newest problems with a reference from the service's database.

    Raises:
        UnusableProblems: There is none.
        MissingSetting: The settings name no database.
        DatabaseUnavailable: It does not answer.
    """
    with closing(Database(settings.require_database_url())) as database, database.session() as session:
        found = read_references(session, DEFAULT_TENANT, count=count)
    if not found:
        raise UnusableProblems(
            "No problem in the database was submitted with a reference; submit some, or name a file of problems."
        )
    return ProblemSet(problems=list(found.items()), source="problems of the service")


def keep_problems(problems: ProblemSet, path: Path, *, count: int) -> None:
    """Keep problems of the database in a file, with the number that was asked for.

    Args:
        problems: The problems.
        path: The file.
        count: Maximum number of problems that was asked for.

    Raises:
        CannotWrite: The file cannot be written.
    """
    records = [
        {"source": problems.source, "count": count},
        *({"question": q, "reference": r} for q, r in problems.problems),
    ]
    write_whole(path, "".join(f"{json.dumps(record)}\n" for record in records).encode())


def kept_problems(path: Path, *, count: int) -> ProblemSet:
    """Read problems that `keep_problems` wrote, exactly as they were.

    Args:
        path: The file.
        count: Maximum number of problems that is asked for.

    Raises:
        UnusableProblems: The file is damaged, or another number was asked for when it was written.
    """
    try:
        asked, *records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = ProblemSet(
            problems=[(str(each["question"]), str(each["reference"])) for each in records], source=str(asked["source"])
        )
        before = int(asked["count"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UnusableProblems(
            f"{path} cannot be read ({type(error).__name__}); delete it to take the newest problems of the database."
        ) from None
    if before != count:
        raise UnusableProblems(
            f"{path} keeps the problems of a command with --problems {before}, not {count}; use the same number, or"
            " delete the file to take the newest problems."
        )
    return kept
