"""Whenever the process is killed, the loop goes on where it was: nothing twice, nothing half."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, 50])
def test_a_killed_watch_ends_as_if_it_had_not_been(tmp_path, kills):
    child = Path(__file__).with_name("loop_children.py")
    done = subprocess.run(
        [sys.executable, str(child), str(tmp_path), str(kills)], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["calls"] > 30
    assert found["journals"] >= (3 if kills > 40 else 2)  # kills before, in and after the guard's attempt
