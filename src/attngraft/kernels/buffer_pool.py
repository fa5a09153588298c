"""Pool of memory for large outputs, reused from step to step.

PyTorch gives large CPU memory back to the system when a tensor is freed, and the first write to new memory takes a
page fault per 4 KiB: measured, two thirds of the time of a pass that writes one. So the outputs of these kernels are
lent out of blocks that stay, as PyTorch does it on GPUs, and blocks are on large pages where the system has them.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST = 2**20  # bytes: what is smaller, the allocator mostly uses again by itself
MOST_IDLE = 2**30  # bytes of blocks that wait for the next use
ALIGNMENT = 4096
Bytes = NDArray[np.uint8]


@dataclass(eq=False)
class _Block:
    """Memory, and the array that is lent out of it: when that is gone, so is the tensor on top of it."""

    memory: Bytes
    lent: weakref.ref[Bytes]

    def is_idle(self) -> bool:
        return self.lent() is None


@dataclass
class Blocks:
    """Blocks by size; the longest unused come first."""

    by_size: dict[int, list[_Block]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lend(self, size: int) -> Bytes:
        """An array of `size` bytes with anything in it."""
        with self.lock:
            blocks = self.by_size.setdefault(size, [])
            for block in blocks:
                if block.is_idle():
                    return _lend(block, size)
            self._drop_idle(MOST_IDLE)
            block = _Block(_new_memory(size), _GONE)
            blocks.append(block)
            return _lend(block, size)

    def idle_bytes(self) -> int:
        return sum(size for size, blocks in self.by_size.items() for block in blocks if block.is_idle())

    def drop_idle(self) -> None:
        """Give the memory of all idle blocks back."""
        with self.lock:
            self._drop_idle(0)

    def _drop_idle(self, most: int) -> None:
        excess = self.idle_bytes() - most
        for size, blocks in self.by_size.items():
            for block in [block for block in blocks if block.is_idle()]:
                if excess <= 0:
                    return
                blocks.remove(block)
                excess -= size


def _lend(block: _Block, size: int) -> Bytes:
    start = -block.memory.ctypes.data % ALIGNMENT
    array = block.memory[start : start + size]
    block.lent = weakref.ref(array)
    return array


def _nothing() -> None:
    return None


_GONE: Any = _nothing
BLOCKS = Blocks()


def _unlock() -> None:
    """In a forked process: the thread that held the lock is not there to let go."""
    BLOCKS.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def empty_like(x: Tensor) -> Tensor:
    """`torch.empty_like` for contiguous x on the CPU, large ones in memory that was written before."""
    if x.nbytes < SMALLEST:
        return torch.empty_like(x)
    return torch.from_numpy(BLOCKS.lend(x.nbytes)).view(x.dtype).view(x.shape)


def empty_cache() -> None:
    """Give the memory that waits for the next large output back to the system, as `torch.cuda.empty_cache` does."""
    BLOCKS.drop_idle()


def _new_memory(size: int) -> Bytes:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    advise = _madvise()
    if advise is not None:
        start = -(-memory.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
        # Advice only: where it is refused, pages stay small and nothing else changes.
        advise(start, memory.ctypes.data + memory.nbytes - start, mmap.MADV_HUGEPAGE)
    return memory


@functools.cache
def _madvise() -> Any:
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return advise
