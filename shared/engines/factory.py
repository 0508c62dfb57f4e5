"""Makes the engine that the settings choose. Only the chosen engine's libraries are imported."""

# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, assert_never

from shared.domain.roles import Author, WorkerRole
from shared.engines.port import Generator, Scorer
from shared.engines.prm_formats import FORMATS, NextToken, Tagged
from shared.engines.role_settings import model_of, model_variable, thinking_of, thinking_variable
from shared.log import get_logger
from shared.observe import metrics
from shared.settings import Settings, UnusableSetting

_log = get_logger(__name__)


class _Engine(NamedTuple):
    make_generator: Callable[[Author], Generator]
    make_scorer: Callable[[], Scorer]


def make_generator(settings: Settings, author: Author) -> Generator:
    """Load the model that writes an author's steps.

    Raises:
        ModelUnusable: The model's files are missing or damaged.
        MissingSetting: The settings do not name the model's server.
        UnusableSetting: The engine is not installed, or does not support a setting.
    """
    if settings.engine == "vllm" and settings.prompt_style == "chat-next-step":
        raise UnusableSetting(
            "The engine vllm does not support TRIM_PROMPT_STYLE=chat-next-step; set it to completions or chat."
        )
    _check_thinking(settings, WorkerRole(author))
    with _loading(settings):
        return _engine(settings).make_generator(author)


def make_scorer(settings: Settings) -> Scorer:
    """Load the process reward model; raises what `make_generator` raises."""
    with _loading(settings):
        return _engine(settings).make_scorer()


def _check_thinking(settings: Settings, role: WorkerRole) -> None:
    """Raise `UnusableSetting` for a thinking mode without a chat template, or with messages that are one step each."""
    thinking, style = thinking_of(settings, role), settings.prompt_style
    if thinking is None:
        return
    if settings.engine not in ("vllm", "openai") or style == "completions":
        raise UnusableSetting(
            f"{thinking_variable(role)} needs a chat template; set TRIM_ENGINE to vllm or openai and TRIM_PROMPT_STYLE"
            " to chat, or remove it."
        )
    if thinking == "steps" and style != "chat":
        raise UnusableSetting(
            f"{thinking_variable(role)}=steps needs TRIM_PROMPT_STYLE=chat, in which a model goes on with its thoughts;"
            " set it to chat, or the other one to off."
        )


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


def _engine(settings: Settings) -> _Engine:
    match settings.engine:
        case "scripted":
            return _scripted(settings)
        case "embedded":
            return _embedded(settings)
        case "vllm":
            return _vllm(settings)
        case "openai":
            return _openai(settings)
        case _:
            assert_never(settings.engine)


def _scripted(settings: Settings) -> _Engine:
    from shared.engines.scripted import Script, ScriptedGenerator, ScriptedScorer

    script = Script.load(settings.script)
    return _Engine(
        make_generator=lambda author: ScriptedGenerator(script, author),
        make_scorer=lambda: ScriptedScorer(script),
    )


def _embedded(settings: Settings) -> _Engine:
    from shared.engines.embedded.generator import EmbeddedGenerator
    from shared.engines.embedded.scorer import EmbeddedScorer

    Loaded = TypeVar("Loaded", EmbeddedGenerator, EmbeddedScorer)

    def load(engine: type[Loaded], role: WorkerRole) -> Loaded:
        return engine(
            Path(model_of(settings, role)),
            setting=model_variable(role),
            threads=settings.engine_threads,
            max_batch=settings.concurrency,
            on_run=metrics.BATCH_OCCUPANCY.labels(role).observe,
        )

    return _Engine(
        make_generator=lambda author: load(EmbeddedGenerator, WorkerRole(author)),
        make_scorer=lambda: load(EmbeddedScorer, WorkerRole.PRM),
    )


def _vllm(settings: Settings) -> _Engine:
    from shared.engines.vllm.generator import VllmGenerator
    from shared.engines.vllm.model import Model
    from shared.engines.vllm.scorer import NextTokenScorer, TaggedScorer

    def make_generator(author: Author) -> Generator:
        model = Model.of(settings, WorkerRole(author), runner="generate")
        style: Literal["chat", "completions"] = "chat" if settings.prompt_style == "chat" else "completions"
        thinking = thinking_of(settings, WorkerRole(author))
        return VllmGenerator(model, style=style, template=settings.prompt, thinking=thinking)

    def make_scorer() -> Scorer:
        prm_format = FORMATS[settings.prm_format]
        match prm_format:
            case Tagged():
                return TaggedScorer(Model.of(settings, WorkerRole.PRM, runner="pooling"), prm_format)
            case NextToken():
                return NextTokenScorer(Model.of(settings, WorkerRole.PRM, runner="generate"), prm_format)
            case _:
                assert_never(prm_format)

    return _Engine(make_generator, make_scorer)


def _openai(settings: Settings) -> _Engine:
    from shared.engines.openai.endpoint import Endpoint
    from shared.engines.openai.generator import OpenAIGenerator
    from shared.engines.openai.scorer import OpenAIScorer
    from shared.engines.openai.server import Server

    def server(role: WorkerRole) -> Server:
        return Server(Endpoint.of(settings, role), max_requests=settings.concurrency)

    return _Engine(
        make_generator=lambda author: OpenAIGenerator(
            server(WorkerRole(author)),
            style=settings.prompt_style,
            template=settings.prompt,
            thinking=thinking_of(settings, WorkerRole(author)),
        ),
        make_scorer=lambda: OpenAIScorer(server(WorkerRole.PRM), FORMATS[settings.prm_format]),
    )
