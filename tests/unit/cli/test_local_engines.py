"""Problems of the database are kept, so that a command that resumes has the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli import local_engines
from cli.local_engines import read_problems
from evaluation.problem_sources import ProblemSet
from shared.settings import Settings


def test_problems_of_the_database_are_those_of_the_first_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = [("First?", "1"), ("Second?", "2")]

    def read(_settings: Settings, *, count: int) -> ProblemSet:
        return ProblemSet(problems=newest[-count:], source="problems of the service")

    monkeypatch.setattr(local_engines, "problems_of_database", read)
    kept = tmp_path / "problems.jsonl"
    first = read_problems(Settings(), None, count=2, seed=0, kept=kept)
    newest.append(("Third?", "3"))
    assert read_problems(Settings(), None, count=2, seed=0, kept=kept) == first
    assert read_problems(Settings(), None, count=1, seed=0).problems == [("Third?", "3")]
