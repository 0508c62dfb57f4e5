"""All that the doctor has seen, and where it looked."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cli.doctor.reports import ApiReport, BrokerReport, DatabaseReport
from services.api.schemas.health import Part, Readiness
from shared.errors import TrimError
from shared.settings import Settings
from stack.state import STATE

EMBEDDED: Final = f"the embedded Postgres in {STATE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What each server told, or why it told nothing; `None` if there is no address to ask."""

    settings: Settings
    """With the servers that were asked."""
    server: str
    """Address of the API."""
    is_embedded: bool
    """Whether the database is the embedded one."""
    api: ApiReport | TrimError
    database: DatabaseReport | TrimError | None
    broker: BrokerReport | TrimError | None
    disk: tuple[Path, int] | None = None
    """The state folder of this machine, and the bytes that are free there."""

    @property
    def readiness(self) -> Readiness | None:
        """State of the parts, from the database itself or as the API sees it."""
        if isinstance(self.database, DatabaseReport):
            return self.database.readiness
        return self.api.readiness if isinstance(self.api, ApiReport) else None

    @property
    def parts(self) -> Mapping[str, Part]:
        """Parts of the service by their names; empty if nothing tells."""
        return {} if self.readiness is None else {str(each.name): each for each in self.readiness.parts}

    @property
    def is_record_readable(self) -> bool:
        """Whether the heartbeats in the database can be read."""
        return self.readiness is not None and self.readiness.status != "unavailable"

    @property
    def reached(self) -> bool:
        """Whether anything answered."""
        reports = (ApiReport, DatabaseReport, BrokerReport)
        return any(isinstance(each, reports) for each in (self.api, self.database, self.broker))

    @property
    def database_place(self) -> str:
        """The database, without user and password."""
        return EMBEDDED if self.is_embedded else _place(self.settings.require_database_url())

    @property
    def broker_place(self) -> str:
        """The broker, without user and password."""
        url = self.settings.require_broker_url()
        return EMBEDDED if "host=" in url and self.is_embedded else _place(url)


def free_space() -> tuple[Path, int] | None:
    """Return the state folder of this machine and the bytes that are free there; `None` if there is no such folder."""
    return (STATE.resolve(), shutil.disk_usage(STATE).free) if STATE.exists() else None


def _place(url: str) -> str:
    """Return host, port and path of a URL."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "its address"
    return f"{parts.hostname or 'this machine'}{port}{parts.path.rstrip('/')}"
