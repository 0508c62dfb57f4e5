"""The permissions of each role's user on RabbitMQ: those of the page, and for the names of one deployment alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.bus.permissions import permissions_of, permissions_of_operators
from shared.bus.topology import EVENTS, QUEUES, QueueRole, Topology

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations" / "rabbitmq.md").read_text()
USERS = {EVENTS: "orchestrators", "small": "small workers", "large": "large workers", "prm": "PRM workers"}


@pytest.mark.parametrize("role", QUEUES)
def test_the_page_lists_the_permissions_of_the_code(role: QueueRole) -> None:
    [row] = re.findall(rf"^\| {USERS[role]} \| `(.+)` \| `(.+)` \| `(.+)` \|$", PAGE, re.MULTILINE)
    assert tuple(pattern.replace("\\|", "|") for pattern in row) == permissions_of(role, "trim")


def test_the_page_lists_the_permissions_of_operators_who_may_read_dead_letters_and_declare_nothing() -> None:
    [row] = re.findall(r"^\| operators \| `(.+)` \| `(.+)` \| `(.+)` \|$", PAGE, re.MULTILINE)
    allowed = permissions_of_operators("trim")
    assert tuple(pattern.replace("\\|", "|") for pattern in row) == allowed
    topology = Topology("trim")
    for role in QUEUES:
        assert re.match(allowed.read, topology.dead_letters(role).name)
        assert not re.match(allowed.read, topology.queue(role).name)
    assert not any(re.match(allowed.configure, each.name) for each in topology.entities)


def test_the_command_on_the_page_sets_the_permissions_of_the_code() -> None:
    assert " ".join(f"'{pattern}'" for pattern in permissions_of("prm", "trim")) in PAGE


@pytest.mark.parametrize("role", QUEUES)
def test_a_user_may_use_the_names_of_its_deployment_alone(role: QueueRole) -> None:
    others = ("", "amq.topic", "trims", "trim.other", "trim.cancels.", "x.trim")
    for pattern in permissions_of(role, "trim"):
        assert not [name for name in others if re.match(pattern, name)]


def test_orchestrators_may_declare_everything_and_workers_nothing_but_their_private_queues() -> None:
    names = [each.name for each in Topology("trim").entities]
    assert all(re.match(permissions_of(EVENTS, "trim").configure, name) for name in names)
    for role in set(QUEUES) - {EVENTS}:
        configure = permissions_of(role, "trim").configure
        assert re.match(configure, Topology("trim").cancel_queue("prm-1", is_exclusive=True).name)
        assert not any(re.match(configure, name) for name in names)
