"""Work in portions that fit into memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch

from ..errors import TrainingError

Found = TypeVar("Found")
# what the allocators of the CPU (Linux, Windows), of MPS and of CUDA's libraries say in a plain RuntimeError
SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")

ONEDNN_SIGNS = ("could not create a primitive", "could not execute a primitive")  # and nothing else in the message


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how memory that does not suffice shows."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return any(sign in str(error) for sign in SIGNS) or str(error).strip() in ONEDNN_SIGNS


@contextmanager
def memory_needed() -> Iterator[None]:
    """Where memory does not suffice within the block for what cannot be done in parts, that is said in a sentence.

    Raises:
        TrainingError: it does not.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise TrainingError(
            f"memory does not suffice to train this network ({reason}): take a smaller backbone or smaller images "
            "(image_size), or free memory; what is saved stays."
        ) from None


def free_memory() -> None:
    """Give back what a failed attempt has left; call it when its exception is gone, which holds its tensors."""
    gc.collect(1)  # what holds its tensors is young, and a whole collection takes a second in a large process
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def slices(count: int, parts: int) -> list[slice]:
    """Cut `count` things into parts whose sizes differ by one at most, the larger ones first.

    >>> slices(5, 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    size, larger = divmod(count, parts)
    ends = [number * size + min(number, larger) for number in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


class Portions:
    """Does work on as many images at a time as memory allows: half as many after each failure, and so from then on.

    Args:
        note: gets a sentence for every halving.
    """

    def __init__(self, note: Callable[[str], None] | None = None) -> None:
        self.note = note
        self.parts = 1

    def do(self, work: Callable[[int], Found], count: int, what: str) -> Found:
        """`work(most)`, which handles `count` images, at most `most` at a time.

        Raises:
            TrainingError: memory does not suffice for one image.
        """
        while True:
            most = -(-count // self.parts)
            try:
                return work(most)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            free_memory()
            if most == 1:
                raise TrainingError(
                    f"{what} ran out of memory with one image at a time: take smaller images (image_size) or a "
                    "smaller backbone, or free memory."
                )
            self.parts *= 2
            if self.note is not None:
                self.note(f"{what} ran out of memory with {most} images at a time and goes on with half as many.")
