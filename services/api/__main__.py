"""Runs the API: `python -m services.api`."""

from __future__ import annotations

from services.api.server import serve
from shared.process import run_role
from shared.store.watching import CONDITIONS

if __name__ == "__main__":
    run_role(serve, role="api", conditions=CONDITIONS)
