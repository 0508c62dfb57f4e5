"""The servers of a command: those of the settings, or the embedded ones of the stack that runs in this folder."""

# ruff: noqa: PLC0415 - the stack's libraries are imported only where it has run

from __future__ import annotations

from pydantic import SecretStr

from cli.errors import requiring
from shared.settings import Settings
from stack.state import STATE


def find_embedded() -> str | None:
    """Return the URL of the embedded database; `None` if none was ever made here.

    Raises:
        NoStack: It does not run, or belongs to another user.
        NotInstalled: The stack's libraries are missing.
    """
    if not (STATE / "postgres").exists():
        return None
    with requiring("stack"):
        from stack.postgres import forget_other_servers
        from stack.present import present_database_url
    url = present_database_url()
    forget_other_servers()
    return url


def with_database(settings: Settings) -> Settings:
    """Return settings that name the database to use.

    Raises:
        NoStack: They name none, and the embedded one does not run.
    """
    if settings.database_url is None and (url := find_embedded()):
        return settings.model_copy(update={"database_url": SecretStr(url)})
    return settings


def with_broker(settings: Settings) -> Settings:
    """Return settings that name the broker to use.

    Raises:
        NoStack: They name none, and the embedded one does not run.
    """
    if settings.broker_url is None and (url := find_embedded()):
        return settings.model_copy(update={"broker_url": SecretStr(broker_on(url))})
    return settings


def broker_on(database_url: str) -> str:
    """Return the URL of pgmq on a database."""
    return database_url.replace("postgresql", "pgmq", 1)
