"""`trim keys`, the key that the `trim` command sends, the first key, and the commands of docs/operations/access.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.store.database import Database
from tests.integration.api.test_process import served

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "operations" / "access.md").read_text()

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def strict_address(database: Database) -> Iterator[str]:
    """Address of an API that requires keys."""
    with served(database, TRIM_API_KEYS="required") as address:
        yield address


class Person:
    """Runs programs with the environment of a person."""

    def __init__(self, address: str, database: Database) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRIM_")}
        url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self.environment = inherited | {"TRIM_SERVER": address, "PYTHONPATH": str(ROOT)}
        self._creating = {**inherited, "TRIM_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", "from cli.app import main; main()", *arguments]
        known = {**self.environment, **variables}
        return subprocess.run(program, env=known, capture_output=True, text=True, check=False)

    def trim(self, *arguments: str, **variables: str) -> str:
        done = self.run(*arguments, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create_key(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "services.api.access", "create-key", *arguments]
        return subprocess.run(program, env=self._creating, capture_output=True, text=True, check=False)

    def first_key(self, *arguments: str) -> str:
        done = self.create_key(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()


@pytest.fixture
def person(strict_address: str, database: Database) -> Person:
    return Person(strict_address, database)


def test_a_key_is_created_listed_rotated_and_revoked(person: Person, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{person.first_key('first')}\n")
    admin = ("--key-file", str(file), "keys")
    made = person.run(*admin, "create", "nightly", "--scope", "read", "--expires-in-days", "90")
    reader = made.stdout.strip()
    assert re.fullmatch(r"trim_[0-9a-f]{10}_[0-9a-f]{64}", reader)
    assert "cannot be read again" in made.stderr
    listed = json.loads(person.trim(*admin, "list", "--json"))
    assert [each["name"] for each in listed][:2] == ["nightly", "first"]
    assert len(person.trim(*admin, "list", "-n", "1").splitlines()) == 2
    assert "valid until" in person.trim(*admin, "list")

    assert person.trim("policies", "list", TRIM_API_KEY=reader)
    refused = person.run("keys", "list", TRIM_API_KEY=reader)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "refused with 403: The key lacks the scope `admin`" in refused.stderr
    successor = json.loads(person.trim(*admin, "rotate", listed[0]["id"], "--overlap-s", "60", "--json"))
    assert successor["replaces"] == listed[0]["id"]
    person.trim(*admin, "revoke", successor["id"])
    again = person.run(*admin, "rotate", successor["id"])
    assert "refused with 409: The key is revoked" in again.stderr
    assert "revoked" in person.trim(*admin, "list")
    fresh = person.run("policies", "list", TRIM_API_KEY=successor["key"])
    assert "refused with 401: The key was revoked" in fresh.stderr


def test_a_key_that_cannot_be_sent_is_one_sentence_without_the_key(person: Person, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("trim_secret word")
    spaced = person.run("policies", "list", TRIM_API_KEY_FILE=str(file))
    assert (spaced.returncode, spaced.stderr.count("\n")) == (2, 1)
    assert "secret" not in spaced.stderr
    both = person.run("policies", "list", TRIM_API_KEY_FILE=str(file), TRIM_API_KEY="trim_x")
    assert "TRIM_API_KEY and TRIM_API_KEY_FILE are both set" in both.stderr
    missing = person.run("--key-file", str(tmp_path / "none"), "policies", "list")
    assert (missing.returncode, "cannot be read: No such file" in missing.stderr) == (2, True)
    without = person.run("policies", "list")
    assert "refused with 401: The request has no valid key; send the header" in without.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("k", "--tenant", "nobody"), "access: There is no tenant 'nobody'; GET /v1/tenants lists the tenants.\n"),
        ((" ",), "access: name: Input should not be blank.\n"),
        (("k", "--expires-in-days", "-1"), "access: expires_in_s: Input should be greater than 0.\n"),
    ],
)
def test_a_first_key_that_cannot_be_is_one_sentence(person: Person, arguments: tuple[str, ...], sentence: str) -> None:
    done = person.create_key(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's examples are written for curl")
def test_every_command_of_the_page_works_as_printed(person: Person, strict_address: str, tmp_path: Path) -> None:
    assert "python -m services.api.access create-key first" in PAGE
    key = person.first_key("first")
    (tmp_path / "key.txt").write_text(key)
    (tmp_path / "trim").write_text(f'#!/bin/sh\nexec {sys.executable} -c "from cli.app import main; main()" "$@"\n')
    (tmp_path / "trim").chmod(0o755)
    lines = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(lines) >= 9
    script = "\n".join(line.removeprefix("$ ") for line in lines)
    script = script.replace("localhost:8080", strict_address).replace("curl -s", "curl -sSf")
    script = script.replace("=the-id-of-the-answer", "=$(trim_tenant)")
    newest = "import json, sys; print(json.load(sys.stdin)['items'][0]['id'])"
    find = f'trim_tenant() {{ curl -sSf -H "$AUTH" {strict_address}/v1/tenants | {sys.executable} -c "{newest}"; }}'
    variables = {"TRIM_API_KEY": key, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{find}\n{script}"],
        cwd=tmp_path, env={**person.environment, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

    assert '"max_running":32' in done.stdout.replace(" ", "")
