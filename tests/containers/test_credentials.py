"""The passwords of a compose project: made once, rotated one by one, and each in one place."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared.setting_types import split_message_keys
from stack.credentials import SOURCES, certificate, create, rotate


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("postgres", "rabbitmq", "migrate", "api", "orchestrator", "small", "prm", "large", "grafana"):
        (tmp_path / name).mkdir()
    create(tmp_path)
    return tmp_path


def _files(folders: Path) -> dict[str, str]:
    return {str(path.relative_to(folders)): path.read_text() for path in folders.rglob("*") if path.is_file()}


def _accepts(folders: Path, user: str, password: str) -> bool:
    """Check a password as RabbitMQ does, with the hash of its definitions."""
    users = json.loads((folders / "rabbitmq" / "definitions.json").read_text())["users"]
    stored = next(each["password_hash"] for each in users if each["name"] == user)
    salt, digest = base64.b64decode(stored)[:4], base64.b64decode(stored)[4:]
    return hashlib.sha256(salt + password.encode()).digest() == digest


def _password(folders: Path, role: str) -> str:
    return urlsplit((folders / role / "broker_url").read_text()).password or ""


def test_a_second_run_changes_nothing(folders: Path) -> None:
    before = _files(folders)
    assert create(folders) == []
    assert _files(folders) == before


def test_the_broker_accepts_each_role_with_its_own_password(folders: Path) -> None:
    roles = ("orchestrator", "small", "prm", "large")
    assert all(_accepts(folders, role, _password(folders, role)) for role in roles)
    assert len({_password(folders, role) for role in roles}) == len(roles)


def test_no_container_but_their_user_gets_a_password(folders: Path) -> None:
    """RabbitMQ has hashes alone."""
    for role in ("orchestrator", "small", "prm", "large"):
        holders = {path.split("/")[0] for path, text in _files(folders).items() if _password(folders, role) in text}
        assert holders == {role}
    for consumer in ("migrate", "api", "orchestrator"):
        password = (folders / "postgres" / f"{consumer}_password").read_text()
        holders = {path.split("/")[0] for path, text in _files(folders).items() if password in text}
        assert holders == {"postgres", consumer}


@pytest.mark.parametrize("name", SOURCES)
def test_rotating_changes_one_password_and_what_follows_from_it(folders: Path, name: str) -> None:
    before = _files(folders)
    rotate(folders, name)
    after = _files(folders)
    changed = {path for path in before if before[path] != after[path]}
    assert SOURCES[name] in changed
    expected = {SOURCES[name]}
    if name == "messages":
        expected |= {f"{each}/message_keys" for each in ("small", "prm", "large")}
    if name.startswith("database-"):
        expected |= {f"{name.removeprefix('database-')}/database_url"}
    if SOURCES[name].endswith("broker_url"):
        expected |= {"rabbitmq/definitions.json"}
        assert _accepts(folders, name, _password(folders, name))
    assert changed == expected


def test_the_key_of_messages_is_known_to_all_roles_before_one_signs_with_it(folders: Path) -> None:
    holders = [folders / role / "message_keys" for role in ("orchestrator", "small", "prm", "large")]

    def names() -> list[str]:
        [written] = {path.read_text() for path in holders}
        assert {*split_message_keys(written)} == {each.partition(":")[0] for each in written.split(",")}
        return [*split_message_keys(written)]

    seen = [names()]
    for _ in range(4):
        rotate(folders, "messages")
        seen.append(names())
    assert seen == [["1"], ["1", "2"], ["2", "1"], ["2", "3"], ["3", "2"]]


def test_a_run_mends_what_a_killed_one_left(folders: Path) -> None:
    """It was killed after the role's own file, before everything that follows from it."""
    definitions, url = folders / "rabbitmq" / "definitions.json", folders / "api" / "database_url"
    earlier = {path: path.read_text() for path in (definitions, url)}
    rotate(folders, "small")
    rotate(folders, "database-api")
    for path, text in earlier.items():
        path.chmod(0o644)
        path.write_text(text)
    create(folders)
    assert _accepts(folders, "small", _password(folders, "small"))
    assert (folders / "postgres" / "api_password").read_text() in url.read_text()


def test_a_certificate_is_made_once_and_one_that_is_given_stays(tmp_path: Path) -> None:
    assert certificate(tmp_path, "trim.example")
    made = _files(tmp_path)
    ssl.create_default_context().load_verify_locations(tmp_path / "tls.crt")
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    assert not certificate(tmp_path, "other.example")
    assert _files(tmp_path) == made
