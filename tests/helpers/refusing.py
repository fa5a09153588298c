"""What a refusal of a hostile file costs, measured in a fork; and pickles that would run code."""

from __future__ import annotations

import json
import os
import resource
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngraft.errors import AttngraftError

MOST_SECONDS = 1.0
MOST_MIB = 500


@dataclass
class Outcome:
    """What came of it: "" where it was not refused, else the sentence; CPU seconds and MiB that it took."""

    sentence: str
    cpu_s: float
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
    """Each is refused in one line, in less than a second of CPU and 500 MiB; the line of the last is returned."""
    for found in outcomes(works):
        assert found.sentence, "it was not refused"
        assert found.sentence.isprintable(), found.sentence
        assert len(found.sentence) < 2200
        assert found.cpu_s < MOST_SECONDS, (found.cpu_s, found.sentence)
        assert found.mib < MOST_MIB, (found.mib, found.sentence)
    return found.sentence


class Boom:
    """An object whose pickle writes a file when it is read by a reader that runs code."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.canary), "w"))


def _measured(work: Callable[[], object]) -> tuple[str, float, float]:
    before, started = _peak_mib(), time.process_time()
    try:
        work()
        said = ""
    except AttngraftError as error:
        said = str(error) or "an error without words"
    return said, time.process_time() - started, _peak_mib() - before


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
