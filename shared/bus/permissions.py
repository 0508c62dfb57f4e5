"""The permissions on RabbitMQ that the users of roles and of operators need, and no more.

docs/operations/rabbitmq.md explains them.
"""

from __future__ import annotations

from typing import NamedTuple

from shared.bus.topology import EVENTS, QUEUES, QueueRole


class Permissions(NamedTuple):
    """Patterns of the names that a user may configure, write and read, as `rabbitmqctl set_permissions` takes them."""

    configure: str
    write: str
    read: str


def permissions_of_operators(prefix: str) -> Permissions:
    """Return what the user of `trim dead-letters` needs: to read dead letters, and to publish them again."""
    queues = "|".join(QUEUES)
    return Permissions(configure="^$", write=rf"^{prefix}(\.dead)?$", read=rf"^{prefix}\.({queues})\.dead$")


def permissions_of(role: QueueRole, prefix: str) -> Permissions:
    """Return what the user of a role's workers needs, or the user of the orchestrators (`events`)."""
    if role == EVENTS:
        queues = "|".join(QUEUES)
        # To declare a queue that sends dead letters takes reading the queue; to bind one takes writing it.
        everything = rf"^{prefix}(\.(dead|cancels|({queues})(\.dead)?))?$"
        return Permissions(configure=everything, write=everything, read=rf"^{prefix}(\.(dead|{queues}))?$")
    return Permissions(
        configure=rf"^{prefix}\.cancels\..+$",
        write=rf"^{prefix}(\.dead|\.cancels\..+)?$",
        read=rf"^{prefix}\.({role}|cancels(\..+)?)$",
    )
