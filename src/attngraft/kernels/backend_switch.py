"""Which kernels run: the fast ones where they can, or the reference on request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from ..errors import ConfigError, nearest

Choice = Literal["auto", "reference"]
CHOICES: tuple[Choice, ...] = ("auto", "reference")
VARIABLE = "ATTNGRAFT_KERNELS"  # for a whole process

_chosen: ContextVar[Choice | None] = ContextVar("attngraft_kernels", default=None)


@contextmanager
def using(choice: Choice) -> Iterator[None]:
    """Within the block, "reference" computes everything in plain PyTorch and "auto" wherever it is fastest.

    The environment variable ATTNGRAFT_KERNELS says the same for a whole process; a block wins over it.
    """
    token = _chosen.set(_checked(choice, "kernels"))
    try:
        yield
    finally:
        _chosen.reset(token)


def fast_kernels_wanted() -> bool:
    """Whether the user leaves the choice to the library."""
    return (_chosen.get() or _checked(os.environ.get(VARIABLE) or "auto", VARIABLE)) == "auto"


def _checked(choice: str, source: str) -> Choice:
    for known in CHOICES:
        if choice == known:
            return known
    raise ConfigError(f"{source}: {choice!r} is not a choice of kernels; {nearest(choice, CHOICES)}")
