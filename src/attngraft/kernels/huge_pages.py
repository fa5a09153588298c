"""Outputs of a map's size, on large pages where the system has them.

PyTorch gives freed CPU memory back to the system at once, so the first write to a large output takes a page fault
per 4 KiB: measured, two thirds of the time of a pass that writes one.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from typing import Any

import torch
from torch import Tensor

WORTH_IT = 4 * 2**20  # bytes: below, PyTorch's allocator mostly reuses memory


def empty_like(x: Tensor) -> Tensor:
    """`torch.empty_like` in memory that is cheap to write for the first time."""
    out = torch.empty_like(x)
    advise = _madvise() if out.nbytes >= WORTH_IT else None
    if advise is not None:
        start = -(-out.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        # Advice only: where it is refused, pages stay small and nothing else changes.
        advise(start, out.data_ptr() + out.nbytes - start, mmap.MADV_HUGEPAGE)
    return out


@functools.cache
def _madvise() -> Any:
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return advise
