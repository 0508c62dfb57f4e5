"""Makes the engine that the settings name. Only the chosen engine's libraries are imported."""

from __future__ import annotations

from pathlib import Path

from shared.domain.values import Role
from shared.engines.port import Generator, Scorer
from shared.settings import Settings


def make_generator(settings: Settings, role: Role) -> Generator:
    """Load the model that writes for a role.

    Raises:
        ModelUnusable: Its files are missing or damaged.
    """
    if settings.engine == "scripted":
        from shared.engines.scripted import Script, ScriptedGenerator  # noqa: PLC0415

        return ScriptedGenerator(Script.load(settings.script), role)
    from shared.engines.embedded.generator import EmbeddedGenerator  # noqa: PLC0415

    folder = settings.small_model if role is Role.SMALL else settings.large_model
    return EmbeddedGenerator(Path(folder), threads=settings.engine_threads, max_batch=settings.concurrency)


def make_scorer(settings: Settings) -> Scorer:
    """Load the process reward model.

    Raises:
        ModelUnusable: Its files are missing or damaged.
    """
    if settings.engine == "scripted":
        from shared.engines.scripted import Script, ScriptedScorer  # noqa: PLC0415

        return ScriptedScorer(Script.load(settings.script))
    from shared.engines.embedded.scorer import EmbeddedScorer  # noqa: PLC0415

    return EmbeddedScorer(Path(settings.prm_model), threads=settings.engine_threads, max_batch=settings.concurrency)
