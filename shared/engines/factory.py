"""Makes the engine that the settings name. Only the chosen engine's libraries are imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.domain.roles import Author
from shared.engines.port import Generator, Scorer
from shared.engines.prm_formats import FORMATS, NextToken
from shared.log import get_logger
from shared.settings import Settings, UnusableSetting

_log = get_logger(__name__)


def make_generator(settings: Settings, role: Author) -> Generator:
    """Load the model that writes for a role.

    Raises:
        ModelUnusable: Its files are missing or damaged.
        MissingSetting: The settings do not say where it is served.
        UnusableSetting: The engine is not installed, or cannot do what they ask for.
    """
    with _loading(settings):
        return _generator(settings, role)


def make_scorer(settings: Settings) -> Scorer:
    """Load the process reward model; errors as for `make_generator`."""
    with _loading(settings):
        return _scorer(settings)


@contextmanager
def _loading(settings: Settings) -> Iterator[None]:
    _log.info("model_loading", engine=settings.engine)
    try:
        yield
    except ModuleNotFoundError as error:
        raise UnusableSetting(
            f"TRIM_ENGINE={settings.engine} needs {error.name}, which is not installed here; install the engine with"
            f" pip install '.[worker,{settings.engine}]', or set TRIM_ENGINE to another one."
        ) from None


def _generator(settings: Settings, role: Author) -> Generator:
    if settings.engine == "scripted":
        from shared.engines.scripted import Script, ScriptedGenerator  # noqa: PLC0415

        return ScriptedGenerator(Script.load(settings.script), role)
    if settings.engine == "openai":
        from shared.engines.openai.endpoint import Endpoint  # noqa: PLC0415
        from shared.engines.openai.generator import OpenAIGenerator  # noqa: PLC0415
        from shared.engines.openai.server import Server  # noqa: PLC0415

        server = Server(Endpoint.of(settings, role.value), max_requests=settings.concurrency)
        return OpenAIGenerator(server, style=settings.prompt_style, template=settings.prompt)
    if settings.engine == "vllm":
        if settings.prompt_style == "chat-next-step":
            raise UnusableSetting("The engine vllm goes on with a text; set TRIM_PROMPT_STYLE to completions or chat.")
        from shared.engines.vllm.generator import VllmGenerator  # noqa: PLC0415
        from shared.engines.vllm.model import Model  # noqa: PLC0415

        return VllmGenerator(
            Model.of(settings, role.value, runner="generate"), style=settings.prompt_style, template=settings.prompt
        )
    from shared.engines.embedded.generator import EmbeddedGenerator  # noqa: PLC0415

    return EmbeddedGenerator(
        Path(settings.small_model if role is Author.SMALL else settings.large_model),
        setting=f"TRIM_{role.upper()}_MODEL",
        threads=settings.engine_threads,
        max_batch=settings.concurrency,
    )


def _scorer(settings: Settings) -> Scorer:
    if settings.engine == "scripted":
        from shared.engines.scripted import Script, ScriptedScorer  # noqa: PLC0415

        return ScriptedScorer(Script.load(settings.script))
    if settings.engine == "openai":
        from shared.engines.openai.endpoint import Endpoint  # noqa: PLC0415
        from shared.engines.openai.scorer import OpenAIScorer  # noqa: PLC0415
        from shared.engines.openai.server import Server  # noqa: PLC0415

        server = Server(Endpoint.of(settings, "prm"), max_requests=settings.concurrency)
        return OpenAIScorer(server, FORMATS[settings.prm_format])
    if settings.engine == "vllm":
        from shared.engines.vllm.model import Model  # noqa: PLC0415
        from shared.engines.vllm.scorer import NextTokenScorer, TaggedScorer  # noqa: PLC0415

        prm_format = FORMATS[settings.prm_format]
        if isinstance(prm_format, NextToken):
            return NextTokenScorer(Model.of(settings, "prm", runner="generate"), prm_format)
        return TaggedScorer(Model.of(settings, "prm", runner="pooling"), prm_format)
    from shared.engines.embedded.scorer import EmbeddedScorer  # noqa: PLC0415

    return EmbeddedScorer(
        Path(settings.prm_model),
        setting="TRIM_PRM_MODEL",
        threads=settings.engine_threads,
        max_batch=settings.concurrency,
    )
