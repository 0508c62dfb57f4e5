"""Makes the passwords of a compose project, once, and rotates one: `python -m stack.credentials create`.

Each consumer has a separate volume as its folder, so a container reads its own passwords and no others. A
password has one source: the file that its user reads. Each run derives everything else from the sources. RabbitMQ's
definitions hold only hashes, and a run mends what a killed one left.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared.bus.permissions import Permissions, permissions_of
from shared.bus.topology import EVENTS, QUEUES
from shared.domain.roles import WorkerRole
from shared.settings import Settings

FOLDERS = Path("/credentials")
VHOST = "trim"
PREFIX = Settings.model_fields["queue_prefix"].default
SALT_BYTES = 4
"""Length of the salt before RabbitMQ's SHA-256 of a password."""

PERMISSIONS: Mapping[str, Permissions] = {
    "orchestrator": permissions_of(EVENTS, PREFIX),
    **{role.value: permissions_of(role, PREFIX) for role in WorkerRole},
}
"""What the user of each role may do on the broker."""

DATABASE_USERS: Mapping[str, str] = {"migrate": "trim", "api": "trim_api", "orchestrator": "trim_orchestrator"}
"""User of the database that each consumer logs in as. The one that migrates owns the tables."""

SOURCES: Mapping[str, str] = {
    "postgres": "postgres/superuser_password",
    **{f"database-{consumer}": f"postgres/{consumer}_password" for consumer in DATABASE_USERS},
    **{role: f"{role}/broker_url" for role in PERMISSIONS},
    "grafana": "grafana/admin_password",
    "messages": "orchestrator/message_keys",
}
"""File that is the source of each password, by the name that `rotate` takes."""

QUEUE_BYTES = 2**30
"""Room of a queue of work. Its publishers are refused when it is full, and publish again later."""

DEAD_LETTER_BYTES = 2**28
"""Room of a queue of dead letters, which drops the oldest."""

CERTIFICATE_DAYS = 397


