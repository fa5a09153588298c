"""Where helpers lie, one thread for every test and process, how many examples are drawn, and where files are written.

Maps as small as those of the tests lose more to waking threads than they gain, most of all where several test workers
share two cores, and sums keep one order.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

HELPERS = str(Path(__file__).parent / "helpers")
sys.path.insert(0, HELPERS)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HELPERS, os.environ.get("PYTHONPATH"))))
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded, and for subprocesses

# a shell starts what runs in the background, or under nohup, deaf to these, and tests send them
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

import pytest  # noqa: E402
import torch  # noqa: E402
from pairs import parametrize_in_pairs  # noqa: E402

torch.set_num_threads(1)

# no test depends on a clock, and a run of the tests finds what the run before it found
CALM = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("default", max_examples=20, derandomize=True, **CALM)
settings.register_profile("slow", max_examples=200, **CALM)
settings.load_profile("default")

MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)  # nobody waits for a disk where files are flushed


def pytest_collection_finish() -> None:
    """What was imported is not looked through again with every collection of garbage, nor copied by it in forks."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list) -> None:
    """Tests that train in forks of this process, as those of faults do, come first: once anything here has made
    autograd start threads (torch.compile does), a fork of it cannot go backward any more."""
    items.sort(key=lambda item: "faults" not in item.path.parts and not item.get_closest_marker("forks"))


@pytest.hookimpl(tryfirst=True)  # before the fixtures of a test, which may write pages too
def pytest_runtest_setup(item: pytest.Item) -> None:
    from quick_charts import choose  # not before a test runs: it loads matplotlib

    choose(drawn="not slow" not in item.config.option.markexpr or item.get_closest_marker("draws") is not None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_in_pairs(metafunc)
