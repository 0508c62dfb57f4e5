"""Runs an orchestrator: `python -m services.orchestrator`."""

from __future__ import annotations

from services.orchestrator.orchestrator import Orchestrator
from shared.process import run

if __name__ == "__main__":
    run(lambda settings: Orchestrator(settings).run(), role="orchestrator")
