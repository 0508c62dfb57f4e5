"""Exports as tables: CSV for spreadsheets, and Parquet for programs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from services.api.exports.portions import Portion
from services.api.schemas.problems import Ledger, Problem
from shared.errors import PermanentError

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS: Final[Mapping[str, type]] = {
    "id": str,
    "status": str,
    "question": str,
    "reference": str,
    "policy": str,
    "policy_revision": int,
    "policy_version": int,
    "policy_parameters": str,
    "policy_wrappers": str,
    "arm": str,
    "batch_id": str,
    "batch_index": int,
    "lookahead": str,
    "seed": int,
    "steps": int,
    "escalations": int,
    "answer": str,
    "verdict": str,
    "stop_reason": str,
    "failure_code": str,
    "failure_detail": str,
    **dict.fromkeys(Ledger.model_fields, int),
    "created_at": datetime,
    "started_at": datetime,
    "finished_at": datetime,
    "cancel_requested_at": datetime,
    "erased_at": datetime,
}
"""Columns of a table of problems, with their types; each may be empty."""

_FORMULA = re.compile(r"[=+\-@\t\r]")
"""How cells begin that spreadsheets run as formulas (OWASP, CSV injection)."""

_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)*(?:[eE][+-]?\d+)?%?")


class FormatUnavailable(PermanentError):
    """The service lacks the library for Parquet; install `trim-service[exports]`, or choose another format."""

    code = "format_unavailable"


def tabulate(problem: Problem) -> dict[str, Any]:
    """Return the values of a problem by column."""
    failure = problem.failure
    return {
        "id": str(problem.id),
        "status": problem.status,
        "question": problem.question,
        "reference": problem.reference,
        "policy": problem.policy.name,
        "policy_revision": problem.policy.revision,
        "policy_version": problem.policy.version,
        "policy_parameters": json.dumps(problem.policy.parameters, ensure_ascii=False),
        "policy_wrappers": problem.policy.wrappers.model_dump_json(),
        "arm": problem.arm,
        "batch_id": problem.batch_id and str(problem.batch_id),
        "batch_index": problem.batch_index,
        "lookahead": str(problem.lookahead),
        "seed": problem.sampling.seed,
        "steps": problem.steps,
        "escalations": problem.escalations,
        "answer": problem.answer,
        "verdict": problem.verdict,
        "stop_reason": problem.stop_reason,
        "failure_code": failure and failure.code,
        "failure_detail": failure and failure.detail,
        **problem.ledger.model_dump(),
        **{name: getattr(problem, name) for name, kind in COLUMNS.items() if kind is datetime},
    }


class CsvTable:
    """CSV (RFC 4180) in UTF-8, which spreadsheets may open: no cell is a formula."""

    def __init__(self) -> None:
        self._buffer = io.StringIO(newline="")
        self._writer = csv.writer(self._buffer, lineterminator="\r\n")

    def begin(self) -> bytes:
        """Write the names of the columns."""
        self._writer.writerow(COLUMNS)
        return self._take()

    def write(self, portion: Portion) -> bytes:
        """Write problems, one a row."""
        self._writer.writerows([_cell(each) for each in tabulate(problem).values()] for problem in portion.problems)
        return self._take()

    def end(self) -> bytes:
        """Write nothing."""
        return b""

    def _take(self) -> bytes:
        written = self._buffer.getvalue().encode()
        self._buffer.seek(0)
        self._buffer.truncate()
        return written


def _cell(value: object) -> object:
    """Return a value as a cell: text that a spreadsheet would run gets an apostrophe before it, numbers do not."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


class ParquetTable:
    """Parquet: a group of rows for each portion. Its end has an index, without which no program reads it."""

    def __init__(self) -> None:
        """Prepare the file.

        Raises:
            FormatUnavailable: The library is not installed.
        """
        try:
            import pyarrow as pa  # noqa: PLC0415 - an optional library, and slow to import
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError as error:
            raise FormatUnavailable from error
        kinds = {str: pa.string(), int: pa.int64(), datetime: pa.timestamp("us", tz="UTC")}
        self._table = pa.Table
        self._schema: pa.Schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
        self._sink = _Sink()
        self._writer = parquet.ParquetWriter(self._sink, self._schema, compression="zstd")

    def begin(self) -> bytes:
        """Write the magic number."""
        return self._sink.take()

    def write(self, portion: Portion) -> bytes:
        """Write problems, one a row."""
        if portion.problems:
            rows = [tabulate(each) for each in portion.problems]
            self._writer.write_table(self._table.from_pylist(rows, schema=self._schema))
        return self._sink.take()

    def end(self) -> bytes:
        """Write the index."""
        self._writer.close()
        return self._sink.take()


class _Sink(io.RawIOBase):
    """A file that gives away what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        self._written += data
        self._position += len(data)
        return len(data)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = bytes(self._written)
        self._written.clear()
        return taken
