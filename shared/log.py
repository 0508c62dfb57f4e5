"""Logs: constant event names in the past tense, with ids as fields. Lines of libraries share the pipeline."""

from __future__ import annotations

import logging
import sys

import structlog

from shared.settings import Settings


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a module's logger."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


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
    renderer: structlog.typing.Processor
    if settings.log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        # Plain stack traces: the default ones show local variables, which hold questions and steps.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
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
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    )
    _handle_with(formatter, level=settings.log_level.upper())


def _handle_with(formatter: logging.Formatter, *, level: str) -> None:
    """Format every record of the process, our own and the libraries'."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Libraries log warnings and errors only.
    for noisy in (
        "celery", "kombu", "amqp", "pgmq", "psycopg", "sqlalchemy", "alembic", "uvicorn", "asyncio",
        "httpx2", "httpcore2",
    ):  # fmt: skip
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
