"""Runs a PRM worker: `python -m services.prm`."""

from __future__ import annotations

from contextlib import closing

from services.prm.scoring import score
from shared.bus.worker import CommandWorker, Publish
from shared.engines.factory import make_scorer
from shared.engines.port import Cancellation
from shared.messages import ScoreSteps
from shared.process import run
from shared.settings import Settings


def serve(settings: Settings) -> None:
    """Load the PRM and take commands."""
    with closing(make_scorer(settings)) as engine:

        def handle(command: ScoreSteps, cancellation: Cancellation, publish: Publish) -> None:
            publish(score(command, cancellation, engine=engine, worker=settings.node_name))

        CommandWorker(settings, "prm", engine=engine, handle=handle).run()


if __name__ == "__main__":
    run(serve, role="prm")
