"""Servers of a small model, a large model and a PRM that a test switches off and on, and that count their work."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from shared.domain.roles import WorkerRole
from shared.domain.text import STEP_TAG
from tests.unit.engines.fake_server import FakeServer, answer, step, writes

STEPS = 5
DOUBTFUL_STEP = 2
"""Step that the PRM doubts in every second problem, so that the large model writes it."""

TOKENS = {WorkerRole.SMALL: 5, WorkerRole.LARGE: 5, WorkerRole.PRM: 9}
"""Tokens that each call is reported to take."""

_BACKLOG = 256
_QUESTION = re.compile(r"What is problem (\d+)\?")


def question(number: int) -> str:
    return f"What is problem {number}?"


def is_doubted(number: int) -> bool:
    return number % 2 == 0


class ModelServer(FakeServer):
    """A model's server that can refuse requests, or end and come back."""

    def __init__(self, role: WorkerRole, *, takes_s: float) -> None:
        super().__init__()
        self.role = role
        self.begun: Counter[str] = Counter()
        """How often it began to continue or to score a text."""
        self.answered = 0
        """Number of steps that it wrote or scored."""
        self.lost = 0
        """Number of steps that it was working on when it ended."""
        self._takes_s = takes_s
        self._counting = threading.Lock()
        self._working: set[socket.socket] = set()
        """Connections of the steps that it is working on."""
        self._is_away = False
        self._http.socket.listen(_BACKLOG)
        self.recover()

    @property
    def in_flight(self) -> int:
        """Number of steps that it is working on."""
        return len(self._working)

    @property
    def twice(self) -> int:
        """Number of times that it began work that it had begun before."""
        return self.begun.total() - len(self.begun)

    def refuse(self, status: int) -> None:
        """Refuse further requests; those that it has accepted are answered."""
        self.replies(answer(status))

    def leave(self) -> None:
        """Break all connections and refuse new ones, as a process does that ends."""
        self._http.shutdown()
        self._http.server_close()
        with self._counting:
            self._is_away = True
            self.lost += len(self._working)
            for each in self._working:
                with suppress(OSError):  # The client may have closed it.
                    each.shutdown(socket.SHUT_RDWR)
            self._working.clear()

    def recover(self) -> None:
        """Serve as at the beginning."""
        self.replies(lambda _, handler: self._serve(handler))
        if not self._is_away:
            return
        self._is_away = False
        self._http = ThreadingHTTPServer(self._http.server_address, self._http.RequestHandlerClass)  # type: ignore[arg-type]
        self._http.socket.listen(_BACKLOG)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = cast("dict[str, str]", handler.body)  # type: ignore[attr-defined]
        text = body["input" if "input" in body else "prompt"]
        asked = _QUESTION.search(text)
        if asked is None or self._is_away:
            handler.close_connection = self._is_away
            if not self._is_away:  # It is a worker's probe.
                self._answer(handler, text, number=1, at=0)
            return
        number, at = int(asked[1]), text.count("Step") - (self.role is WorkerRole.PRM)
        with self._counting:
            self.begun[text] += 1
            self._working.add(handler.connection)
        time.sleep(self._takes_s)
        with self._counting:
            if handler.connection in self._working:
                self._working.remove(handler.connection)
                self.answered += 1
                self._answer(handler, text, number=number, at=at)
            else:
                handler.close_connection = True

    def _answer(self, handler: BaseHTTPRequestHandler, text: str, *, number: int, at: int) -> None:
        if self.role is WorkerRole.PRM:  # A row for each tag of the bundled format: with another format, there is none.
            rows = [[0.9, 0.1] if "doubtful" in each else [0.1, 0.9] for each in text.split(STEP_TAG)[:-1]]
            answer(200, {"data": [{"data": rows}], "usage": {"prompt_tokens": TOKENS[self.role]}})(self, handler)
        elif at + 1 == STEPS:
            writes(f"Step {at}: it is \\boxed{{7}}.", stop_reason=None)(self, handler)
        else:
            is_doubtful = self.role is WorkerRole.SMALL and at == DOUBTFUL_STEP and is_doubted(number)
            step(f"Step {at} is {'doubtful' if is_doubtful else 'right'}.")(self, handler)


@contextmanager
def model_servers(takes_s: Mapping[WorkerRole, float]) -> Iterator[dict[WorkerRole, ModelServer]]:
    """Run a server for each role.

    Args:
        takes_s: Seconds that each takes for a step.
    """
    with ExitStack() as running:
        yield {role: running.enter_context(closing(ModelServer(role, takes_s=takes_s[role]))) for role in WorkerRole}


def settings_for(servers: Mapping[WorkerRole, ModelServer]) -> dict[str, str]:
    """Return the settings of workers that use the servers."""
    urls = {f"{role}_url": server.url for role, server in servers.items()}
    return {"engine": "openai", **urls, **{f"{role}_model": "tiny" for role in servers}}
