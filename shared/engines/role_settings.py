"""The settings of one role: the names of `Settings` fields that begin with the role's."""

from __future__ import annotations

from shared.domain.roles import WorkerRole
from shared.engines.thinking import Thinking
from shared.parameters import Parameters
from shared.settings import Settings


def model_of(settings: Settings, role: WorkerRole) -> str:
    """Return the folder or name of a role's model."""
    model: str = getattr(settings, f"{role}_model")
    return model


def has_own_model(settings: Settings, role: WorkerRole) -> bool:
    """Tell whether a role's model was set, and is not the bundled one by default."""
    return f"{role}_model" in settings.model_fields_set


def url_of(settings: Settings, role: WorkerRole) -> str | None:
    """Return the base URL of a role's server."""
    url: str | None = getattr(settings, f"{role}_url")
    return url


def model_variable(role: WorkerRole) -> str:
    """Return the environment variable that names a role's model."""
    return f"TRIM_{role.upper()}_MODEL"


def url_variable(role: WorkerRole) -> str:
    """Return the environment variable that holds the base URL of a role's server."""
    return f"TRIM_{role.upper()}_URL"


def parameters_of(settings: Settings, role: WorkerRole) -> Parameters:
    """Return how the requests to a role's server differ from those that a worker makes by itself."""
    parameters: Parameters | None = getattr(settings, f"{role}_parameters")
    return parameters or Parameters()


def parameters_variable(role: WorkerRole) -> str:
    """Return the environment variable that holds the parameters of a role's server."""
    return f"TRIM_{role.upper()}_PARAMETERS"


def thinking_of(settings: Settings, role: WorkerRole) -> Thinking | None:
    """Return what becomes of what a role's model thinks; `None` if the settings do not choose."""
    thinking: Thinking | None = getattr(settings, f"{role}_thinking")
    return thinking


def thinking_variable(role: WorkerRole) -> str:
    """Return the environment variable that chooses what becomes of what a role's model thinks."""
    return f"TRIM_{role.upper()}_THINKING"
