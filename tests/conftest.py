"""Where helpers lie, and one thread for every test and every process that a test starts.

Maps as small as those of the tests lose more to waking threads than they gain, most of all where several test workers
share two cores, and sums keep one order.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HELPERS = str(Path(__file__).parent / "helpers")
sys.path.insert(0, HELPERS)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HELPERS, os.environ.get("PYTHONPATH"))))
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded, and for subprocesses

import torch  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list) -> None:
    """Tests of faults come first: they train in forks of this process, and once anything here has made autograd start
    threads (torch.compile does), a fork of it cannot go backward any more."""
    items.sort(key=lambda item: "faults" not in item.path.parts)
