"""`docker/run-role`: the first process of a role's container."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.containers.described import ROOT

FINISHING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(7)))
print("up", flush=True)
time.sleep(60)
"""


@contextmanager
def _start(program: str) -> Iterator[subprocess.Popen[str]]:
    command = ["sh", ROOT / "docker" / "run-role", sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as container:
        try:
            yield container
        finally:
            container.kill()


@pytest.mark.parametrize("status", [0, 1, 3])
def test_the_container_ends_as_its_role_does(status: int) -> None:
    with _start(f"raise SystemExit({status})") as container:
        assert container.wait(10) == status


def test_sigterm_reaches_the_role_and_the_container_waits_until_it_has_finished() -> None:
    with _start(FINISHING) as container:
        assert container.stdout
        assert container.stdout.readline() == "up\n"
        container.send_signal(signal.SIGTERM)
        assert container.wait(10) == 7


def test_with_wrong_settings_the_container_stays_until_it_is_stopped() -> None:
    with _start("import sys; sys.stderr.write('TRIM_WINDOW is wrong.\\n'); sys.exit(2)") as container:
        assert container.stderr
        assert container.stderr.readline() == "TRIM_WINDOW is wrong.\n"
        assert "Not restarted" in container.stderr.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            container.wait(0.5)
        container.send_signal(signal.SIGTERM)
        assert container.wait(10) == 2
