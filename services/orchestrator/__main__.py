"""Runs an orchestrator: `python -m services.orchestrator`."""

from __future__ import annotations

from services.orchestrator.orchestrator import CONDITIONS, Orchestrator
from shared.process import run_role

if __name__ == "__main__":
    run_role(lambda settings, health: Orchestrator(settings, health).run(), role="orchestrator", conditions=CONDITIONS)
