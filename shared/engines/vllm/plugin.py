"""A plug-in that vLLM loads in each process of an engine; see the entry points in pyproject.toml."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

NICENESS = 10
"""Niceness of an engine's process on a CPU."""


def join_worker() -> None:
    """End an engine's process with the worker that started it, and lower its priority if it computes on a CPU."""
    worker = multiprocessing.parent_process()
    if worker is None:
        return

    def end_with_worker() -> None:
        # Otherwise the process of a killed worker would go on for ever, and hold the accelerator's memory.
        worker.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_with_worker, name="end-with-worker", daemon=True).start()
    if _computes_on_cpu() and os.getsid(0) != os.getpid():
        _lower_priority()


def _computes_on_cpu() -> bool:
    from vllm.platforms import current_platform  # noqa: PLC0415 - only an engine's process has loaded it

    return bool(current_platform.is_cpu())


def _lower_priority() -> None:
    """Yield the CPU to the worker: it needs little time to feed the engine, and batches get larger.

    The process gets a session, because Linux may share cores among sessions first; niceness then counts only within
    a session.
    """
    os.setsid()
    # The inherited niceness is not added to: vLLM may start one process of an engine from another.
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    with suppress(OSError):  # Not every kernel groups sessions.
        Path("/proc/self/autogroup").write_text(str(NICENESS), encoding="utf-8")
