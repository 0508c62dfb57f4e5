"""The state folder is used by its owner, one stack at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stack.state import STATE, StateInUse, StateUnusable, state_folder


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_stack_at_a_time_uses_the_folder() -> None:
    for _ in range(2):
        with state_folder(), pytest.raises(StateInUse), state_folder():
            pass


def test_the_folder_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    STATE.mkdir()
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(StateUnusable, match=r"belongs to the user .*; run as its owner"), state_folder():
        pass
    assert list(STATE.iterdir()) == []


def test_a_link_in_place_of_the_lock_empties_no_file(tmp_path: Path) -> None:
    STATE.mkdir()
    (tmp_path / "precious").write_text("kept")
    (STATE / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StateUnusable, match="cannot be used"), state_folder():
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_file_in_place_of_the_folder_is_one_sentence() -> None:
    STATE.touch()
    with pytest.raises(StateUnusable, match=r"\.state cannot be used"), state_folder():
        pass
