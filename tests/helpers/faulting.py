"""Work that dies, or finds the disk full, at a chosen call by which files come to the disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from attngraft.errors import RunError


class Calls:
    """Counts the calls by which files come to the disk, and does something at the n-th."""

    def __init__(self, act: Callable[..., Any], steps: tuple[str, ...], at: int) -> None:
        self.act, self.steps, self.at, self.count = act, steps, at, 0
        self.real: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> Calls:
        self.real = {step: getattr(os, step) for step in self.steps}
        for step, real in self.real.items():
            setattr(os, step, self.wrapped(real))
        return self

    def __exit__(self, *_: object) -> None:
        for step, real in self.real.items():
            setattr(os, step, real)

    def wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                self.act(real, args)
            return real(*args, **options)

        return call


def die(real: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_the_middle(real: Callable[..., Any], args: tuple[Any, ...]) -> None:
    real(args[0], args[1][: len(args[1]) // 2])
    die(real, args)


def no_space(real: Callable[..., Any], args: tuple[Any, ...]) -> None:
    raise OSError(28, "No space left on device")


@dataclass
class Ending:
    """How a fork ended: its exit status, calls that it made, and the sentence that it was refused with."""

    status: int
    count: int = 0
    refused: str = ""


def tried(work: Callable[[], object], calls: Calls) -> Ending:
    """Do it here."""
    try:
        with calls:
            work()
    except RunError as error:
        return Ending(0, calls.count, str(error))
    return Ending(0, calls.count)


def forked(work: Callable[[], object], calls: Calls | None = None, largest_file: int | None = None) -> Ending:
    """Do it in a fork; the status is -9 where that was killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        refused, status = "", 0
        try:
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
            with calls or nullcontext():
                work()
        except RunError as error:
            refused = str(error)
        except BaseException:
            traceback.print_exc()
            status = 1
        with os.fdopen(writer, "w") as pipe:
            pipe.write(json.dumps({"count": calls.count if calls else 0, "refused": refused}))
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ending(status, **(json.loads(said) if said else {}))