def write(path: Path, content: str) -> None:
    """Write a file whole. Only its volume protects it: its consumers run as different users."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(content, encoding="utf-8")
    draft.chmod(0o444)
    draft.replace(path)


def create(folders: Path) -> list[str]:
    """Make every password that is missing, write what is derived from them, and return the names of the new ones."""
    missing = [name for name, source in SOURCES.items() if not (folders / source).exists()]
    for name in missing:
        write(folders / SOURCES[name], _new(name))
    for consumer, user in DATABASE_USERS.items():
        password = (folders / SOURCES[f"database-{consumer}"]).read_text(encoding="utf-8")
        write(folders / consumer / "database_url", f"postgresql://{user}:{password}@postgres:5432/trim")
    for role in WorkerRole:
        write(folders / role / "message_keys", (folders / SOURCES["messages"]).read_text(encoding="utf-8"))
    path = folders / "rabbitmq" / "definitions.json"
    passwords = {
        role: urlsplit((folders / SOURCES[role]).read_text(encoding="utf-8")).password or "" for role in PERMISSIONS
    }
    write(path, json.dumps(definitions(passwords, _hashes(path)), indent=2))
    return missing


def rotate(folders: Path, name: str) -> None:
    """Replace one password. Its server and its users still have the old one.

    The keys that sign messages take two calls, with a restart of all roles after each: a process refuses what is signed
    with a key that it does not have yet. The first call adds a key, the second has everything signed with it.
    """
    source = folders / SOURCES[name]
    if name == "messages" and source.exists():
        write(source, ",".join(_rotated(source.read_text(encoding="utf-8").split(","))))
    else:
        source.unlink(missing_ok=True)
    create(folders)


def _new(name: str) -> str:
    """Make a password, in the form that its source has."""
    password = secrets.token_urlsafe(32)
    if name == "messages":
        return f"1:{password}"
    return f"amqp://{name}:{password}@rabbitmq:5672/{VHOST}" if SOURCES[name].endswith("_url") else password


def _rotated(keys: Sequence[str]) -> list[str]:
    """Return the next list of the keys that sign messages, the signing one first; their names are numbers."""
    signing, *others = keys
    if others and _number(others[0]) > _number(signing):
        return [others[0], signing]
    return [signing, f"{_number(signing) + 1}:{secrets.token_urlsafe(32)}"]


def _number(key: str) -> int:
    return int(key.partition(":")[0])


def definitions(passwords: Mapping[str, str], hashes: Mapping[str, str]) -> dict[str, Any]:
    """Build RabbitMQ's definitions: the virtual host, the users with their permissions, and the limits of the queues.

    Args:
        passwords: Password of each user.
        hashes: Earlier hashes. One that still fits is kept, so that the file changes only with its passwords.
    """
    queues = "|".join(QUEUES)
    return {
        "vhosts": [{"name": VHOST}],
        "users": [
            {
                "name": name,
                "password_hash": hashes[name] if _fits(password, hashes.get(name, "")) else _hash(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [],
            }
            for name, password in passwords.items()
        ],
        "permissions": [
            {"user": name, "vhost": VHOST, "configure": each.configure, "write": each.write, "read": each.read}
            for name, each in PERMISSIONS.items()
        ],
        "policies": [
            _limit("work", rf"^{PREFIX}\.({queues})$", QUEUE_BYTES, overflow="reject-publish"),
            _limit("dead-letters", rf"^{PREFIX}\.({queues})\.dead$", DEAD_LETTER_BYTES, overflow="drop-head"),
        ],
    }


def certificate(folder: Path, host: str) -> bool:
    """Make a self-signed certificate for a host if the folder has none; return whether it did."""
    if (folder / "tls.crt").exists():
        return False
    draft, key = folder / ".tls.crt", folder / "tls.key"
    names = ",".join(f"DNS:{name}" for name in dict.fromkeys((host, "localhost")))
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
        f"-days {CERTIFICATE_DAYS} -subj /CN={host} -addext subjectAltName={names} -keyout {key} -out {draft}"
    )
    subprocess.run(command.split(), check=True, stderr=subprocess.DEVNULL)
    key.chmod(0o444)
    draft.replace(folder / "tls.crt")
    return True


def _hashes(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    return {user["name"]: user["password_hash"] for user in json.loads(path.read_text(encoding="utf-8"))["users"]}


def _hash(password: str, salt: bytes | None = None) -> str:
    salt = salt or os.urandom(SALT_BYTES)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _fits(password: str, stored: str) -> bool:
    return bool(stored) and _hash(password, base64.b64decode(stored)[:SALT_BYTES]) == stored


def _limit(name: str, pattern: str, size: int, *, overflow: str) -> dict[str, Any]:
    definition = {"max-length-bytes": size, "overflow": overflow}
    return {"vhost": VHOST, "name": name, "pattern": pattern, "apply-to": "quorum_queues", "definition": definition}


def main() -> None:
    """Parse the command and run it."""
    parser = argparse.ArgumentParser(prog="python -m stack.credentials", description="Passwords of a compose project.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("create", help="make the passwords that are missing")
    rotating = commands.add_parser("rotate", help="replace one password")
    rotating.add_argument("name", choices=[*SOURCES])
    making = commands.add_parser("certificate", help="make a self-signed certificate if there is none")
    making.add_argument("host", help="name by which clients reach the service")
    arguments = parser.parse_args()
    if arguments.command == "create":
        made = create(FOLDERS)
        sys.stdout.write(f"New passwords: {', '.join(made)}.\n" if made else "All passwords exist.\n")
    elif arguments.command == "rotate":
        rotate(FOLDERS, arguments.name)
        sys.stdout.write(f"{arguments.name} has a new password; docs/operations/compose.md has what must follow.\n")
    else:
        made_one = certificate(FOLDERS / "certificates", arguments.host)
        sys.stdout.write("A self-signed certificate was made.\n" if made_one else "There is a certificate.\n")


if __name__ == "__main__":
    main()
