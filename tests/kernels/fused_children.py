"""What tests of the kernels run in processes of their own: `python fused_children.py TASK ...`, JSON on the output; or
in a fork where nothing depends on a fresh process."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TASKS: dict[str, Callable[..., Any]] = {}


def task(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function callable by its name; it imports what it needs, in the order that it needs."""
    TASKS[function.__name__] = function
    return function


def distance_from_reference() -> float:
    """The largest difference between what runs by default and the reference, forward and backward."""
    import torch
    from fused_helpers import awakened, feature_map, outcome

    worst = 0.0
    for dtype in (torch.float32, torch.bfloat16):
        for layout in ("contiguous", "channels_last"):
            x = feature_map(2, 32, 5, 6, dtype=dtype, layout=layout)
            for name in ("cbam", "coord", "srm", "gct"):
                module = awakened(name).to(dtype).eval()
                fast, slow = (
                    outcome(module, x, choice=choice, watched=list(module.parameters()))
                    for choice in ("auto", "reference")
                )
                differences = ((f.float() - s.float()).abs().max() for f, s in zip(fast, slow, strict=True))
                worst = max(worst, *map(float, differences))
    return worst


@task
def without(module: str) -> dict[str, Any]:
    """Compute where a package cannot be imported."""
    sys.modules[module] = None  # type: ignore[assignment]
    return plain()


@task
def plain() -> dict[str, Any]:
    """Compute."""
    from attngraft.kernels import numba_backend

    return {"distance": distance_from_reference(), "unavailable": numba_backend.unavailable()}


def two_uses(cache: Path) -> dict[str, Any]:
    """Scale and pool a map from four threads at once, and say whether the loops came from the disk.

    In a fork: nothing that its parent compiled is used.
    """
    import torch
    from numba.core import config

    from attngraft import kernels
    from attngraft.kernels import numba_backend

    config.CACHE_DIR = str(cache)
    numba_backend.unavailable.cache_clear()
    numba_backend._compiled.cache_clear()
    x, gate = torch.arange(24.0).view(1, 2, 3, 4), torch.tensor([[2.0, 3.0]])

    def compute(_: int) -> bool:
        scaled = torch.equal(kernels.apply_gates(x, channel=gate), x * gate[..., None, None])
        return scaled and torch.equal(kernels.channel_mean(x), x.mean((2, 3)))

    with ThreadPoolExecutor(4) as pool:
        right = all(pool.map(compute, range(8)))
    unavailable = numba_backend.unavailable()
    hits = (
        []
        if unavailable
        else [numba_backend._compiled(loop, "fp32", "stored").cache_hits for loop in ("scale", "pool_lanes")]
    )
    return {"right": right, "unavailable": unavailable, "cache_hits": hits}


@task
def forks() -> dict[str, Any]:
    """Compute in forked children, with and without threads, and say how each of them ended."""
    import torch

    from attngraft import kernels

    x = torch.randn(4, 64, 16, 16)
    expected = kernels.channel_mean(x)
    ended = {}
    for threads, in_child in ((1, 1), (2, 1), (2, 2)):
        torch.set_num_threads(threads)
        together = torch.equal(kernels.channel_mean(x), expected)
        child = os.fork()
        if child == 0:
            if in_child != threads:
                torch.set_num_threads(in_child)
            found = kernels.channel_mean(x)
            os._exit(0 if together and torch.equal(found, expected) else 1)
        ended[f"{threads} threads, {in_child} in the child"] = exit_code(child)
    return {**ended, "parent": torch.equal(kernels.channel_mean(x), expected), "loader": loader()}


def exit_code(child: int, timeout_s: float = 20) -> int | str:
    """Of a child process; a child that hangs is killed."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


def loader() -> bool:
    """Whether forked workers of a DataLoader compute the right thing while the parent does."""
    import torch
    from torch.utils.data import DataLoader

    from attngraft import kernels

    class Attended(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> torch.Tensor:
            x = torch.full((1, 2, 3, 4), float(index))
            return kernels.apply_gates(x, channel=kernels.channel_mean(x))[0]

    x, right = torch.ones(1, 2, 3, 4), []
    batches = DataLoader(Attended(), batch_size=1, num_workers=2, multiprocessing_context="fork", timeout=20)
    for index, batch in enumerate(batches):
        right += [bool((batch == index * index).all()), torch.equal(kernels.channel_mean(x), torch.ones(1, 2))]
    return all(right) and len(right) == 12


def maps_at_the_end_of_memory() -> str:
    """Run the passes on maps that end at the end of accessible memory: a touch too many ends the process."""
    import ctypes
    import mmap

    import numpy as np
    import torch

    from attngraft.kernels import numba_backend

    def at_the_end(x: torch.Tensor) -> torch.Tensor:
        pages = -(-x.nbytes // mmap.PAGESIZE)
        memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        protect = ctypes.CDLL(None).mprotect
        protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        assert protect(start + pages * mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
        raw = np.frombuffer(memory, np.uint8, x.nbytes, pages * mmap.PAGESIZE - x.nbytes)
        copy = torch.from_numpy(raw).view(x.dtype).view(x.shape)
        copy.copy_(x)
        return copy

    for dtype in (torch.float32, torch.bfloat16):
        for lanes in (17, 49, 196, 1023):
            x, grad = (at_the_end(torch.randn(2, 9, lanes).to(dtype)) for _ in range(2))
            row_gate, lane_gate = at_the_end(torch.rand(2, 9)), at_the_end(torch.rand(2, lanes))
            for maximum in (False, True):
                numba_backend.pool(x, row_gate, "rows", maximum=maximum, ties=maximum, squares="none")
                numba_backend.pool(x, lane_gate, "lanes", maximum=maximum, ties=maximum, squares="none")
            numba_backend.gate_sums(x, grad, row_gate, lane_gate, rows=True, lanes=True)
            numba_backend.scale(x, row_gate, lane_gate)
    return "read"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    json.dump(TASKS[sys.argv[1]](*sys.argv[2:]), sys.stdout)
