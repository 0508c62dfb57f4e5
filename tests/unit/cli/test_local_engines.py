"""Problems of the database are kept, so that a command that resumes has the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli import local_engines
from cli.errors import Interrupted
from cli.local_engines import KEPT, read_problems
from evaluation.problem_sources import ProblemSet
from evaluation.problems import UnusableProblems
from shared.settings import Settings


def test_problems_of_the_database_are_those_of_the_first_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = [("First?", "1"), ("Second?", "2")]

    def read(_settings: Settings, *, count: int) -> ProblemSet:
        return ProblemSet(problems=newest[-count:], source="problems of the service")

    monkeypatch.setattr(local_engines, "problems_of_database", read)
    kept = tmp_path / KEPT
    (tmp_path / "problems.jsonl").write_text('{"question": "Of a user?", "answer": "7"}\n')
    first = read_problems(Settings(), None, count=2, seed=0, kept=kept)
    assert sorted(first.problems) == newest
    assert capsys.readouterr().err == ""
    newest.append(("Third?", "3"))
    assert read_problems(Settings(), None, count=2, seed=0, kept=kept) == first
    assert f"Using the 2 problems of the database that {kept} keeps" in capsys.readouterr().err
    with pytest.raises(UnusableProblems, match="--problems 2, not 3"):
        read_problems(Settings(), None, count=3, seed=0, kept=kept)
    assert read_problems(Settings(), None, count=1, seed=0).problems == [("Third?", "3")]


@pytest.mark.parametrize(("memory", "said"), [("memory.sqlite3", "resumes"), (None, "nothing is kept; name a file")])
def test_a_stopped_command_tells_whether_it_resumes(
    memory: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script.json").write_text("{}")
    monkeypatch.setenv("TRIM_ENGINE", "scripted")
    monkeypatch.setenv("TRIM_SCRIPT", str(tmp_path / "script.json"))
    path = None if memory is None else tmp_path / memory
    with pytest.raises(Interrupted, match=said), local_engines.local_engines(Settings(), path):
        raise KeyboardInterrupt
