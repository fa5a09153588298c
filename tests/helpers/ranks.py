"""Two forks that train together, without the start of a launcher."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def be_rank(rank: int, port: int) -> None:
    """Set the variables that torchrun sets."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}


def in_two_processes(work: Callable[[], object]) -> None:
    """Do it in two forks, which must both come to the end."""
    port = free_port()
    pids = [_fork(work, rank, port) for rank in (0, 1)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]


def _fork(work: Callable[[], object], rank: int, port: int) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            be_rank(rank, port)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    return pid
