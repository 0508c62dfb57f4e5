"""Runs the API: `python -m services.api`."""

from __future__ import annotations

from services.api.server import serve
from shared.process import run

if __name__ == "__main__":
    run(serve, role="api")
