"""What the api reports to the traces of problems: their submission."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from fastapi import Request

from shared.clock import SYSTEM_CLOCK
from shared.observe import spans
from shared.observe.tracing import TRACING


def export_submission(request: Request, problem_ids: Iterable[UUID]) -> None:
    """Export the span of a submission, which is stored, for each of its problems.

    It links to the caller's own trace, if the request names one.
    """
    for problem_id in problem_ids:
        if TRACING.covers(problem_id):
            TRACING.export(
                spans.submission(
                    problem_id,
                    received_at=request.scope["trim.received_at"],
                    stored_at=SYSTEM_CLOCK.now(),
                    traceparent=request.headers.get("traceparent"),
                )
            )
