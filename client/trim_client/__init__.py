"""Python client for TRIM as a service: step-level routing between a small and a large language model.

from trim_client import Client

with Client("http://127.0.0.1:8080") as client:
    problem = client.problems.solve("...", policy="threshold:threshold=0.5")
    print(problem.answer, problem.ledger.large_out)
"""

from __future__ import annotations

from trim_client.async_client import AsyncClient
from trim_client.client import Client
from trim_client.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    NotTheService,
    RateLimited,
    Refused,
    ServiceFailed,
    TrimClientError,
    Unauthenticated,
    Unavailable,
    Unreachable,
    UnusableProxy,
    WaitTimedOut,
)
from trim_client.events import DecisionMade, Ended, Event, StepAccepted
from trim_client.models.health import Readiness
from trim_client.models.policies import PolicyArtefact, PolicyDescription, PolicyVersion
from trim_client.models.problems import Batch, CancelledBatch, Ledger, ListedBatch, Problem, SubmittedBatch
from trim_client.models.record import AuditEntry, Decision, Draft, Observation, Step
from trim_client.options import Conditions, NewProblem, Options, PolicyChoice
from trim_client.policy_text import BadPolicyText, parse_policy
from trim_client.version import VERSION

__version__ = VERSION

__all__ = [
    "AsyncClient",
    "AuditEntry",
    "BadPolicyText",
    "Batch",
    "CancelledBatch",
    "Client",
    "Conditions",
    "Conflict",
    "Decision",
    "DecisionMade",
    "Draft",
    "Ended",
    "Event",
    "Forbidden",
    "InvalidRequest",
    "Ledger",
    "ListedBatch",
    "NewProblem",
    "NotFound",
    "NotTheService",
    "Observation",
    "Options",
    "PolicyArtefact",
    "PolicyChoice",
    "PolicyDescription",
    "PolicyVersion",
    "Problem",
    "RateLimited",
    "Readiness",
    "Refused",
    "ServiceFailed",
    "Step",
    "StepAccepted",
    "SubmittedBatch",
    "TrimClientError",
    "Unauthenticated",
    "Unavailable",
    "Unreachable",
    "UnusableProxy",
    "WaitTimedOut",
    "__version__",
    "parse_policy",
]
