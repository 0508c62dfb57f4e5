"""What mends a server that does not answer, by the reason that its client reports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cli.doctor.findings import Fault
from cli.doctor.looking import NoAnswer
from shared.errors import TrimError

_ADDRESS: Final = "check host and port in {variable}, and firewalls on the way"

_REMEDIES: Final[Sequence[Sequence[str]]] = (
    (r"password authentication failed|no password supplied|ACCESS_REFUSED|AccessRefused|Login was refused",
     "Correct user and password in {variable}."),
    (r'database ".*" does not exist',
     "Correct the name in {variable}; or create it, and migrate it.", "python -m migrations upgrade"),
    (r'role ".*" does not exist|not permitted to log in', "Correct the user in {variable}, or create it."),
    (r"no pg_hba\.conf entry", "Allow this machine and user in pg_hba.conf of the server, and reload it."),
    (r"vhost .* not found",
     "Correct the virtual host in {variable}, or create it.", "rabbitmqctl add_vhost NAME"),
    (r"refused for user",
     "Grant the user the virtual host with rabbitmqctl set_permissions (docs/operations/rabbitmq.md)."),
    (r"read-only", "Name the primary in {variable}: this server is a standby."),
    (r"could not translate host name|[Nn]ame or service not known|resolve host|No address associated",
     "Correct the host in {variable}; this machine cannot resolve it."),
    (r"[Cc]onnection refused|No such file or directory",
     "Start the server, or correct host and port in {variable}; nothing listens there."),
    (r"too many clients|remaining connection slots", "Close connections, or raise max_connections of the server."),
    (r"timeout|timed out|did not answer within", "Start the server, or " + _ADDRESS + "."),
    (r"holds a lock|canceling statement", "Run this again; if it stays, end the session that holds the lock."),
)  # fmt: skip


def fault_of(error: TrimError, what: str, variable: str) -> Fault:
    """Return the fault of a server that told nothing.

    Args:
        error: Why.
        what: The server and its place.
        variable: The setting that names it.
    """
    reason = _reason(error)
    found = (remedy for pattern, *remedy in _REMEDIES if re.search(pattern, reason))
    remedy, *command = next(found, ["Start the server, or correct {variable}."])
    if error.code == "not_installed":
        return Fault(f"{what} was not looked at.", str(error))
    return Fault(f"{what}: {reason}", remedy.format(variable=variable), *command)


def _reason(error: TrimError) -> str:
    """Return why, in the words of the client library if there are any, on one line and without its preamble."""
    if isinstance(error, NoAnswer) or error.__cause__ is None:
        return str(error)
    cause = error.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    reason = (lines or [type(cause).__name__])[0].rpartition("failed: ")[2]
    return reason if reason.endswith(".") else f"{reason}."
