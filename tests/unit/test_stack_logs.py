"""Logs of the stack's processes take a bounded part of the disk."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from stack import logs
from stack.state import StateUnusable


def test_a_large_log_moves_aside_and_its_process_writes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 100)
    log = tmp_path / "logs" / "small.log"
    with logs.open_log(log) as written:
        for index in range(1000):
            written.write(f"line {index}\n".encode())
            written.flush()
            logs.bound(log)
            assert log.stat().st_size + (logs.older(log).stat().st_size if logs.older(log).exists() else 0) < 300
    lines = (logs.older(log).read_text() + log.read_text()).splitlines()
    assert lines == [f"line {index}" for index in range(1000 - len(lines), 1000)], "no line is lost or torn"


def test_a_log_stays_bounded_although_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logs.shutil, "copyfile", full)
    monkeypatch.setattr(logs, "LOG_BYTES", 1)
    log = tmp_path / "small.log"
    log.write_text("a line\n")
    logs.bound(log)
    assert log.stat().st_size == 0


def test_a_folder_that_cannot_hold_logs_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(StateUnusable, match=r"small\.log cannot be written \(File exists\); free space, or"):
        logs.open_log(tmp_path / "logs" / "small.log")


def test_other_users_cannot_open_the_logs(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir(mode=0o755)
    logs.open_log(tmp_path / "logs" / "small.log").close()
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700


def test_the_end_of_a_log_leaves_out_what_an_earlier_process_wrote(tmp_path: Path) -> None:
    log = tmp_path / "small.log"
    log.write_text("earlier\n")
    start = log.stat().st_size
    assert logs.tail(log, start=start) == ""
    log.write_text("earlier\none\ntwo\n")
    assert logs.tail(log, start=start) == "\n  one\n  two"
    assert logs.tail(log, start=start, lines=1) == "\n  two"
    log.write_text("new\n")
    assert logs.tail(log, start=100) == "\n  new", "the log was emptied since"
