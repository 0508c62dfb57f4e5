"""A worker whose engine hangs while a file names the process, as one does that waits for a GPU.

python -m chaos.hanging_worker FILE small
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

from shared.cancellation import Cancellation
from shared.engines.port import GeneratedStep, GenerationRequest, Meter, StepTimeout
from shared.engines.scripted import ScriptedGenerator

POLL_S = 0.02


def hang(file: Path, pids: list[int]) -> None:
    """Have the engines of processes hang, or of none."""
    whole = file.with_suffix(".new")
    whole.write_text(" ".join(map(str, pids)), encoding="utf-8")
    whole.replace(file)


def _hangs(file: Path) -> bool:
    with suppress(FileNotFoundError):
        return str(os.getpid()) in file.read_text(encoding="utf-8").split()
    return False


def _play(file: Path) -> None:
    stream = ScriptedGenerator.stream

    def stream_or_hang(
        engine: ScriptedGenerator, request: GenerationRequest, cancellation: Cancellation, meter: Meter
    ) -> Generator[GeneratedStep, None, None]:
        until = time.monotonic() + request.step_timeout_s
        while _hangs(file):
            cancellation.raise_if_cancelled()
            if time.monotonic() > until:
                raise StepTimeout.after(request.step_timeout_s)
            time.sleep(POLL_S)
        yield from stream(engine, request, cancellation, meter)

    ScriptedGenerator.stream = stream_or_hang  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    _play(Path(sys.argv.pop(1)))
    runpy.run_module("services.generator", run_name="__main__", alter_sys=True)
