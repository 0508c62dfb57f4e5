"""Runs a generator: `python -m services.generator small` or `python -m services.generator large`."""

from __future__ import annotations

import argparse
from contextlib import closing
from functools import partial

from services.generator.writing import Writing
from shared.bus.worker import CommandWorker, Publish
from shared.domain.values import Role
from shared.engines.factory import make_generator
from shared.engines.port import Cancellation, Generator
from shared.messages import GenerateSteps
from shared.process import run
from shared.settings import Settings


def main() -> None:
    """Run the generator of one role until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m services.generator", description="Write steps with one model.")
    parser.add_argument("role", choices=[role.value for role in Role], help="which model's commands to take")
    role = Role(parser.parse_args().role)
    run(partial(serve, role=role), role=role.value)


def serve(settings: Settings, *, role: Role) -> None:
    """Load the role's model and take its commands."""
    with closing(make_generator(settings, role)) as engine:
        handle = partial(write, engine=engine, worker=settings.node_name)
        CommandWorker(settings, role.value, engine=engine, handle=handle).run()


def write(
    command: GenerateSteps, cancellation: Cancellation, publish: Publish, *, engine: Generator, worker: str
) -> None:
    """Carry out one command."""
    writing = Writing(command, engine, worker=worker, publish=publish)
    writing.run(cancellation, may_send=publish.is_idle)


if __name__ == "__main__":
    main()
