"""Runs a PRM worker: `python -m services.prm`."""

from __future__ import annotations

from services.prm.serving import serve
from shared.process import run_role
from shared.worker.command_worker import CONDITIONS

if __name__ == "__main__":
    run_role(serve, role="prm", conditions=CONDITIONS)
