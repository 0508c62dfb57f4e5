"""The engines of the settings, in this process: patient, and with a memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from evaluation.patient_engines import Patience, PatientGenerator, PatientScorer
from shared.domain.artefacts import ModelIds
from shared.domain.roles import Author
from shared.engines.factory import make_generator, make_scorer
from shared.engines.port import Generator, Scorer
from shared.settings import Settings
from simulation.memory_file import MemoryFile
from simulation.remembering import RememberingGenerator, RememberingScorer
from simulation.workers import Engines


@dataclass(frozen=True, kw_only=True)
class LoadedEngines:
    """Engines that are ready, and what is known of them."""

    small: Generator
    large: Generator
    prm: Scorer
    models: ModelIds
    """Their models."""
    concurrency: int
    """Number of calls at the same time, so that they batch."""

    @property
    def workers(self) -> Engines:
        """The engines as the simulation takes them."""
        return Engines(small=self.small, large=self.large, prm=self.prm)


@contextmanager
def loaded_engines(
    settings: Settings, *, memory: Path | None = None, patience: Patience | None = None
) -> Iterator[LoadedEngines]:
    """Load the models that the settings name, and close them after the block.

    Args:
        settings: Settings of the workers.
        memory: File that keeps what the models write and score; by default the process forgets it.
        patience: How long engines may fail.

    Raises:
        UnusableMemory: The file is something else.
        TrimError: A model cannot be loaded; see `make_generator`.
    """
    patience = patience or Patience()
    with ExitStack() as stack:
        file = stack.enter_context(closing(MemoryFile(memory))) if memory else None
        writers = [stack.enter_context(closing(make_generator(settings, author))) for author in Author]
        judge = stack.enter_context(closing(make_scorer(settings)))
        written = f"{settings.engine} {settings.prompt_style} {settings.prompt}"
        small, large = (
            RememberingGenerator(
                PatientGenerator(writer, patience), file.steps(f"{writer.model_id} {written}") if file else None
            )
            for writer in writers
        )
        prm = RememberingScorer(PatientScorer(judge, patience), file.scores(judge.model_id) if file else None)
        yield LoadedEngines(
            small=small,
            large=large,
            prm=prm,
            models=ModelIds(small=small.model_id, large=large.model_id, prm=prm.model_id),
            concurrency=settings.concurrency,
        )
