"""The scene of a scenario: a deployment, its load and a witness, and the outcome that is measured at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from chaos.deployment import Deployment, deployed
from chaos.load import Load, script
from chaos.measuring import Figures, measure
from chaos.witness import Witness
from migrations.verifying import verify
from shared.settings import Settings
from stack.scratch import scratch_database

STEP_MS = 250.0
"""Duration of a scripted step. It keeps workers busy and the processor idle, so that rates are those of the script."""

CONCURRENCY = 8
WINDOW = 3 * CONCURRENCY
"""Problems that run at a time: more than the workers take, so that one that waits leaves no worker idle."""

BLIPS = 14
"""Number of blips of the broker, unless another one is chosen."""

PATIENCE_S = 120.0
"""Seconds after a disturbance in which all problems should end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of one scenario."""

    name: str
    figures: Figures | None = None
    """`None` if the scenario was skipped or could not be carried out."""
    failed_checks: Sequence[str] = ()
    """Lines of `python -m migrations verify` about checks that failed."""
    facts: Sequence[str] = ()
    """Sentences about what was disturbed and measured besides."""
    missed: Sequence[str] = ()
    """Sentences about the bars that were missed."""
    skipped: str = ""
    """Why it was skipped; empty if it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all scenarios share."""

    server_url: str
    """Database of a server on which others can be created."""
    broker_url: str
    seed: int
    folder: Path
    """Folder for scripts and logs."""
    problems: int | None = None
    """Number of problems of each scenario; `None` for its own number."""
    blips: int = BLIPS

    @property
    def options(self) -> str:
        """Options of the command that has the same scenarios."""
        problems = "" if self.problems is None else f"--problems {self.problems}"
        blips = "" if self.blips == BLIPS else f"--blips {self.blips}"
        return f"{problems} {blips}".strip()

    def draw(self, name: str) -> Random:
        """Return the random numbers of a scenario: the same for a seed, whichever scenarios run before it."""
        return Random(f"{self.seed} {name}")

    def count(self, problems: int) -> int:
        """Return the number of problems of a scenario."""
        return self.problems or problems

    @contextmanager
    def scene(  # long: the differences between the scenarios
        self,
        name: str,
        *,
        choices: Mapping[str, Any] | None = None,
        database_url: str | None = None,
        broker_url: str | None = None,
        step_ms: float = STEP_MS,
        more_roles: Mapping[str, Sequence[str]] | None = None,
        **settings: str,
    ) -> Iterator[Scene]:
        """Run the service with a load for as long as the block does.

        Args:
            name: Name of the scenario.
            choices: Options of all problems.
            database_url: Database of the service; by default a fresh one on the server.
            broker_url: Broker of the service, if not that of all scenarios.
            step_ms: Duration of a step.
            more_roles: Further processes.
            **settings: Settings of all roles.
        """
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            url = database_url or stack.enter_context(scratch_database(self.server_url))
            varied: dict[str, Any] = {"concurrency": str(CONCURRENCY), "window": str(WINDOW), **settings}
            deployment = stack.enter_context(
                deployed(
                    folder,
                    database_url=url,
                    broker_url=broker_url or self.broker_url,
                    script=script(step_ms=step_ms),
                    more_roles=more_roles or {},
                    **varied,
                )
            )
            witness = stack.enter_context(Witness(deployment))
            load = Load(deployment, lookahead=0, **(choices or {}))
            yield Scene(name=name, deployment=deployment, load=load, witness=witness, draw=self.draw(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A running service with a load."""

    name: str
    deployment: Deployment
    load: Load
    witness: Witness
    draw: Random
    facts: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def wait(self, seconds: float) -> None:
        """Wait, and check that all roles run."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.deployment.roles.check()
            time.sleep(min(0.2, left))

    def measure_rate(self, seconds: float) -> float:
        """Return the accepted steps per second in the next seconds, by the clock of the database.

        Raises:
            NeverHappened: Too few problems were left to keep the workers busy.
        """
        since = self._now()
        self.wait(seconds)
        until = self._now()
        self.load.must_last()
        accepted = "SELECT count(*) AS steps FROM steps WHERE accepted_at >= %s AND accepted_at < %s"
        steps = int(self.deployment.rows(accepted, since, until)[0]["steps"])
        return steps / float((until - since).total_seconds())

    def conclude(
        self,
        *,
        guilty: Collection[str] = (),
        buries: bool = False,
        bars: Callable[[Figures], Iterable[str]] = lambda _: (),
    ) -> Outcome:
        """Wait for the problems to end, and measure.

        Args:
            guilty: Questions whose problems are meant to fail.
            buries: Whether dead letters are to be expected, and no fault.
            bars: Returns the sentences of the scenario's bars that the figures miss.
        """
        self.load.finish(patience_s=PATIENCE_S)
        record = self.witness.read(self.load)
        failed = _verify(self.deployment.settings, counts_dead_letters=not buries)
        figures = measure(record, guilty=guilty)
        return Outcome(
            name=self.name,
            figures=figures,
            failed_checks=failed,
            facts=self.facts,
            missed=[*_missed(figures), *bars(figures), *self.missed],
        )

    def _now(self) -> Any:
        return self.deployment.rows("SELECT clock_timestamp() AS now")[0]["now"]


def _verify(settings: Settings, *, counts_dead_letters: bool) -> list[str]:
    """Return the lines of the checks that failed. Open problems are counted elsewhere."""
    lines: list[str] = []
    used = settings if counts_dead_letters else settings.model_copy(update={"broker_url": None})
    verify(used, allow_open=True, tell=lines.append)
    return [line.strip() for line in lines if line.startswith("FAILED")]


def _missed(figures: Figures) -> Iterator[str]:
    for count, what in (
        (figures.lost, "lost"),
        (figures.doubled, "doubled"),
        (figures.failed_innocents, "failed innocents"),
    ):
        if count:
            yield f"{what}: {count}, and the bar is none."
