"""A worker's signal handler: it may interrupt anything, so it only leaves a note for the thread that stops it."""

from __future__ import annotations

import logging
import signal
from typing import Any
from unittest.mock import Mock

import celery.worker.state
import pytest

from shared import log
from shared.domain.roles import WorkerRole
from shared.engines.scripted import Script, ScriptedScorer
from shared.observe.health import Health
from shared.settings import Settings
from shared.worker.command_worker import CONDITIONS, CommandWorker


def make_worker() -> CommandWorker:
    health = Health(role="prm", node="prm-0", conditions=CONDITIONS)
    return CommandWorker(
        Settings(), WorkerRole.PRM, health, engine=ScriptedScorer(Script()),
        begin=lambda *_: None, probe=lambda _: None,  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_signal_that_interrupts_a_log_line_logs_nothing_and_still_stops_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, settings = make_worker(), Settings()
    kept = logging.getLogger().handlers
    log.configure(settings, role="prm")

    def refuse(*_: Any) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr(logging.Logger, "handle", refuse)
    try:
        worker._on_signal(signal.SIGTERM, None)
    finally:
        logging.getLogger().handlers = kept
    assert worker._must_stop.is_set()


def test_a_worker_ends_also_if_its_work_cannot_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celery.worker.state, "should_stop", None)
    worker = make_worker()
    worker._reception = Mock(close=Mock(side_effect=IndexError))
    worker._must_stop.set()
    worker._drain()
    assert celery.worker.state.should_stop == 0
