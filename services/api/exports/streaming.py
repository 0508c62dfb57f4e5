"""Sends an export portion by portion. While the client reads, no connection to the database is held."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from services.api.exports.formats import Writer
from services.api.exports.portions import Portion, Reader
from services.api.lanes import EXPORTS
from shared.errors import RetryableError, explain
from shared.log import get_logger

_log = get_logger(__name__)


class ExportBroken(Exception):
    """The export ends without its last chunk, so that the client notices that it is incomplete."""


async def stream(reader: Reader, writer: Writer, first: Portion) -> AsyncIterator[bytes]:
    """Yield an export.

    Args:
        reader: Reads the portions.
        writer: Writes them in the export's format.
        first: The first portion. It was read before the response began, so that an error has its own status.

    Raises:
        ExportBroken: The database does not answer any more.
    """
    yield writer.begin()
    portion = first
    while True:
        if written := await EXPORTS.run(partial(writer.write, portion)):
            yield written
        if portion.next_cursor is None:
            break
        try:
            portion = await EXPORTS.run(partial(reader.read, portion.next_cursor))
        except RetryableError as error:
            _log.warning("export_broken", code=error.code, detail=explain(error))
            raise ExportBroken from error
    yield writer.end()
