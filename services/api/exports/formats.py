"""The formats of an export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from services.api.exports import json_lines
from services.api.exports.portions import Portion
from services.api.exports.tables import CsvTable, ParquetTable

FormatName = Literal["jsonl", "csv", "parquet", "prm800k", "preferences"]

JSON_LINES: Final = "application/jsonl"


class Writer(Protocol):
    """Turns the portions of one export into bytes."""

    def begin(self) -> bytes:
        """Return what comes before the first portion."""
        ...

    def write(self, portion: Portion) -> bytes:
        """Return a portion."""
        ...

    def end(self) -> bytes:
        """Return what comes after the last portion."""
        ...


@dataclass(frozen=True, slots=True)
class Lines:
    """A writer without a beginning and an end."""

    write: Callable[[Portion], bytes]

    def begin(self) -> bytes:
        """Return nothing."""
        return b""

    def end(self) -> bytes:
        """Return nothing."""
        return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of an export."""

    media_type: str
    extension: str
    has_records: bool = False
    """Whether it needs the steps and the drafts of the problems."""
    writer: Callable[[], Writer]


FORMATS: Final[Mapping[FormatName, Format]] = {
    "jsonl": Format(media_type=JSON_LINES, extension="jsonl", writer=lambda: Lines(json_lines.write_problems)),
    "csv": Format(media_type="text/csv; charset=utf-8; header=present", extension="csv", writer=CsvTable),
    "parquet": Format(media_type="application/vnd.apache.parquet", extension="parquet", writer=ParquetTable),
    "prm800k": Format(
        media_type=JSON_LINES,
        extension="prm800k.jsonl",
        has_records=True,
        writer=lambda: Lines(json_lines.write_prm800k),
    ),
    "preferences": Format(
        media_type=JSON_LINES,
        extension="preferences.jsonl",
        has_records=True,
        writer=lambda: Lines(json_lines.write_preferences),
    ),
}
