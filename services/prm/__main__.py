"""Runs a PRM worker: `python -m services.prm`."""

from __future__ import annotations

from services.prm.serving import serve
from shared.process import run

if __name__ == "__main__":
    run(serve, role="prm")
