"""Streams are split into the same lines however they arrive, and a long line is not kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.lines import Line, LineSplitter, is_lines


def split(stream: bytes, *, size: int, limit: int = 100) -> list[Line]:
    splitter = LineSplitter(limit)
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    return [line for piece in pieces for line in splitter.feed(piece)] + [*splitter.end()]


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line and b"\r" not in line)), st.integers(1, 9))
def test_lines_are_the_same_in_pieces_of_any_size(lines: list[bytes], size: int) -> None:
    expected = [Line(number, line) for number, line in enumerate(lines, start=1)]
    for end in (b"\n", b"\r\n"):
        assert split(b"".join(line + end for line in lines), size=size) == expected


def test_the_last_line_needs_no_line_break() -> None:
    assert [each.content for each in split(b"a\n\n b", size=1)] == [b"a", b"", b" b"]
    assert split(b"", size=1) == []


@pytest.mark.parametrize("size", [1, 3, 50])
def test_a_long_line_is_dropped_and_the_next_one_is_read(size: int) -> None:
    lines = split(b"short\n" + b"x" * 11 + b"\n" + b"y" * 10 + b"\n" + b"z" * 20, size=size, limit=10)
    assert lines == [Line(1, b"short"), Line(2, None), Line(3, b"y" * 10), Line(4, None)]


def test_no_more_than_the_limit_is_kept_of_a_line() -> None:
    splitter = LineSplitter(10)
    for _ in range(100):
        assert [*splitter.feed(b"x" * 9)] == []
    assert len(splitter._begun) <= 10


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/jsonl", True),
        ("Application/X-NDJSON; charset=utf-8", True),
        ("application/json", False),
        ("text/plain", False),
        ("", False),
    ],
)
def test_json_lines_are_known_by_their_content_type(content_type: str, expected: bool) -> None:
    assert is_lines(content_type) is expected
