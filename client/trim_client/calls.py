"""The requests of the API as values: what is sent, and how the answer is read. No input or output."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, TypeAlias, TypeVar, Unpack
from urllib.parse import quote
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from trim_client.errors import Answer, error_of, not_the_service
from trim_client.models.base import Page
from trim_client.models.health import Liveness, Readiness
from trim_client.models.policies import PolicyArtefact, PolicyDescription, PolicyVersion
from trim_client.models.problems import Batch, CancelledBatch, ListedBatch, Problem, SubmittedBatch
from trim_client.models.record import AuditEntry, Decision, Step
from trim_client.options import Conditions, body_of

T = TypeVar("T")
Item = TypeVar("Item")

Id: TypeAlias = UUID | str
"""Id of a problem or batch."""

PAGE: Final = 200
"""Maximum number of items of one page."""

UNAVAILABLE: Final = 503
OK: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request. It may be sent again: what must not happen twice carries an idempotency key."""

    method: str
    path: str
    read: Callable[[Answer], T]
    query: Mapping[str, Any] = field(default_factory=dict)
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    accepts: frozenset[int] = frozenset()
    """Statuses of refusals whose body is nevertheless of the kind that `read` expects."""
    takes_s: float = 0.0
    """Seconds that the service may take for the answer, in addition to the client's time limit."""

    def result_of(self, answer: Answer, *, address: str) -> T:
        """Read an answer.

        Raises:
            Refused: The request was refused.
            NotTheService: The answer is not this API's.
        """
        if not answer.is_success and answer.status not in self.accepts:
            raise error_of(answer, address=address)
        try:
            return self.read(answer)
        except ValidationError as error:
            if not answer.is_success:
                raise error_of(answer, address=address) from None
            raise not_the_service(answer, address=address) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[Item]):
    """A listing, which is read page by page."""

    path: str
    read: Callable[[Answer], Page[Item]]
    query: Mapping[str, Any] = field(default_factory=dict)

    def page(self, *, cursor: str | None, size: int) -> Call[Page[Item]]:
        """Return the request for a page; without a cursor, the first one."""
        place = {} if cursor is None else {"cursor": cursor}
        return Call(method="GET", path=self.path, read=self.read, query={**self.query, **place, "limit": size})


def _reader(kind: type[T] | Any) -> Callable[[Answer], T]:
    adapter: TypeAdapter[T] = TypeAdapter(kind)
    return lambda answer: adapter.validate_json(answer.content)


_read_any: Callable[[Answer], Any] = _reader(Any)
_read_problem: Callable[[Answer], Problem] = _reader(Problem)
_read_problems: Callable[[Answer], Page[Problem]] = _reader(Page[Problem])
_read_batch: Callable[[Answer], Batch] = _reader(Batch)
_read_batches: Callable[[Answer], Page[ListedBatch]] = _reader(Page[ListedBatch])
_read_cancelled: Callable[[Answer], CancelledBatch] = _reader(CancelledBatch)
_read_submitted: Callable[[Answer], SubmittedBatch] = _reader(SubmittedBatch)
_read_steps: Callable[[Answer], Page[Step]] = _reader(Page[Step])
_read_decisions: Callable[[Answer], Page[Decision]] = _reader(Page[Decision])
_read_audit: Callable[[Answer], Page[AuditEntry]] = _reader(Page[AuditEntry])
_read_policies: Callable[[Answer], list[PolicyDescription]] = _reader(list[PolicyDescription])
_read_version: Callable[[Answer], PolicyVersion] = _reader(PolicyVersion)
_read_versions: Callable[[Answer], Page[PolicyVersion]] = _reader(Page[PolicyVersion])
_read_artefact: Callable[[Answer], PolicyArtefact] = _reader(PolicyArtefact)
_read_liveness: Callable[[Answer], Liveness] = _reader(Liveness)
_read_readiness: Callable[[Answer], Readiness] = _reader(Readiness)


# Problems


def submit_problem(
    question: str, reference: str | float | None, options: Mapping[str, Any], key: str | None
) -> Call[Problem]:
    """Submit a problem; the same key with the same content returns the problem of the first request."""
    body = body_of({"question": question, **options})
    if reference is not None:
        body["reference"] = reference
    return Call(method="POST", path="/v1/problems", body=body, headers=_keyed(key), read=_read_problem)


def problem(problem_id: Id, *, wait_s: float = 0.0) -> Call[Problem]:
    """Read a problem, at once or when it ends."""
    query = {"wait_s": round(wait_s, 3)} if wait_s > 0 else {}
    return Call(method="GET", path=problem_path(problem_id), query=query, takes_s=wait_s, read=_read_problem)


def cancel_problem(problem_id: Id) -> Call[Problem]:
    """Cancel a problem. One that has ended stays as it is."""
    return Call(method="POST", path=f"{problem_path(problem_id)}/cancel", read=_read_problem)


def problems(**conditions: Unpack[Conditions]) -> Listing[Problem]:
    """List problems, newest first."""
    query = _given(**{name: _condition(name, value) for name, value in conditions.items()})
    return Listing(path="/v1/problems", query=query, read=_read_problems)


def steps(problem_id: Id) -> Listing[Step]:
    """List the accepted steps of a problem."""
    return Listing(path=f"{problem_path(problem_id)}/steps", read=_read_steps)


def decisions(problem_id: Id) -> Listing[Decision]:
    """List the decisions on a problem."""
    return Listing(path=f"{problem_path(problem_id)}/decisions", read=_read_decisions)


def audit(problem_id: Id) -> Listing[AuditEntry]:
    """List the decisions on a problem, each beside the step at its place."""
    return Listing(path=f"{problem_path(problem_id)}/audit", read=_read_audit)


