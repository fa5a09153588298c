"""Lock a folder for one process; the lock ends with the process."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InUseError, RunError
from .files import remove_leftovers
from .timestamp import timestamp

LOCK_FILE = ".lock"


@contextmanager
def only_one(path: str | Path) -> Iterator[None]:
    """Hold a lock within the block; it is had at once or refused.

    The system gives it back when the process ends, however it ends. A process that is forked within the block does
    not hold it. The lock file stays: removing it would let two processes hold files of the same name.

    Args:
        path: of the lock file, in the folder that is to be used by one; the folder is made where it is missing.
            Who holds the lock is written beside it, in a file that ends in .holder.

    Raises:
        InUseError: it is held, by another process or by this one.
        RunError: the folder cannot be written, or the file system has no locks.
    """
    from filelock import FileLock, Timeout  # torch brings it along

    path = Path(path).absolute()
    holder = path.with_name(f"{path.name}.holder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a lock that is a mere file would outlive its process
        lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
        lock.acquire()
    except Timeout:
        raise InUseError(f"{path.parent} is in use by {_name(holder)}: wait until it is done, or stop it.") from None
    except OSError as error:
        raise RunError(
            f"{path.parent} cannot be locked ({error.strerror or error}): make it writable, on a file system with locks."
        ) from error
    owner = os.getpid()
    try:
        _sign(holder)
        yield
    finally:
        if os.getpid() == owner:  # a fork that leaves the block has no lock to give back
            with suppress(OSError):
                holder.unlink(missing_ok=True)
            lock.release()


class Claim:
    """Holds a folder for one process, from the first call on until the end of `held`; what killed ones left goes.

    Args:
        folder: to be used by one process.
        held: gives it back.
    """

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self.folder, self.held, self.is_made = folder, held, False

    def __call__(self) -> None:
        """Claim it, once.

        Raises:
            InUseError, RunError: as for `only_one`.
        """
        if not self.is_made:
            self.held.enter_context(only_one(self.folder / LOCK_FILE))
            remove_leftovers(self.folder)
            self.is_made = True


def check_free(folder: Path) -> None:
    """Raise InUseError where a process has claimed the folder; to be said before long work for it begins."""
    if (folder / LOCK_FILE).exists():
        with only_one(folder / LOCK_FILE):
            return


def _sign(holder: Path) -> None:
    """Say who holds the lock. It is for people only, so a full disk is no reason to fail."""
    since = timestamp()
    with suppress(OSError):
        holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}), "utf-8")


def _name(holder: Path) -> str:
    """The holder in words."""
    try:
        found: Any = json.loads(holder.read_text("utf-8"))
        pid, host, since = int(found["pid"]), str(found["host"]), str(found["since"])
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        return "another process"
    itself = " (this one)" if (pid, host) == (os.getpid(), socket.gethostname()) else ""
    return f"process {pid}{itself} on {host} since {since}"
