"""The exporter of spans over OTLP, on OpenTelemetry's SDK. Needs the extra `otel`."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from requests import Session

from shared.observe.spans import Attributes, Span
from shared.settings import Settings
from shared.this_machine import is_this_machine

_SCOPE = InstrumentationScope("trim")
_SPAN_ID_BITS = 64

EXPORT_TIMEOUT_S = 2.0
"""Seconds that one batch of spans has to reach the receiver, with all retries. A process that stops waits for it."""


class OtlpExporter:
    """Sends spans in batches from a separate thread; a full queue drops them.

    Further options, such as headers for a receiver that needs a key, are OpenTelemetry's own variables
    (`OTEL_EXPORTER_OTLP_HEADERS`, ...).
    """

    def __init__(self, settings: Settings, *, role: str, exporter: SpanExporter | None = None) -> None:
        """Connect.

        Args:
            settings: The receiver, and what it may learn.
            role: The process's role, which becomes the service's name.
            exporter: In place of the one that sends to the settings' receiver.
        """
        self._resource = Resource.create(
            {"service.name": f"trim-{role}", "service.namespace": "trim", "service.instance.id": settings.node_name}
        )
        self._has_texts = settings.trace_texts
        self._processor = BatchSpanProcessor(exporter or _sender(f"{settings.otlp_url}/v1/traces"))

    def export(self, span: Span) -> None:
        """Take a span; does not block."""
        texts: Attributes = span.texts if self._has_texts else {}
        attributes = {"openinference.span.kind": span.kind.value, "session.id": str(span.problem_id)}
        self._processor.on_end(
            ReadableSpan(
                name=span.name,
                context=_context(span, span.id.int),
                parent=None if span.parent_id is None else _context(span, span.parent_id.int),
                resource=self._resource,
                attributes={**attributes, **span.attributes, **texts},
                links=_links(span.traceparent),
                status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
                start_time=_nanoseconds(span.started_at),
                end_time=_nanoseconds(max(span.started_at, span.ended_at)),
                instrumentation_scope=_SCOPE,
            )
        )

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


def _sender(url: str) -> SpanExporter:
    session = Session()
    session.trust_env = not is_this_machine(urlsplit(url).hostname or "")
    return OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S, session=session)


def _context(span: Span, number: int) -> SpanContext:
    return SpanContext(
        trace_id=span.problem_id.int,
        span_id=number % (1 << _SPAN_ID_BITS),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _links(traceparent: str | None) -> list[Link]:
    if traceparent is None:
        return []
    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    caller = get_current_span(context).get_span_context()
    return [Link(caller)] if caller.is_valid else []


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1_000
