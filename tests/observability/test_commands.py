"""The commands of the runbooks name services of compose.yaml and objects of deploy/."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from stack.roles import ROLES
from tests.observability.described import ROOT, RUNBOOKS

PAGES = [*sorted(RUNBOOKS.glob("*.md")), ROOT / "docs" / "operations" / "monitoring.md"]
COMMANDS = [line for page in PAGES for line in re.findall(r"^ *\$ (.+)$", page.read_text(), re.MULTILINE)]
OPTION = re.compile(r" --(?:since|signal|profile) \S+| --scale (?=\w+=)| --?[\w-]+(?:=\S+)?|=\d+")


def services_in(command: str) -> Iterator[str]:
    """Find the services that a command of compose acts on; what it executes in one of them follows the first."""
    verb, *words = OPTION.sub("", command.partition(" | ")[0].removeprefix("docker compose")).split()
    yield from words[:1] if verb == "exec" else words


@pytest.mark.parametrize("command", sorted({each for each in COMMANDS if each.startswith("docker compose ")}))
def test_a_command_names_services_of_the_stack(command: str) -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert set(services_in(command)) <= set(compose["services"])
    profiles = {profile for each in compose["services"].values() for profile in each.get("profiles", ())}
    assert set(re.findall(r"--profile (\S+)", command)) <= profiles


@pytest.mark.parametrize("command", sorted({each for each in COMMANDS if each.startswith("kubectl ")}))
def test_a_command_names_objects_of_the_manifests(command: str) -> None:
    manifests = "\n".join(path.read_text() for path in (ROOT / "deploy").rglob("*.yaml"))
    names = {*re.findall(r"name: (trim[\w-]*)", manifests)}
    made_by_operators = {f"{name}-server-0" for name in names} | {f"{name}-rw" for name in names}
    assert set(re.findall(r"\btrim-[\w-]+", command)) <= names | made_by_operators
    components = set(re.findall(r"app.kubernetes.io/component: (\w+)", manifests))
    assert set(re.findall(r"app.kubernetes.io/component=(\w+)", command)) <= components
    assert all((ROOT / folder).is_dir() for folder in re.findall(r"-k (\S+)", command))


def test_every_other_command_is_known() -> None:
    tools = {command.split()[0] for command in COMMANDS}
    assert tools == {"docker", "kubectl", "curl", "trim", "promtool", "make"}


def test_every_role_of_the_stack_sends_traces_where_the_page_says_to() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for role in ROLES:
        assert services[role]["environment"]["TRIM_OTLP_URL"] == "${OTLP_URL:-}"
    [receiver] = re.findall(r"OTLP_URL=http://(\w+):4318", (ROOT / "docs/operations/monitoring.md").read_text())
    assert receiver in services
