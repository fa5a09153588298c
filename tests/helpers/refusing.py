"""What a refusal of a hostile file costs, counted in a fork; and pickles that would run code."""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngraft.errors import AttngraftError

MOST_CALLS = 10_000_000
MOST_READ_MIB = 300
MOST_MIB = 500


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        sentence: of the refusal; "" where there was none.
        calls: of functions, by Python code.
        read_mib: MiB that were read by system calls.
        mib: MiB of memory more than before, at the peak.
    """

    sentence: str
    calls: int
    read_mib: float
    mib: float


def outcomes(works: Sequence[Callable[[], object]]) -> list[Outcome]:
    """Do them one after the other in a fork; anything but success and an error of the library ends the test."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            found = [_measured(work) for work in works]
            with os.fdopen(writer, "w") as pipe:
                pipe.write(json.dumps(found))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "it raised something else"
    return [Outcome(*row) for row in json.loads(told)]


def outcome(work: Callable[[], object]) -> Outcome:
    """Do it in a fork."""
    return outcomes([work])[0]


def assert_refused(*works: Callable[[], object]) -> str:
    """Each is refused in one line, after little work and in little memory; the line of the last is returned."""
    for found in outcomes(works):
        assert found.sentence, "it was not refused"
        assert found.sentence.isprintable(), found.sentence
        assert len(found.sentence) < 2200
        assert_cheap(found)
    return found.sentence


def assert_cheap(found: Outcome) -> None:
    """Bounds that a file which is read to its end, or parsed before it is refused, breaks by far."""
    assert found.calls < MOST_CALLS, found
    assert found.read_mib < MOST_READ_MIB, found
    assert found.mib < MOST_MIB, found


class Boom:
    """An object whose pickle writes a file when it is read by a reader that runs code."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.canary), "w"))


def _measured(work: Callable[[], object]) -> tuple[str, int, float, float]:
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    peak, read, said = _peak_mib(), _read_mib(), ""
    sys.setprofile(count)
    try:
        work()
    except AttngraftError as error:
        said = str(error) or "an error without words"
    finally:
        sys.setprofile(None)
    return said, calls, _read_mib() - read, _peak_mib() - peak


def _read_mib() -> float:
    """So far, by this process; 0 where the system does not count it."""
    io = Path("/proc/self/io")
    fields = dict(line.split(": ") for line in io.read_text().splitlines()) if io.exists() else {}
    return int(fields.get("rchar", 0)) / (1 << 20)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
