"""Logs: constant event names in the past tense, with ids as fields. Lines of libraries share the pipeline."""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import assert_never
from uuid import UUID

import structlog

from shared.messages import ClockTold, GenerateSteps, Message, ScoreSteps, WorkerSeen
from shared.settings import Settings

_LIBRARIES = (
    "celery",
    "kombu",
    "amqp",
    "pgmq",
    "psycopg",
    "sqlalchemy",
    "alembic",
    "uvicorn",
    "asyncio",
    "httpx2",
    "httpcore2",
    "opentelemetry",
)
"""Libraries that log warnings and errors only."""


_IGNORED_METHOD = "Received method %s during closing channel"
"""Start of amqp's message for a confirm that arrives while its channel closes. The api does not install amqp."""
_EXCEPTION_AS_FIELDS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""Turns an exception into fields. Without local variables, which hold questions and steps."""


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a module's logger."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def about(problem_id: UUID, *, command_id: UUID | None = None) -> AbstractContextManager[None]:
    """Have every line that this thread logs in the block name the problem, and the command if there is one."""
    ids = {"problem_id": str(problem_id)}
    if command_id is not None:
        ids["command_id"] = str(command_id)
    return structlog.contextvars.bound_contextvars(**ids)


def about_message(message: Message | None) -> AbstractContextManager[None]:
    """Have every line that this thread logs in the block name the problem and the command of a message, if any."""
    match message:
        case None | WorkerSeen() | ClockTold():
            return nullcontext()
        case GenerateSteps() | ScoreSteps():
            return about(message.problem_id, command_id=message.id)
        case _:
            return about(message.problem_id)


def configure(settings: Settings, *, role: str) -> None:
    """Send all logs of the process to standard error. Call once, at the start."""

    def name_process(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**line, "role": role, "node": settings.node_name}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        shared.append(structlog.processors.ExceptionRenderer(_EXCEPTION_AS_FIELDS))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(settings)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("amqp").addFilter(_matters)


def _matters(line: logging.LogRecord) -> bool:
    """Whether a line of amqp tells an operator anything: a confirm that arrives while its channel closes does not."""
    return not str(line.msg).startswith(_IGNORED_METHOD)


def _renderer(settings: Settings) -> structlog.typing.Processor:
    match settings.log_format:
        case "json":
            return structlog.processors.JSONRenderer()
        case "console":
            # Plain stack traces: the default ones show local variables, which hold questions and steps.
            return structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        case _:
            assert_never(settings.log_format)
