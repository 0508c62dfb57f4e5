"""Runs an orchestrator: `python -m services.orchestrator`."""

from __future__ import annotations

from services.orchestrator.orchestrator import CONDITIONS, Orchestrator
from shared.process import parser, run_role

if __name__ == "__main__":
    parser(
        "services.orchestrator",
        "Decide the steps of problems and send commands to workers. It needs TRIM_DATABASE_URL and TRIM_BROKER_URL; "
        "TRIM_WINDOW limits how many problems run at the same time.",
    ).parse_args()
    run_role(lambda settings, health: Orchestrator(settings, health).run(), role="orchestrator", conditions=CONDITIONS)
