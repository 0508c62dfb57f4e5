"""Servers on this machine, which no proxy of the environment may be able to reach."""

from __future__ import annotations

import socket

import pytest

from shared.this_machine import is_this_machine


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "trim.localhost", "127.0.0.1", "127.8.9.10", "::1", "0.0.0.0", "127.1"]
)
def test_loopback_is_this_machine_in_every_form(host: str) -> None:
    assert is_this_machine(host)


def test_the_names_and_addresses_of_the_network_are_this_machine() -> None:
    assert is_this_machine(socket.gethostname())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Nothing is sent; the system chooses the address to send from.
        except OSError:
            pytest.skip("this machine has no network")
        assert is_this_machine(probe.getsockname()[0])


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.com", "127.0.0.1.example.com", "", "a" * 300])
def test_everything_else_is_another_machine_and_no_name_is_looked_up(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numeric = socket.getaddrinfo

    def never_looking_up(*arguments: object, flags: int, **options: object) -> object:
        assert flags & socket.AI_NUMERICHOST
        return numeric(*arguments, flags=flags, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", never_looking_up)
    assert not is_this_machine(host)
