"""A small model's worker that a certain question ends, as a fault in an engine's native code does.

python -m chaos.crashing_worker small
"""

from __future__ import annotations

import os
import runpy
import signal
from typing import Any

from shared.engines.scripted import ScriptedGenerator

CRASHES = "What ends every worker?"

_stream = ScriptedGenerator.stream


def _stream_or_die(engine: Any, request: Any, *arguments: Any) -> Any:
    if request.question == CRASHES:
        os.kill(os.getpid(), signal.SIGKILL)
    return _stream(engine, request, *arguments)


if __name__ == "__main__":
    ScriptedGenerator.stream = _stream_or_die  # type: ignore[method-assign, assignment]
    runpy.run_module("services.generator", run_name="__main__", alter_sys=True)
