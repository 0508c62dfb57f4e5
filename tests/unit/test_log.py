"""What reaches standard error, and what does not."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from amqp.abstract_channel import IGNORED_METHOD_DURING_CHANNEL_CLOSE

from shared import log
from shared.settings import Settings

NAMES = (None, "amqp", "kombu")


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Restore the loggers."""
    kept = [(each := logging.getLogger(name), each.level, list(each.handlers), list(each.filters)) for name in NAMES]
    yield
    for logger, level, handlers, filters in kept:
        logger.setLevel(level)
        logger.handlers = handlers
        logger.filters = filters


def test_a_confirm_that_arrives_while_its_channel_closes_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Settings(), role="api")
    logger = logging.getLogger("amqp")
    logger.warning(IGNORED_METHOD_DURING_CHANNEL_CLOSE, (60, 80), 1)
    logger.warning("Rejected a message")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "Rejected a message" in lines[0]


def test_libraries_log_warnings_and_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Settings(), role="api")
    logging.getLogger("kombu").info("Connected")
    logging.getLogger("kombu").warning("Lost")
    [line] = capsys.readouterr().err.splitlines()
    assert "Lost" in line
