"""Seconds until a training that got a signal has ended, in every state, and CPU seconds of refusing hostile files.

    python benchmarks/promised_seconds.py [REPEATS]

The tests check what is left behind, on machines of any speed; how long it takes is measured here.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "helpers"), str(TESTS / "faults")]
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from signal_children import STATES, data, images, training_in  # noqa: E402

import attngraft as ag  # noqa: E402
from attngraft import interrupts  # noqa: E402
from attngraft.errors import AttngraftError  # noqa: E402
from attngraft.files import read_json  # noqa: E402

HOSTILE = {
    "deep lists": b"[" * 1_000_000,
    "many small values": b"[" + b"{}," * 9_000_000 + b"1]",
    "a long number": b"9" * 5_000_000,
}


def seconds_to_stop(name: str, folder: Path) -> float:
    """From the signal, which the whole process group gets, to the end of its last process."""
    state = STATES[name]
    what = images(folder / "photos") if name == "reading images" else data()
    with training_in(state, what, folder / "run", interrupts.PATIENCE_S) as child:
        start = time.monotonic()
        child.hears(signal.SIGTERM)
        assert child.ends()
        return time.monotonic() - start


def seconds_to_refuse(read: Callable[[Path], object], content: bytes, folder: Path) -> float:
    (folder / "run.json").write_bytes(content)
    start = time.process_time()
    try:
        read(folder)
    except (AttngraftError, ValueError):
        return time.process_time() - start
    raise AssertionError("it was not refused")


def measure(name: str, once: Callable[[Path], float], repeats: int) -> None:
    found = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            found.append(once(Path(folder)))
    row = {"what": name, "n": repeats, "median_s": statistics.median(found), "max_s": max(found)}
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}))


def main() -> None:
    torch.set_num_threads(1)
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name in STATES:
        measure(f"stop: {name}", lambda folder, name=name: seconds_to_stop(name, folder), repeats)
    readers = {"load": ag.load, "read_json": lambda folder: read_json(folder / "run.json")}
    for verb, read in readers.items():
        for kind, content in HOSTILE.items():
            measure(
                f"refuse: {verb}, {kind}",
                lambda folder, read=read, content=content: seconds_to_refuse(read, content, folder),
                repeats,
            )


if __name__ == "__main__":
    main()
