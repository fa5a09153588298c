"""Detect running out of memory, and split work until it fits."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch

from ..errors import TrainingError, first_line

Found = TypeVar("Found")
# what the allocators of the CPU (Linux, Windows), of MPS and of CUDA's libraries say in a plain RuntimeError
SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")

ONEDNN_SIGNS = ("could not create a primitive", "could not execute a primitive")  # and nothing else in the message


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return any(sign in str(error) for sign in SIGNS) or str(error).strip() in ONEDNN_SIGNS


@contextmanager
def memory_needed() -> Iterator[None]:
    """Turn running out of memory, within the block, into a TrainingError."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
        raise TrainingError(
            f"memory does not suffice to train this network ({reason}): take a smaller backbone or smaller images "
            "(image_size), or free memory; what is saved stays."
        ) from None


def free_memory() -> None:
    """Free what a failed attempt left; call it outside of `except`, because the exception holds tensors."""
    gc.collect(1)  # its tensors are young, and a full collection takes a second in a large process
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def slices(count: int, parts: int) -> list[slice]:
    """Split `count` items into parts whose sizes differ by at most one, the larger ones first.

    >>> slices(5, 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    size, larger = divmod(count, parts)
    ends = [number * size + min(number, larger) for number in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


class Portions:
    """Processes a batch in as few parts as memory allows, twice as many after every failure.

    Args:
        note: called with a sentence at every split.
    """

    def __init__(self, note: Callable[[str], None] | None = None) -> None:
        self.note = note
        self.parts = 1

    def do(self, work: Callable[[int], Found], count: int, what: str) -> Found:
        """Call `work(most)`, which processes `count` images, at most `most` at a time.

        Raises:
            TrainingError: out of memory for a single image.
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
