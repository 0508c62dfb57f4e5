"""Settings from files: `TRIM_X_FILE` is the path of a file that holds `TRIM_X`, such as a mounted secret."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic_settings import BaseSettings

from shared.errors import PermanentError
from shared.setting_names import FILE

MAX_FILE_BYTES = 1_048_576
"""Largest file of a setting; a wrong path may lead to a file without end."""


class UnusableSettingFile(PermanentError):
    """The file of a setting cannot be used."""

    code = "unusable_setting_file"


def read_setting_files(settings: type[BaseSettings]) -> dict[str, str]:
    """Read every file that a variable in `_FILE` names; return the values by the names of their fields.

    Raises:
        UnusableSettingFile: A variable names no usable file, or the setting has a value as well.
    """
    # Variables and settings are compared in one case, as pydantic does.
    environment = {name.upper(): value for name, value in os.environ.items()}
    prefix = str(settings.model_config["env_prefix"]).upper()
    variables = {f"{prefix}{name.upper()}": name for name in settings.model_fields}
    values: dict[str, str] = {}
    for setting, name in variables.items():
        variable = f"{setting}{FILE}"
        # A setting whose own name ends in _FILE is no path of another one.
        if variable not in environment or variable in variables:
            continue
        if setting in environment:
            raise UnusableSettingFile(f"{setting} and {variable} are both set; remove one of them.")
        values[name] = read_setting_file(variable, environment[variable])
    return values


def read_setting_file(variable: str, path: str) -> str:
    """Read a file without its last line break. Errors never quote the content: it may be a password.

    Args:
        variable: What names the path, for errors.
        path: Path of the file.

    Raises:
        UnusableSettingFile: It cannot be read, or holds nothing.
    """
    if not path:
        raise UnusableSettingFile(f"{variable} is empty; set it to the path of a file, or remove it.")
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise UnusableSettingFile(f"{variable} names {path}, which cannot be read: {reason}.") from None
    if len(content) > MAX_FILE_BYTES:
        raise UnusableSettingFile(f"{variable} names {path}, which holds more than {MAX_FILE_BYTES} bytes.")
    try:
        value = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnusableSettingFile(f"{variable} names {path}, which is not UTF-8 text.") from None
    if not value.strip():
        raise UnusableSettingFile(f"{variable} names {path}, which is empty; write the value of the setting to it.")
    return value.removesuffix("\n").removesuffix("\r")
