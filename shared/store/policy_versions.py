"""The artefacts of policies: registered once and never changed, found by number, by default, or listed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session, undefer

from shared.domain.artefacts import EncodedArtefact, ModelIds
from shared.domain.roles import WorkerRole
from shared.errors import PermanentError, RetryableError
from shared.store.policy_tables import PolicyVersionRow
from shared.store.process_table import Process

Running = Mapping[WorkerRole, Collection[str]]
"""The models that are running, by role: none of a role whose models are unknown."""

_REGISTRATION_LOCK: Final = 0x7472_6970
"""Advisory lock: versions are numbered one registration at a time."""


class UnknownVersion(PermanentError):
    """The policy has no such version; GET /v1/policies/{name}/versions lists them."""

    code = "unknown_policy_version"


class RetiredVersion(PermanentError):
    """The version is retired; GET /v1/policies/{name}/versions lists the others."""

    code = "policy_version_retired"


class NoDefault(PermanentError):
    """The policy has no default version for the running models; name a version, or make one the default."""

    code = "no_default_policy_version"


class ModelsUnknown(RetryableError):
    """The policy has default versions for several models, and a worker has yet to report its model; try again."""

    code = "running_models_unknown"


class Registered(NamedTuple):
    """Outcome of a registration."""

    version: int
    is_new: bool
    """Whether the artefact was not registered before."""


def register(session: Session, artefact: EncodedArtefact, *, supersedes: str | None = None) -> Registered:
    """Register an artefact under the next number of its policy; one that is known keeps its number.

    The first artefact of a policy for certain models becomes the default for them.

    Args:
        session: The session.
        artefact: The artefact.
        supersedes: Command; a new artefact becomes the default in place of one that this command made.
    """
    session.execute(select(func.pg_advisory_xact_lock(_REGISTRATION_LOCK)))
    known = session.scalar(select(PolicyVersionRow).where(PolicyVersionRow.digest == artefact.digest))
    if known is not None:
        return Registered(known.version, is_new=False)
    newest = session.scalar(
        select(func.max(PolicyVersionRow.version)).where(PolicyVersionRow.policy == artefact.policy)
    )
    row = PolicyVersionRow(
        policy=artefact.policy,
        version=(newest or 0) + 1,
        digest=artefact.digest,
        card=json.loads(artefact.card),
        arrays=artefact.arrays,
        small_model=artefact.models.small,
        large_model=artefact.models.large,
        prm_model=artefact.models.prm,
        is_default=False,
    )
    session.add(row)
    session.flush()
    if all(each.card["command"] == supersedes for each in _defaults(session, row.policy, _only(artefact.models))):
        _replace_default(session, row)
    return Registered(row.version, is_new=True)


def read_version(session: Session, policy: str, version: int, *, with_arrays: bool = False) -> PolicyVersionRow:
    """Read one version.

    Raises:
        UnknownVersion: There is none of this number.
    """
    options = [undefer(PolicyVersionRow.arrays)] if with_arrays else []
    found = session.get(PolicyVersionRow, (policy, version), options=options)
    if found is None:
        raise UnknownVersion(
            f"The policy {policy!r} has no version {version}; GET /v1/policies/{policy}/versions lists them."
        )
    return found


def choose_version(session: Session, policy: str, version: int | None, *, running: Running) -> int:
    """Choose the version for a submission: the one that it names, or the default.

    Args:
        session: The session.
        policy: Name of the policy.
        version: Number that the submission names, if it does.
        running: The models that are running.

    Raises:
        UnknownVersion: There is none of this number.
        RetiredVersion: It is retired.
        NoDefault: There is no default, or more than one.
        ModelsUnknown: There is more than one, and no worker of a role has reported its model.
    """
    if version is not None:
        if read_version(session, policy, version).retired_at is not None:
            raise RetiredVersion(
                f"Version {version} of the policy {policy!r} is retired; GET /v1/policies/{policy}/versions lists the"
                " others."
            )
        return version
    defaults = _defaults(session, policy, running)
    for role, models in running.items():
        if not models and len({getattr(_models_of(each), role) for each in defaults}) > 1:
            raise ModelsUnknown(
                f"The policy {policy!r} has default versions for several {role} models, and no {role} worker has"
                " reported its model; try again when one runs, or name a version."
            )
    if len(defaults) != 1:
        count = "no" if not defaults else "more than one"
        names = ", ".join(sorted(set().union(*running.values()))) or "none"
        raise NoDefault(
            f"The policy {policy!r} has {count} default version for the running models ({names}); name a version that"
            f" GET /v1/policies/{policy}/versions lists, or fit one."
        )
    return defaults[0].version


def make_default(session: Session, policy: str, version: int) -> PolicyVersionRow:
    """Make a version the default for its models, in place of the present one.

    Raises:
        UnknownVersion: There is none of this number.
        RetiredVersion: It is retired.
    """
    session.execute(select(func.pg_advisory_xact_lock(_REGISTRATION_LOCK)))
    found = read_version(session, policy, version)
    if found.retired_at is not None:
        raise RetiredVersion(f"Version {version} of the policy {policy!r} is retired, so it cannot be the default.")
    _replace_default(session, found)
    return found


def retire(session: Session, policy: str, version: int, *, now: datetime) -> PolicyVersionRow:
    """Withdraw a version from new submissions; problems that have it keep it. A retired version stays retired.

    Raises:
        UnknownVersion: There is none of this number.
    """
    session.execute(select(func.pg_advisory_xact_lock(_REGISTRATION_LOCK)))
    found = read_version(session, policy, version)
    if found.retired_at is None:
        found.retired_at, found.is_default = now, False
        session.flush()
    return found


def read_artefact(session: Session, policy: str, version: int) -> EncodedArtefact | None:
    """Read an artefact with its arrays; `None` if there is none of this number."""
    try:
        row = read_version(session, policy, version, with_arrays=True)
    except UnknownVersion:
        return None
    return EncodedArtefact(
        policy=policy, digest=row.digest, card=json.dumps(row.card), arrays=row.arrays, models=_models_of(row)
    )


def running_models(session: Session, *, silence_s: float) -> Running:
    """List the models whose workers sent a heartbeat in the last seconds, or where none did, the latest model."""
    is_recent = Process.seen_at >= func.now() - timedelta(seconds=silence_s)
    beats = select(Process.role, Process.model, is_recent).where(Process.role.in_(WorkerRole))
    running: dict[WorkerRole, set[str]] = {role: set() for role in WorkerRole}
    for role, model, counts in session.execute(beats.order_by(Process.seen_at.desc())):
        known = running[WorkerRole(role)]
        if model is not None and (counts or not known):
            known.add(model)
    return running


def _defaults(session: Session, policy: str, running: Running) -> Sequence[PolicyVersionRow]:
    """Find a policy's defaults for the running models; where these are unknown, any will do."""
    columns = {
        WorkerRole.SMALL: PolicyVersionRow.small_model,
        WorkerRole.LARGE: PolicyVersionRow.large_model,
        WorkerRole.PRM: PolicyVersionRow.prm_model,
    }
    statement = select(PolicyVersionRow).where(PolicyVersionRow.policy == policy, PolicyVersionRow.is_default)
    for role, models in running.items():
        if models:
            statement = statement.where(columns[role].in_(models))
    return session.scalars(statement).all()


def _replace_default(session: Session, row: PolicyVersionRow) -> None:
    """Make a version the default for its models; the caller holds the lock of registrations."""
    for present in _defaults(session, row.policy, _only(_models_of(row))):
        present.is_default = False
    session.flush()  # The index allows one default at a time.
    row.is_default = True
    session.flush()


def _models_of(row: PolicyVersionRow) -> ModelIds:
    return ModelIds(small=row.small_model, large=row.large_model, prm=row.prm_model)


def _only(models: ModelIds) -> Running:
    return {WorkerRole.SMALL: {models.small}, WorkerRole.LARGE: {models.large}, WorkerRole.PRM: {models.prm}}
