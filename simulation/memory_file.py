"""A file that remembers what models wrote and scored, so that an interrupted run resumes without computing it again.

It is an SQLite database with a hash of each request and the answer to it. Texts of questions are not in it; those of
steps are. Several processes may share it, on one machine.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from shared.domain.drafts import Finish
from shared.engines.port import EngineDead, GeneratedStep
from shared.errors import PermanentError
from simulation.remembering import ScoreKey, StepKey

FORMAT: Final = 1
"""Version of the file's layout; another one is refused."""

BUSY_TIMEOUT_S: Final = 30.0
"""Seconds to wait for another process that writes to the file."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class UnusableMemory(PermanentError):
    """The file is not a memory of models; delete it, or name another one."""

    code = "unusable_memory"


class MemoryFile:
    """A file of steps and scores. Threads may share it."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            UnusableMemory: It cannot be opened, or is something else.
        """
        self._path = path
        self._turn = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise UnusableMemory(
                f"{path} cannot be used as a memory of models ({error}); delete it, or name another file."
            ) from None

    def steps(self, scope: str) -> Memory[StepKey, GeneratedStep]:
        """Return the memory of a generator.

        Args:
            scope: What the steps depend on besides the request: the model and the settings of its prompt.
        """
        return Memory(self, f"steps {scope}", _encode_step, _decode_step)

    def scores(self, scope: str) -> Memory[ScoreKey, float]:
        """Return the memory of a scorer; see `steps`."""
        return Memory(self, f"scores {scope}", json.dumps, json.loads)

    def close(self) -> None:
        """Close the file; all that it remembers is written already."""
        with self._turn:
            self._connection.close()

    def read(self, key: bytes) -> str | None:
        """Return the value of a key.

        Raises:
            EngineDead: The file cannot be read.
        """
        row = self._execute("SELECT value FROM known WHERE key = ?", key)
        return None if row is None else row[0]

    def write(self, key: bytes, value: str) -> None:
        """Store the value of a key.

        Raises:
            EngineDead: The file cannot be written.
        """
        self._execute("INSERT OR REPLACE INTO known VALUES (?, ?)", key, value)

    def _execute(self, statement: str, *parameters: bytes | str) -> tuple[str] | None:
        try:
            with self._turn:
                row: tuple[str] | None = self._connection.execute(statement, parameters).fetchone()
                return row
        except sqlite3.Error as error:
            # Any other error would count as one of the model, and the problem as unsolved.
            raise EngineDead(f"The memory {self._path} cannot be used ({error}); check the disk.") from None

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        # A power failure may lose the last steps, which are then computed again.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        [found] = self._connection.execute("PRAGMA user_version").fetchone()
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if found != FORMAT and (found or tables):
            raise sqlite3.DatabaseError("it has another layout")
        self._connection.execute("CREATE TABLE IF NOT EXISTS known (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID")
        self._connection.execute(f"PRAGMA user_version = {FORMAT}")


class Memory(Generic[Key, Value]):
    """What a file remembers of one model."""

    def __init__(
        self, file: MemoryFile, scope: str, encode: Callable[[Value], str], decode: Callable[[str], Value]
    ) -> None:
        self._file = file
        self._scope = scope
        self._encode = encode
        self._decode = decode

    def get(self, key: Key, /) -> Value | None:
        """Return the value of a key, or `None`."""
        text = self._file.read(self._digest(key))
        return None if text is None else self._decode(text)

    def __setitem__(self, key: Key, value: Value, /) -> None:
        """Store the value of a key, at once and permanently."""
        self._file.write(self._digest(key), self._encode(value))

    def _digest(self, key: Key) -> bytes:
        text = json.dumps([self._scope, key], default=asdict)
        return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _encode_step(step: GeneratedStep) -> str:
    return json.dumps(asdict(step))


def _decode_step(text: str) -> GeneratedStep:
    values: Mapping[str, Any] = json.loads(text)
    return GeneratedStep(**{**values, "finish": Finish(values["finish"])})
