"""Stores a batch, and responds with it: what the two ways to submit one have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from fastapi import Request, Response, status

from services.api.counting import count_submitted
from services.api.errors import found
from services.api.presenting import show_batch
from services.api.schemas.problems import Batch, RejectedField, SubmittedBatch
from services.api.tracing import export_submission
from shared.heartbeats import silence_s
from shared.settings import Settings
from shared.store import batches
from shared.store.database import Database
from shared.store.submissions import Idempotency, Stored, Submissions, submit_batch


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A batch that was stored, now or by an earlier request."""

    stored: Stored
    shown: Batch
    problem_ids: Sequence[UUID]

    def respond(
        self,
        request: Request,
        response: Response,
        settings: Settings,
        *,
        received: int,
        errors: Sequence[RejectedField] = (),
        rejected: int = 0,
    ) -> SubmittedBatch:
        """Count and trace a new batch, and return the response to its request."""
        count_submitted(self.stored)
        response.headers["Location"] = self.shown.links["self"]
        if not self.stored.is_new:
            response.status_code = status.HTTP_200_OK
        else:
            export_submission(request, self.problem_ids)
        return SubmittedBatch(
            **self.shown.model_dump(),
            problem_ids=list(self.problem_ids) if len(self.problem_ids) <= settings.max_batch_size else None,
            received=received,
            accepted=received - rejected,
            rejected=rejected,
            errors=list(errors),
        )


def store_batch(
    database: Database,
    settings: Settings,
    *,
    tenant_id: UUID,
    submissions: Submissions,
    idempotency: Idempotency | None,
    root_path: str,
) -> StoredBatch:
    """Store a batch in one transaction, and read it back; or read the one that an earlier request with the key made.

    Raises:
        IdempotencyConflict: The key belongs to another request.
        UnknownVersion, RetiredVersion, NoDefault, ModelsUnknown: See `submit_problem`.
    """
    with database.session() as session:
        stored = submit_batch(
            session,
            tenant_id,
            submissions,
            idempotency,
            silence_s=silence_s(settings),
            max_queued=settings.tenant_max_queued,
        )
        return StoredBatch(
            stored=stored,
            shown=show_batch(found(batches.read_batch(session, tenant_id, stored.id)), root_path),
            problem_ids=batches.list_batch_ids(session, tenant_id, stored.id),
        )
