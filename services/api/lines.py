"""Splits a stream of bytes into lines, with a bound on what is kept of a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

MEDIA_TYPES: Final = (
    "application/jsonl",
    "application/jsonlines",
    "application/x-jsonlines",
    "application/ndjson",
    "application/x-ndjson",
)
"""Names under which clients send JSON Lines."""


class Line(NamedTuple):
    """One line of a stream."""

    number: int
    """From 1; blank lines count."""
    content: bytes | None
    """Without the line break; `None` if it is too long."""

    @property
    def is_blank(self) -> bool:
        """Whether there is only white space."""
        return self.content is not None and not self.content.strip()


class LineSplitter:
    """Collects the pieces of a stream, and returns each line once it is complete. CRLF ends a line as LF does."""

    def __init__(self, max_line_bytes: int) -> None:
        """Take the bound: of a line that is longer, nothing is kept."""
        self._max_line_bytes: Final = max_line_bytes
        self._begun = bytearray()
        self._is_too_long = False
        self._number = 0

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that a piece of the stream completes."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._extend(end)
            yield self._finish()
        self._extend(rest)

    def end(self) -> Iterator[Line]:
        """Yield the last line, if no line break follows it."""
        if self._begun or self._is_too_long:
            yield self._finish()

    def _extend(self, piece: bytes) -> None:
        if self._is_too_long or len(self._begun) + len(piece) > self._max_line_bytes:
            self._begun.clear()
            self._is_too_long = True
        else:
            self._begun += piece

    def _finish(self) -> Line:
        self._number += 1
        line = Line(self._number, None if self._is_too_long else bytes(self._begun.removesuffix(b"\r")))
        self._begun.clear()
        self._is_too_long = False
        return line


def is_lines(content_type: str) -> bool:
    """Tell whether a content type is JSON Lines, which is always in UTF-8."""
    return content_type.partition(";")[0].strip().lower() in MEDIA_TYPES
