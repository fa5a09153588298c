"""Something done in a fork of the process of the tests, which costs a hundredth of a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any


def in_a_fork(work: Callable[[], Any], timeout_s: int = 60) -> Any:
    """What it returns there, by way of JSON; a fork that fails, is killed or hangs is an error that shows why."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(timeout_s)
        _answer(work, writer)
    os.close(writer)
    with os.fdopen(reader) as answers:
        answer = answers.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the fork ended with {os.waitstatus_to_exitcode(status)}: {answer}"
    return json.loads(answer)


def _answer(work: Callable[[], Any], writer: int) -> None:
    """Never come back: what the tests of the parent would do at their end is not done twice."""
    status = 1
    try:
        answer, status = json.dumps(work()), 0
    except BaseException:
        answer = traceback.format_exc()
    finally:
        os.write(writer, answer.encode())
        sys.stderr.flush()
        os._exit(status)
