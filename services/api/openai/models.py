"""Endpoints for models: each is a policy, with its setting and version."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path
from sqlalchemy.orm import Session

from services.api.dependencies import WithDatabase, WithSettings
from services.api.openai.described import refusals
from services.api.openai.errors import UnknownModel
from services.api.openai.names import FITTED, PRESETS, name_of, read_name
from services.api.openai.responses import Model, ModelList, ModelPolicy
from services.api.route import CheckedRoute
from services.api.schemas.submissions import PolicyChoice
from shared.heartbeats import silence_s
from shared.store import policy_versions
from shared.store.policy_versions import ModelsUnknown, NoDefault, RetiredVersion, Running, UnknownVersion

CREATED: Final = 1_767_225_600
"""The first second of 2026. Clients demand a time, and presets have none: they are as old as the code."""

router = APIRouter(prefix="/v1/models", tags=["openai"], route_class=CheckedRoute)

ModelName = Annotated[str, Path(max_length=200, description="Name of the model.")]


@router.get("", responses=refusals(503))
def list_(database: WithDatabase, settings: WithSettings) -> ModelList:
    """List models: those that always exist, and fitted policies that have a default version for the running models."""
    with database.session() as session:
        running = policy_versions.running_models(session, silence_s=silence_s(settings))
        fitted = [_find_fitted(session, name_of(policy), PolicyChoice(name=policy), running) for policy in FITTED]
    presets = [_show(name, read_name(name)) for name in PRESETS]
    return ModelList(data=[*presets, *(each for each in fitted if each is not None)])


@router.get("/{model}", responses=refusals(404, 503))
def get(model: ModelName, database: WithDatabase, settings: WithSettings) -> Model:
    """Get a model: one that is listed, or any other that a request can name."""
    choice = read_name(model)
    if choice.name not in FITTED:
        return _show(model, choice)
    with database.session() as session:
        running = policy_versions.running_models(session, silence_s=silence_s(settings))
        try:
            return _show_fitted(session, model, choice, running)
        except (NoDefault, RetiredVersion, UnknownVersion) as error:
            raise UnknownModel(str(error)) from error


def _find_fitted(session: Session, model: str, choice: PolicyChoice, running: Running) -> Model | None:
    """Return a fitted policy's model; `None` if no request could use it now."""
    try:
        return _show_fitted(session, model, choice, running)
    except (NoDefault, ModelsUnknown):
        return None


def _show_fitted(session: Session, model: str, choice: PolicyChoice, running: Running) -> Model:
    number = policy_versions.choose_version(session, choice.name, choice.version, running=running)
    row = policy_versions.read_version(session, choice.name, number)
    policy = ModelPolicy(name=choice.name, parameters=choice.parameters, version=number)
    return Model(id=model, created=int(row.registered_at.timestamp()), trim=policy)


def _show(model: str, choice: PolicyChoice) -> Model:
    policy = ModelPolicy(name=choice.name, parameters=choice.parameters, version=None)
    return Model(id=model, created=CREATED, trim=policy)
