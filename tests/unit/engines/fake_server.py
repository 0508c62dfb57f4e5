"""A small HTTP server on loopback that sends given responses, for the tests of the openai engine."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

from shared.cancellation import Cancellation
from shared.domain.options import Sampling
from shared.engines.openai.blank_line import QUESTION as PROBE
from shared.engines.openai.endpoint import Endpoint
from shared.engines.openai.generator import OpenAIGenerator
from shared.engines.openai.prompts import Style
from shared.engines.openai.server import Server
from shared.engines.port import GeneratedStep, GenerationRequest, Meter

QUESTION = "What is one and one?"
KEY = "sk-very-secret"


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that the server received."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float


Reply = Callable[["FakeServer", BaseHTTPRequestHandler], None]


class FakeServer:
    """Responds to each request with the next reply; the last reply is repeated.

    It answers the probe of a generator by itself, and does not list it among the requests.
    """

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.arrived = threading.Semaphore(0)
        self.left = threading.Semaphore(0)
        """Released when a client hangs up on a silent reply."""
        self.count: Callable[[str], int] = lambda text: len(re.findall(r"\w+|\n+|[^\w\s]", text))
        """Counts the tokens of a probe's solution so far."""
        self.refuses_probes = False
        self.probes: list[dict[str, Any]] = []
        self._replies: list[Reply] = []
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                with suppress(ConnectionError):  # Clients may hang up at any time.
                    super().handle()

            def do_POST(self) -> None:
                self.body = body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if PROBE in json.dumps(body):
                    fake.probes.append(body)
                    answer_probe(fake, self, body)
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                with fake._lock:
                    fake.requests.append(ReceivedRequest(self.path, headers, body, time.monotonic()))
                    reply = fake._replies[0] if len(fake._replies) == 1 else fake._replies.pop(0)
                fake.arrived.release()
                reply(fake, self)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def replies(self, *replies: Reply) -> None:
        with self._lock:
            self._replies = list(replies)

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@contextmanager
def serving() -> Iterator[FakeServer]:
    fake = FakeServer()
    try:
        yield fake
    finally:
        fake.close()


def server_at(url: str, *, role: str = "SMALL", max_requests: int = 8) -> Server:
    endpoint = Endpoint(
        url=url, url_setting=f"TRIM_{role}_URL", model="tiny", model_setting=f"TRIM_{role}_MODEL",
        style_setting="TRIM_PRM_FORMAT" if role == "PRM" else "TRIM_PROMPT_STYLE", api_key=KEY,
    )  # fmt: skip
    return Server(endpoint, max_requests=max_requests)


def make_request(prefix: Sequence[str] = (), *, question: str = QUESTION, **changes: Any) -> GenerationRequest:
    values: dict[str, Any] = {
        "problem_id": uuid4(),
        "max_steps": 1,
        "max_step_tokens": 100,
        "max_tokens": 1000,
        "step_timeout_s": 60,
        "sampling": Sampling(),
        **changes,
    }
    return GenerationRequest(question=question, prefix=tuple(prefix), **values)


def unused_url() -> str:
    """Return a URL at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


# --- replies --------------------------------------------------------------------------------------------------------


def answer(status: int, body: Any = None, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def reply(fake: FakeServer, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return reply


def events(*chunks: Any) -> bytes:
    lines = [json.dumps(chunk, ensure_ascii=False) for chunk in chunks]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


def chunks_of(text: str, *, tokens: int = 5, finish: str = "stop", chat: bool = False, **choice: Any) -> list[Any]:
    half = len(text) // 2
    pieces = [text[:half], text[half:]]
    choices = [{"delta": {"content": piece}} if chat else {"text": piece} for piece in pieces]
    usage = {"prompt_tokens": 40, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 32}}
    return [
        {"choices": [{**choices[0], "finish_reason": None}], "usage": None},
        {"choices": [{**choices[1], "finish_reason": finish, **choice}]},
        {"choices": [], "usage": usage},
    ]


def writes(text: str, **how: Any) -> Reply:
    """A completion; `stop_reason` and the like go into its last choice."""
    return answer(200, events(*chunks_of(text, **how)), content_type="text/event-stream")


def step(text: str, **how: Any) -> Reply:
    """A completion that stopped at the separator."""
    return writes(text, stop_reason="\n\n", **how)


def answer_probe(fake: FakeServer, handler: BaseHTTPRequestHandler, body: Mapping[str, Any]) -> None:
    """Write one token, and report how many the solution so far has."""
    if fake.refuses_probes:
        answer(400, {})(fake, handler)
        return
    so_far = body["prompt"].split("\n\n", 1)[1] if "prompt" in body else body["messages"][-1]["content"]
    usage = {"prompt_tokens": fake.count(so_far), "completion_tokens": 1}
    *chunks, _ = chunks_of("x", chat="messages" in body, finish="length")
    answer(200, events(*chunks, {"choices": [], "usage": usage}), content_type="text/event-stream")(fake, handler)


def hangs_up(fake: FakeServer, handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def breaks_off(fake: FakeServer, handler: BaseHTTPRequestHandler) -> None:
    """Close the connection in the middle of an answer."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(events(*chunks_of("half")[:1])[:20])
    handler.close_connection = True


def stays_silent(fake: FakeServer, handler: BaseHTTPRequestHandler) -> None:
    """Say nothing until the client hangs up."""
    with suppress(ConnectionError):
        handler.connection.recv(1)
    handler.close_connection = True
    fake.left.release()


def begins(*chunks: Any, content: bytes | None = None) -> Reply:
    """A reply that begins an answer, then sends nothing more until the client hangs up."""
    sent = events(*chunks).removesuffix(b"data: [DONE]\n\n") if content is None else content

    def reply(fake: FakeServer, handler: BaseHTTPRequestHandler) -> None:
        with suppress(ConnectionError):  # It may have hung up already.
            handler.send_response(200)
            handler.send_header("content-length", "100000")
            handler.end_headers()
            handler.wfile.write(sent)
            handler.wfile.flush()
        stays_silent(fake, handler)

    return reply


falls_silent = begins(content=events(chunks_of("half")[0])[:-20])
"""Begins an answer and stops in the middle of a chunk."""


def write(fake: FakeServer, request: GenerationRequest, style: Style = "completions") -> list[GeneratedStep]:
    """Have the generator write all steps of a call."""
    engine = OpenAIGenerator(server_at(fake.url), style=style, template="Problem: {question}\n\n")
    with closing(engine):
        return list(engine.stream(request, Cancellation(), Meter()))
