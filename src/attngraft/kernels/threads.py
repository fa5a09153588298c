"""Run a compiled loop on PyTorch's threads.

PyTorch's OpenMP threads spin for a while after each of its operations; a second pool would fight them for the
cores. So loops are handed to the OpenMP runtime that PyTorch has loaded. Where it cannot be found (builds
without OpenMP, Windows) short-lived threads do the same work.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

IMPORTED_BY = os.getpid()
LIBRARIES = ("libtorch_cpu.so", "libtorch_cpu.dylib")


def run_loop(address: int, arguments: Sequence[int]) -> None:
    """Call the loop at a machine address on every thread; it returns when all tasks are done.

    Args:
        address: of a C function `void loop(int64_t *arguments)` that draws its tasks from arguments[0].
        arguments: what follows the counter of tasks.
    """
    values = (ctypes.c_int64 * (len(arguments) + 1))(0, *arguments)
    threads = torch.get_num_threads()
    if threads == 1 or os.getpid() != IMPORTED_BY:  # a forked process has none of its parent's threads
        _function(address)(ctypes.addressof(values))
    else:
        _start_threads()(address, ctypes.addressof(values), threads)


@functools.cache
def _start_threads() -> Callable[[int, int, int], None]:
    runtime = _openmp()
    if runtime is None:
        return _start_python_threads

    def start(address: int, arguments: int, threads: int) -> None:
        runtime(address, arguments, threads, 0)

    return start


@functools.cache
def _openmp() -> Any:
    """`GOMP_parallel` of the runtime that PyTorch uses: GNU's, and LLVM's and Intel's offer it as well."""
    for name in LIBRARIES:
        path = Path(torch.__file__).parent / "lib" / name
        if path.exists():
            function = getattr(ctypes.CDLL(str(path)), "GOMP_parallel", None)
            if function is not None:
                function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
                function.restype = None
                return function
    return None


def _start_python_threads(address: int, arguments: int, threads: int) -> None:
    function = _function(address)  # ctypes releases the interpreter lock during the call
    helpers = [threading.Thread(target=function, args=(arguments,)) for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    function(arguments)
    for helper in helpers:
        helper.join()


@functools.cache
def _function(address: int) -> Callable[[int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
