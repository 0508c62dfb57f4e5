"""Reads the CPU time of processes and servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar
from urllib.parse import urlsplit

import psutil

AMQP_PORT = 5672

_STILL_S = 0.2
_MOST_READS = 25

T = TypeVar("T")


def read_when_still(read: Callable[[], T]) -> T:
    """Read until two consecutive readings agree, so that everything in flight has arrived.

    Gives up after a few seconds if the readings keep changing.
    """
    reading = read()
    for _ in range(_MOST_READS):
        time.sleep(_STILL_S)
        earlier, reading = reading, read()
        if reading == earlier:
            break
    return reading


def cpu_seconds(pids: Mapping[str, int], *, backend: int, broker_url: str) -> dict[str, float]:
    """Read the CPU time of processes, and of the servers if they run on this machine.

    Args:
        pids: Process ids by name.
        backend: Process id of a session of the database server, on the server's machine.
        broker_url: URL of the broker.

    Returns:
        Seconds by name, without `postgres` or `rabbitmq` if the server runs elsewhere or is not accessible.
    """
    seconds = {name: _tree_seconds(psutil.Process(pid)) for name, pid in pids.items()}
    for name, root in (("postgres", _postgres(backend)), ("rabbitmq", _rabbitmq(broker_url))):
        if root is not None:
            with suppress(psutil.AccessDenied):
                seconds[name] = _tree_seconds(root)
    return seconds


def _tree_seconds(root: psutil.Process) -> float:
    """Sum the CPU time of a process and its children, ended ones included: their parent keeps their time.

    A child that ends during the summation would count twice or not at all, so the sum is then computed again.
    """
    while True:
        processes = [root, *root.children(recursive=True)]
        try:
            total = sum(sum(each.cpu_times()[:4]) for each in processes)
        except psutil.NoSuchProcess:
            if not root.is_running():
                raise
            continue
        if processes == [root, *root.children(recursive=True)]:
            return float(total)


def _postgres(backend: int) -> psutil.Process | None:
    try:
        process = psutil.Process(backend)
        return process.parent() if process.name() == "postgres" else None
    except psutil.Error:
        return None


def _rabbitmq(broker_url: str) -> psutil.Process | None:
    url = urlsplit(broker_url)
    if url.hostname not in (None, "localhost", "127.0.0.1", "::1"):
        return None
    brokers = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "beam.smp" and "rabbit" in (process.info["cmdline"] or ())
    ]
    if len(brokers) > 1:  # Only then: reading the ports of another user's process needs root.
        with suppress(psutil.AccessDenied):
            brokers = [each for each in brokers if _listens(each, url.port or AMQP_PORT)]
    return brokers[0] if brokers else None


def _listens(process: psutil.Process, port: int) -> bool:
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in process.net_connections("tcp"))
