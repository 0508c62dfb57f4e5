"""The embedded Postgres, wherever the checkout lies."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psycopg
import pytest

from stack.postgres import EmbeddedPostgres


def test_the_server_runs_in_a_folder_whose_path_needs_quoting(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not a folder of pytest's: those are closed to the user that Postgres runs as under root.
    with tempfile.TemporaryDirectory(prefix="trim-postgres-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        data = Path(folder) / "my team's 100 % é" / "postgres"
        for _ in range(2):
            with EmbeddedPostgres(data) as url, psycopg.connect(url) as connection:
                [found] = connection.execute("SELECT current_setting('data_directory')").fetchone() or [""]
                assert Path(found).samefile(data)
            assert [path.name for path in Path(folder).iterdir()] == ["my team's 100 % é"]
