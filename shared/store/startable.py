"""The kinds of plans with which queued problems may start while roles are away, as parameters of admission."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import StrEnum
from itertools import product
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    TableValuedAlias,
    Text,
    any_,
    bindparam,
    column,
    func,
    literal_column,
    or_,
)
from sqlalchemy.types import TypeEngine

from shared.domain.options import Bridging, Plan, WhenLargeAway, WhenPrmAway, WhenSmallAway
from shared.domain.roles import WorkerRole
from shared.machine.admitting import missed_roles
from shared.store.tables import Problem

_MODES: Final[dict[WorkerRole, type[StrEnum]]] = {
    WorkerRole.SMALL: WhenSmallAway,
    WorkerRole.LARGE: WhenLargeAway,
    WorkerRole.PRM: WhenPrmAway,
}
_KIND_COLUMNS: Final[dict[str, TypeEngine[Any]]] = {
    **{name: Text() for name in ("drafts", "scores", "escalates")},
    "bridges": Boolean(),
    **{role.value: Text() for role in WorkerRole},
}
KINDS: Final = (
    func.unnest(*(bindparam(name, type_=ARRAY(kind)) for name, kind in _KIND_COLUMNS.items()))
    .table_valued(*(column(name, kind) for name, kind in _KIND_COLUMNS.items()))
    .render_derived(name="kinds")
)
"""The kinds, one a row: what its plan needs, whether its problems have choices for absent roles, and for each role that
they would miss the modes that go on without it."""


def list_startable(away: Collection[WorkerRole], *, is_crowded: bool) -> dict[str, list[Any]]:
    """List the kinds of plans that may start, column by column.

    A problem with choices for absent roles may start if it chose, for each role that it would miss, one of the modes
    that go on without the role.
    """
    kinds: list[dict[str, Any]] = []
    for drafts, scores, escalates, bridges in product((True, False), repeat=4):
        plan = Plan(drafts=drafts, scores=scores, escalates=escalates)
        missed = missed_roles(plan, away, is_crowded=is_crowded)
        if missed and not bridges:
            continue
        modes = {role: [each for each in kind if _bridges(role, each, plan)] for role, kind in _MODES.items()}
        kinds.append({
            "drafts": str(drafts).lower(),
            "scores": str(scores).lower(),
            "escalates": str(escalates).lower(),
            "bridges": bridges,
            **{role.value: ",".join(modes[role]) if role in missed else None for role in WorkerRole},
        })  # fmt: skip
    return {name: [kind[name] for kind in kinds] for name in _KIND_COLUMNS}


def _bridges(role: WorkerRole, mode: StrEnum, plan: Plan) -> bool:
    chosen: dict[str, Any] = {f"when_{role}_away": mode}
    return Bridging(**chosen).bridges(role, plan)


def is_of_kind(waiting: type[Problem], kinds: TableValuedAlias) -> Iterator[ColumnElement[bool]]:
    """Compare with a kind as the index `ix_problems_queued_plan` is written."""
    for name in ("drafts", "scores", "escalates"):
        yield waiting.options.op("#>>", return_type=Text())(literal_column(f"'{{plan,{name}}}'")) == kinds.c[name]
    yield waiting.options.op("?", return_type=Boolean())(literal_column("'bridging'")) == kinds.c.bridges
    for role in WorkerRole:
        chosen = waiting.options["bridging"][f"when_{role}_away"].astext
        yield or_(kinds.c[role.value].is_(None), chosen == any_(func.string_to_array(kinds.c[role.value], ",")))
