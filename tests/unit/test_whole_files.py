"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.whole_files import CannotWrite, write_together, write_whole


def test_a_file_replaces_the_older_one_and_the_leftover_of_a_process_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_whole(path, b"first")
    path.with_name("page.html.part").write_bytes(b"half of")
    write_whole(path, b"second")
    assert [(each.name, each.read_bytes()) for each in path.parent.iterdir()] == [("page.html", b"second")]


def test_a_file_that_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(CannotWrite, match=r"page\.html cannot be written \(Is a directory\); free space"):
        write_whole(tmp_path / "page.html", b"new")
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"cannot be written \((File exists|Not a directory)\)"):
        write_whole(tmp_path / "file" / "page.html", b"new")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "page.html"]


def test_files_that_belong_together_all_keep_their_content_if_one_cannot_be_written(tmp_path: Path) -> None:
    one, other = tmp_path / "card.json", tmp_path / "arrays.npz"
    write_together({other: b"first", one: b"first"})
    with pytest.raises(CannotWrite, match=r"page\.json cannot be written"):
        write_together({other: b"second", tmp_path / "card.json" / "page.json": b"second"})
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {one.name: b"first", other.name: b"first"}
