"""Serves the commands of one author: loads its model and writes steps until the process is stopped."""

from __future__ import annotations

from functools import partial

from services.generator.writing import Writing
from shared.bus.connection import check_broker
from shared.domain.roles import Author, WorkerRole
from shared.engines.factory import make_generator
from shared.observe.health import Health
from shared.settings import Settings
from shared.worker.command_worker import CommandWorker
from shared.worker.fitness import PROBE_TIMEOUT_S
from shared.worker.starting import started, write_once


def serve(settings: Settings, health: Health, *, author: Author) -> None:
    """Load the author's model and carry out its commands."""
    check_broker(settings)  # before the model, which may take minutes to load
    role = WorkerRole(author)
    answer = partial(write_once, role=role)
    with started(partial(make_generator, settings, author), answer, role=role, health=health) as (engine, failed):
        probe = partial(answer, engine, timeout_s=PROBE_TIMEOUT_S)
        begin = partial(Writing, engine=engine, stretch_s=settings.stretch_s)
        CommandWorker(settings, role, health, engine=engine, begin=begin, probe=probe, failed=failed).run()
