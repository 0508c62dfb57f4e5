"""The server and the model of a role, as the settings name them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from shared.domain.roles import WorkerRole
from shared.engines.role_settings import (
    has_own_model,
    model_of,
    model_variable,
    parameters_of,
    parameters_variable,
    thinking_variable,
    url_of,
    url_variable,
)
from shared.parameters import Parameters
from shared.settings import MissingSetting, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model on a server, and the settings that chose them, for error messages."""

    url: str
    """Base URL, without a trailing slash."""
    url_setting: str
    model: str
    model_setting: str
    style_setting: str
    """The setting that chooses how the model is prompted."""
    api_key: str | None = field(default=None, repr=False)
    parameters: Parameters = field(default_factory=Parameters)
    """How the requests differ from those that a worker makes by itself."""
    parameters_setting: str = "TRIM_SMALL_PARAMETERS"
    thinking_setting: str = "TRIM_SMALL_THINKING"

    @classmethod
    def of(cls, settings: Settings, role: WorkerRole) -> Self:
        """Read a role's endpoint from the settings.

        Raises:
            MissingSetting: The URL or the name of the model is not set.
        """
        url = url_of(settings, role)
        if not url:
            raise MissingSetting(f"{url_variable(role)} is not set; set it to something like http://127.0.0.1:8000/v1.")
        if not has_own_model(settings, role):  # The default is a folder, which no server knows.
            raise MissingSetting(f"{model_variable(role)} is not set; set it to the model's name on the server.")
        key = settings.openai_api_key
        return cls(
            url=url,
            url_setting=url_variable(role),
            model=model_of(settings, role),
            model_setting=model_variable(role),
            style_setting="TRIM_PRM_FORMAT" if role is WorkerRole.PRM else "TRIM_PROMPT_STYLE",
            api_key=key.get_secret_value() if key is not None else None,
            parameters=parameters_of(settings, role),
            parameters_setting=parameters_variable(role),
            thinking_setting=thinking_variable(role),
        )
