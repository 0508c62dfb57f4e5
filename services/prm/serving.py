"""Serves the PRM's commands: loads the PRM and scores drafts until the process is stopped."""

from __future__ import annotations

from functools import partial

from services.prm.scoring import ScoringWork
from shared.bus.connection import check_broker
from shared.domain.roles import WorkerRole
from shared.engines.factory import make_scorer
from shared.observe.health import Health
from shared.settings import Settings
from shared.worker.command_worker import CommandWorker
from shared.worker.fitness import PROBE_TIMEOUT_S
from shared.worker.starting import score_once, started


def serve(settings: Settings, health: Health) -> None:
    """Load the PRM and carry out its commands."""
    check_broker(settings)  # before the model, which may take minutes to load
    role = WorkerRole.PRM
    with started(partial(make_scorer, settings), score_once, role=role, health=health) as (engine, failed):
        probe = partial(score_once, engine, timeout_s=PROBE_TIMEOUT_S)
        begin = partial(ScoringWork, engine=engine)
        CommandWorker(settings, role, health, engine=engine, begin=begin, probe=probe, failed=failed).run()
