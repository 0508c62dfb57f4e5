"""What vLLM itself loads in every process of an engine: see the entry points in pyproject.toml."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

NICENESS = 10


def join_worker() -> None:
    """Tie an engine's process to the worker that started it, and have it step back behind the worker on a CPU."""
    worker = multiprocessing.parent_process()
    if worker is None:
        return

    def end_with_worker() -> None:
        # Else it would go on for ever after a worker that was killed, with the accelerator's memory in its hands.
        worker.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_with_worker, name="end-with-worker", daemon=True).start()
    if _computes_on_cpu() and os.getsid(0) != os.getpid():
        _step_back()


def _computes_on_cpu() -> bool:
    from vllm.platforms import current_platform  # noqa: PLC0415 - only an engine's process has it loaded anyway

    return bool(current_platform.is_cpu())


def _step_back() -> None:
    """Let everybody else go first: what feeds an engine takes moments, and the batch is the fuller for it.

    A session of its own, because Linux may share cores among sessions first, and then niceness counts within one only.
    """
    os.setsid()
    # Not on top of what is inherited: vLLM may start one process of an engine from another.
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    with suppress(OSError):  # not every kernel groups sessions
        Path("/proc/self/autogroup").write_text(str(NICENESS))
