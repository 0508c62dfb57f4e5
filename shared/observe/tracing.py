"""Export of traces, for every process: off unless the settings name a receiver.

A process hands over finished spans and goes on; a thread sends them. Spans that the receiver does not take are dropped:
a trace may be incomplete, the record in the database never is.
"""

from __future__ import annotations

from typing import Final, Protocol
from uuid import UUID

from shared.errors import PermanentError
from shared.observe.spans import Span
from shared.settings import Settings

RANDOM_BITS: Final = 62
"""Bits at the end of a UUIDv7 that are random."""


class TracingNotInstalled(PermanentError):
    """TRIM_OTLP_URL is set, but the libraries are missing; install the extra `otel`, or unset it."""

    code = "tracing_not_installed"


class Exporter(Protocol):
    """Takes spans and sends them later."""

    def export(self, span: Span) -> None:
        """Take a span; does not block."""

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""


class Tracing:
    """The traces of this process."""

    def __init__(self) -> None:
        self._exporter: Exporter | None = None
        self._share = 1.0

    def start(self, exporter: Exporter, *, share: float) -> None:
        """Begin to export this share of all problems' spans."""
        self._exporter, self._share = exporter, share

    def close(self) -> None:
        """Send what is left and stop; safe to call at any time."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            exporter.close()

    def covers(self, problem_id: UUID) -> bool:
        """Tell whether spans of this problem are exported. All processes with the same share choose the same problems.

        Callers ask before they make spans: most deployments export none.
        """
        if self._exporter is None:
            return False
        return problem_id.int % (1 << RANDOM_BITS) < self._share * (1 << RANDOM_BITS)

    def export(self, *spans: Span) -> None:
        """Export the spans whose problems are covered."""
        for span in spans:
            if self._exporter is not None and self.covers(span.problem_id):
                self._exporter.export(span)


TRACING = Tracing()
"""The traces of this process. A process has one receiver, as it has one log."""


def configure(settings: Settings, *, role: str) -> None:
    """Export the traces of the process as the settings say. Call once, at the start.

    Raises:
        TracingNotInstalled: The settings name a receiver, and the libraries are missing.
    """
    if not settings.otlp_url:
        return
    try:
        from shared.observe.otlp import OtlpExporter  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise TracingNotInstalled from error
    TRACING.start(OtlpExporter(settings, role=role), share=settings.traced_share)
