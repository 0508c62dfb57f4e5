"""Traces: one problem is one tree of spans, from its submission to its end."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan

from shared.clock import SYSTEM_CLOCK
from shared.domain.decisions import Action
from shared.observe import spans, tracing
from shared.observe.otlp import OtlpExporter
from shared.observe.spans import Kind, Span
from shared.observe.tracing import TRACING, TracingNotInstalled
from shared.policies.registry import build_policy
from shared.settings import Settings
from simulation.simulated_service import SimulatedService
from simulation.workers import Engines
from simulation.world import World, WorldGenerator, WorldScorer

ROOT = Path(__file__).resolve().parents[3]
PROBLEM = UUID("01934c2a-7b00-7abc-9def-0123456789ab")
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Recorder:
    """Keeps spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, span: Span) -> None:
        self.spans.append(span)

    def close(self) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    TRACING.start(recorder, share=1.0)
    yield recorder
    TRACING.close()


class Receiver(ThreadingHTTPServer):
    """Takes spans as an OpenTelemetry collector does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[SentSpan] = []
        self.services: set[str] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        for resource in sent.resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.server.services.add(names["service.name"])
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_line: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.shutdown()
    receiver.server_close()


def solved() -> tuple[SimulatedService, UUID]:
    world = World(scores_badly=0, says_nothing=0)
    small, large = (WorldGenerator(world, author) for author in ("small", "large"))
    service = SimulatedService(Engines(small=small, large=large, prm=WorldScorer(world)))
    problem_id = service.submit("What is 6 * 7?", build_policy("threshold", {"threshold": 0.5}))
    service.run()
    return service, problem_id


def submission(traceparent: str | None = None) -> Span:
    now = SYSTEM_CLOCK.now()
    return spans.submission(
        PROBLEM, received_at=now, stored_at=now + timedelta(milliseconds=5), traceparent=traceparent
    )


def test_a_problem_is_one_trace_with_one_root_and_no_orphan(recorder: Recorder) -> None:
    service, problem_id = solved()
    ids = {each.id for each in recorder.spans}
    assert len(ids) == len(recorder.spans)
    [root] = [each for each in recorder.spans if each.parent_id is None]
    assert (root.name, root.id) == ("problem", problem_id)
    assert all(each.problem_id == problem_id and each.parent_id in {*ids, None} for each in recorder.spans)
    assert all(root.started_at <= each.started_at <= each.ended_at for each in recorder.spans)
    assert root.attributes["trim.ledger.large_out"] == service.state(problem_id).ledger.large_out


def test_every_decision_is_a_span_with_the_numbers_that_were_compared(recorder: Recorder) -> None:
    service, problem_id = solved()
    records = service.state(problem_id).decisions
    decided = [each.attributes for each in recorder.spans if each.kind is Kind.DECISION]
    assert {each.decision.action for each in records} == {Action.ACCEPT, Action.ESCALATE}
    assert [(each["trim.decision"], each["trim.action"], each["trim.value"]) for each in decided] == [
        (each.number, each.decision.action.value, each.decision.value) for each in records
    ]


def test_steps_and_scores_belong_to_the_commands_that_made_them(recorder: Recorder) -> None:
    service, problem_id = solved()
    by_id = {each.id: each for each in recorder.spans}
    steps = [each for each in recorder.spans if each.kind is Kind.LLM]
    scores = [each for each in recorder.spans if each.kind is Kind.EVALUATOR]
    assert {by_id[each.parent_id].name for each in steps if each.parent_id} == {"small", "large"}
    assert {by_id[each.parent_id].name for each in scores if each.parent_id} == {"prm"}
    ledger = service.state(problem_id).ledger
    written = sum(int(str(each.attributes["llm.token_count.completion"])) for each in steps)
    assert written == ledger.small_kept + ledger.small_discarded + ledger.small_wasted + (
        ledger.large_out + ledger.large_wasted
    )


def sent(receiver: Receiver, traced: Sequence[Span], **settings: object) -> list[SentSpan]:
    exporter = OtlpExporter(Settings(otlp_url=receiver.url, **settings), role="api")  # type: ignore[arg-type]
    for each in traced:
        exporter.export(each)
    exporter.close()
    return receiver.spans


def test_spans_arrive_at_the_receiver_with_ids_that_every_process_derives(receiver: Receiver) -> None:
    [span] = sent(receiver, [submission()])
    assert receiver.services == {"trim-api"}
    assert span.trace_id == PROBLEM.bytes
    assert span.parent_span_id == PROBLEM.bytes[8:]
    assert span.end_time_unix_nano - span.start_time_unix_nano == 5_000_000
    assert {each.key for each in span.attributes} >= {"openinference.span.kind", "session.id"}


def test_spans_reach_a_receiver_on_this_machine_without_the_proxy_of_the_environment(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert len(sent(receiver, [submission()])) == 1


def test_a_submission_links_to_the_trace_of_its_caller(receiver: Receiver) -> None:
    linked, unlinked = sent(receiver, [submission(CALLER), submission("00-nonsense")])
    assert [each.trace_id.hex() for each in linked.links] == [CALLER.split("-")[1]]
    assert not unlinked.links


@pytest.mark.parametrize("trace_texts", [False, True])
def test_texts_leave_the_process_only_where_the_settings_allow_it(
    trace_texts: bool, recorder: Recorder, receiver: Receiver
) -> None:
    solved()
    arrived = sent(receiver, recorder.spans, trace_texts=trace_texts)
    assert len(arrived) == len(recorder.spans)
    assert ("6 * 7" in str(arrived)) is trace_texts


def test_a_receiver_that_is_away_costs_spans_and_nothing_else() -> None:
    exporter = OtlpExporter(Settings(otlp_url="http://127.0.0.1:9"), role="api")
    exporter.export(submission())
    exporter.close()


def test_all_processes_trace_the_same_share_of_the_problems() -> None:
    first, second = tracing.Tracing(), tracing.Tracing()
    problems = [UUID(bytes=PROBLEM.bytes[:8] + uuid4().bytes[8:]) for _ in range(2000)]
    assert not any(map(first.covers, problems))
    for each in (first, second):
        each.start(Recorder(), share=0.25)
    chosen = list(map(first.covers, problems))
    assert chosen == list(map(second.covers, problems))
    assert sum(chosen) == pytest.approx(500, abs=120)


@pytest.mark.parametrize("url", [None, ""])
def test_without_a_receiver_nothing_is_traced(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    monkeypatch.setattr(tracing.TRACING, "start", lambda *_, **__: pytest.fail("it has no receiver"))
    tracing.configure(Settings(otlp_url=url), role="api")


def test_a_receiver_without_the_libraries_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "shared.observe.otlp", None)
    with pytest.raises(TracingNotInstalled, match="otel"):
        tracing.configure(Settings(otlp_url="http://127.0.0.1:4318"), role="api")


def test_the_page_lists_every_span_with_its_kind(recorder: Recorder) -> None:
    solved()
    page = (ROOT / "docs" / "operations" / "tracing.md").read_text()
    listed = {
        (name, kind)
        for names, kind in re.findall(r"^\| (`.+`) \| `([A-Z]+)` \|", page, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", names)
    }
    assert {(each.name, each.kind.value) for each in [*recorder.spans, submission()]} == listed