def problem_path(problem_id: Id) -> str:
    """Return the path of a problem.

    Raises:
        ValueError: The text is not an id.
    """
    return f"/v1/problems/{_uuid(problem_id)}"


# Batches


def submit_batch(
    problems: Iterable[str | Mapping[str, Any]], defaults: Mapping[str, Any], key: str | None, on_error: str | None
) -> Call[SubmittedBatch]:
    """Submit problems together; the same key with the same content returns the batch of the first request."""
    body = {
        "problems": [{"question": each} if isinstance(each, str) else body_of(dict(each)) for each in problems],
        "defaults": body_of(dict(defaults)),
    }
    query = _given(on_error=on_error)
    return Call(method="POST", path="/v1/batches", query=query, body=body, headers=_keyed(key), read=_read_submission)


def batch(batch_id: Id) -> Call[Batch]:
    """Read a batch with the sums over its problems."""
    return Call(method="GET", path=_batch_path(batch_id), read=_read_batch)


def cancel_batch(batch_id: Id) -> Call[CancelledBatch]:
    """Cancel the problems of a batch that have not ended."""
    return Call(method="POST", path=f"{_batch_path(batch_id)}/cancel", read=_read_cancelled)


def batches() -> Listing[ListedBatch]:
    """List batches, newest first."""
    return Listing(path="/v1/batches", read=_read_batches)


def batch_problems(batch_id: Id) -> Listing[Problem]:
    """List the problems of a batch in order of submission."""
    return Listing(path=f"{_batch_path(batch_id)}/problems", read=_read_problems)


def _batch_path(batch_id: Id) -> str:
    return f"/v1/batches/{_uuid(batch_id)}"


def _read_submission(answer: Answer) -> SubmittedBatch:
    return _read_submitted(answer).model_copy(update={"was_submitted_before": answer.status == OK})


# Policies


def policies() -> Call[list[PolicyDescription]]:
    """List the policies that a submission can name."""
    return Call(method="GET", path="/v1/policies", read=_read_policies)


def default_version(name: str) -> Call[PolicyVersion]:
    """Read the default version of a policy for the running models."""
    return Call(method="GET", path=f"{_policy_path(name)}/default", read=_read_version)


def version(name: str, number: int) -> Call[PolicyVersion]:
    """Read a version of a fitted policy."""
    return Call(method="GET", path=_version_path(name, number), read=_read_version)


def versions(name: str, *, is_default: bool | None) -> Listing[PolicyVersion]:
    """List the versions of a fitted policy, newest first."""
    query = _given(is_default=None if is_default is None else str(is_default).lower())
    return Listing(path=f"{_policy_path(name)}/versions", query=query, read=_read_versions)


def artefact(name: str, number: int) -> Call[PolicyArtefact]:
    """Read the artefact of a version."""
    return Call(method="GET", path=f"{_version_path(name, number)}/artefact", read=_read_artefact)


def register_version(name: str, card: Mapping[str, Any], npz: bytes) -> Call[PolicyVersion]:
    """Register an artefact; one that is known keeps its number."""
    body = {"card": dict(card), "arrays": base64.b64encode(npz).decode()}
    return Call(method="POST", path=f"{_policy_path(name)}/versions", body=body, read=_read_version)


def make_default(name: str, number: int) -> Call[PolicyVersion]:
    """Make a version the default for its models."""
    return Call(method="POST", path=f"{_version_path(name, number)}/default", read=_read_version)


def retire(name: str, number: int) -> Call[PolicyVersion]:
    """Withdraw a version from new submissions."""
    return Call(method="POST", path=f"{_version_path(name, number)}/retire", read=_read_version)


def _policy_path(name: str) -> str:
    return f"/v1/policies/{quote(name, safe='')}"


def _version_path(name: str, number: int) -> str:
    return f"{_policy_path(name)}/versions/{number:d}"


# Health, and anything else


def live() -> Call[Liveness]:
    """Confirm that the service answers."""
    return Call(method="GET", path="/health/live", read=_read_liveness)


def ready() -> Call[Readiness]:
    """Read which parts of the service are up. A service that refuses submissions answers with 503, and with them."""
    accepts = frozenset({UNAVAILABLE})
    return Call(method="GET", path="/health/ready", read=_read_readiness, accepts=accepts)


def anything(
    method: str, path: str, *, query: Mapping[str, Any], body: object, headers: Mapping[str, str]
) -> Call[Any]:
    """Send a request whose answer is any JSON."""
    return Call(method=method, path=path, query=query, body=body, headers=headers, read=_read_any)


def any_listing(path: str, query: Mapping[str, Any]) -> Listing[dict[str, Any]]:
    """Read a listing whose items are any objects."""
    return Listing(path=path, query=query, read=_reader(Page[dict[str, Any]]))


def _keyed(key: str | None) -> Mapping[str, str]:
    """Return the header that makes a repeated submission return what the first one made."""
    return {"Idempotency-Key": uuid.uuid4().hex if key is None else key}


def _uuid(text: Id) -> UUID:
    if isinstance(text, UUID):
        return text
    try:
        return UUID(text)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is no id such as 0193ad2e-6a1c-7cc3-98c4-dc0c0c07398f") from None


def _condition(name: str, value: object) -> str | list[str] | None:
    """Return a condition of a listing as a query has it."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat()
    if name == "batch_id":
        return str(_uuid(str(value)))
    return str(value) if isinstance(value, str) or not isinstance(value, Iterable) else [str(each) for each in value]


def _given(**values: str | list[str] | None) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
