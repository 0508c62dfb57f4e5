"""Names of settings: a variable with the prefix of the settings that names none of them is refused."""

from __future__ import annotations

import os
from collections.abc import Collection

from pydantic_settings import BaseSettings

from shared.errors import PermanentError
from shared.spelling import nearest

FILE = "_FILE"
"""End of the name of a variable that holds the path of a setting's file."""

OTHER_VARIABLES = frozenset({"TRIM_SERVER", "TRIM_API_KEY", "TRIM_API_KEY_FILE"})
"""Variables that are no settings of a process: address and key of the service, for the `trim` command."""

OF_TESTS = "TRIM_TEST_"
"""Prefix of the variables for the tests."""


class UnknownSetting(PermanentError):
    """A variable has the prefix of the settings and names none of them; correct it or remove it."""

    code = "unknown_setting"


def check_setting_names(settings: type[BaseSettings]) -> None:
    """Check that every variable with the prefix of the settings names one of them, in upper or lower case.

    Raises:
        UnknownSetting: A variable names none; the message names the nearest one.
    """
    prefix = str(settings.model_config["env_prefix"]).upper()
    names = {f"{prefix}{name.upper()}" for name in settings.model_fields}
    known = names | {f"{name}{FILE}" for name in names} | OTHER_VARIABLES
    for variable in sorted(os.environ):
        if variable.upper().startswith(OF_TESTS) or not variable.upper().startswith(prefix):
            continue
        if variable.upper() not in known:
            raise UnknownSetting(_refusal(variable, known))


def _refusal(variable: str, known: Collection[str]) -> str:
    near = nearest(variable.upper(), sorted(known))
    advice = f"did you mean {near}?" if near else "remove it; docs/settings.md lists the settings."
    return f"{variable} is not a setting; {advice}"
