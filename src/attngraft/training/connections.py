"""The connections of a process to its peers, and how to cut them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Connection:
    """An open connection of this process.

    Attributes:
        descriptor: its number.
        identity: tells it from another one that gets the same number later.
    """

    descriptor: int
    identity: str


def open_connections() -> frozenset[Connection]:
    """The TCP connections of this process, without sockets that wait for one; empty where there is no /proc."""
    found = set()
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # closed meanwhile
                identity = os.readlink(f"/proc/self/fd/{name}")
                if identity.startswith("socket:") and _ports(int(name)):
                    found.add(Connection(int(name), identity))
    return frozenset(found)


def to_peers(connections: Iterable[Connection], meeting_port: int) -> tuple[Connection, ...]:
    """Those that do not belong to the place where the processes met."""
    return tuple(one for one in connections if meeting_port not in _ports(one.descriptor))


def cut(connections: Iterable[Connection]) -> None:
    """End connections as if the other side had: who waits for something from there gets an error at once."""
    for one in connections:
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{one.descriptor}") == one.identity:
                with socket.socket(fileno=os.dup(one.descriptor)) as connection:
                    connection.shutdown(socket.SHUT_RDWR)


def _ports(descriptor: int) -> tuple[int, ...]:
    """Ports of both ends of a connected TCP socket; empty for another one."""
    with suppress(OSError, IndexError, TypeError), socket.socket(fileno=os.dup(descriptor)) as one:
        if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
            return one.getsockname()[1], one.getpeername()[1]
    return ()
