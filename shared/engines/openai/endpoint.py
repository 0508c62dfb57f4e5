"""Where a role's model is served, as the settings say it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

from shared.settings import MissingSetting, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model on a server, and the names of the settings that say so, for messages."""

    url: str
    """Base URL, without a slash at its end."""
    url_setting: str
    model: str
    model_setting: str
    style_setting: str
    """The setting that says how the model is asked."""
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, settings: Settings, role: Literal["small", "large", "prm"]) -> Self:
        """Read a role's endpoint from the settings.

        Raises:
            MissingSetting: Its URL or the model's name is not set.
        """
        url, model = {
            "small": (settings.small_url, settings.small_model),
            "large": (settings.large_url, settings.large_model),
            "prm": (settings.prm_url, settings.prm_model),
        }[role]
        url_setting, model_setting = f"TRIM_{role.upper()}_URL", f"TRIM_{role.upper()}_MODEL"
        if not url:
            raise MissingSetting(f"{url_setting} is not set; set it to something like http://127.0.0.1:8000/v1.")
        if f"{role}_model" not in settings.model_fields_set:  # the default is a folder, which no server knows
            raise MissingSetting(f"{model_setting} is not set; set it to the model's name on the server.")
        key = settings.openai_api_key
        return cls(
            url=url,
            url_setting=url_setting,
            model=model,
            model_setting=model_setting,
            style_setting="TRIM_PRM_FORMAT" if role == "prm" else "TRIM_PROMPT_STYLE",
            api_key=key.get_secret_value() if key is not None else None,
        )
