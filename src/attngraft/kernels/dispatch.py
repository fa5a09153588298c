"""Decide which kernels run, once per attention call; `using` forces the reference."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import ConfigError, nearest
from . import numba_backend, torch_backend, triton_backend
from .backend import Backend
from .layout import Reading, reading_of
from .self_check import disagreement

log = logging.getLogger(__name__)
Choice = Literal["auto", "reference"]
CHOICES: tuple[Choice, ...] = ("auto", "reference")
VARIABLE = "ATTNGRAFT_KERNELS"  # for a whole process
BACKENDS: dict[str, tuple[ModuleType, frozenset[torch.dtype]]] = {
    "cpu": (numba_backend, frozenset({torch.float32, torch.bfloat16})),
    "cuda": (triton_backend, frozenset({torch.float32, torch.bfloat16, torch.float16})),
}
COMPILED_DTYPES = (torch.float32, torch.bfloat16)
CAN_COMPILE = {
    "cpu": importlib.util.find_spec("numba") is not None,
    "cuda": importlib.util.find_spec("triton") is not None,
}
NOTE = "_attngraft_route"  # an attribute of tensors

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


@dataclass(frozen=True)
class Route:
    """How a map is read, and on which device's backend its passes run; in a graph being compiled, as operators."""

    reading: Reading
    device: str | None

    @property
    def backend(self) -> Backend | None:
        """The backend; None in a graph that is being compiled."""
        return None if self.device is None else cast(Backend, BACKENDS[self.device][0])


def route_of(x: Tensor) -> Route | None:
    """The route that was noted on x when its attention was entered, else the one to take; None for the reference."""
    if torch.compiler.is_compiling():
        takes = CAN_COMPILE.get(x.device.type, False) and x.dtype in COMPILED_DTYPES
        reading = reading_of(x) if takes and not torch.compiler.is_exporting() else None
        return None if reading is None else Route(reading, None)
    noted = getattr(x, NOTE, None)
    return _choose(x) if noted is None else ROUTES[noted]


def _choose(x: Tensor) -> Route | None:
    if not is_plain(x):  # asked first: a batched tensor of vmap cannot tell how it lies in memory
        return None
    reading = reading_of(x)
    return None if reading is None or backend_for(x) is None else Route(reading, x.device.type)


# What is noted is a key of these, so that a tensor with a note can be pickled and loaded like any other.
ROUTES = {
    f"{reading.name} {device}": Route(reading, device)
    for reading in (Reading.CHANNEL_ROWS, Reading.POSITION_ROWS)
    for device in BACKENDS
}


def note_route(x: Tensor, route: Route) -> Tensor:
    """x, on which later calls of `route_of` find the route."""
    setattr(x, NOTE, f"{route.reading.name} {route.device}")
    return x


def is_plain(x: Tensor) -> bool:
    """Whether x is an ordinary tensor in ordinary times: no subclass, no tracing, no transformation of functions.

    Whatever watches or rewrites operations (export, vmap, forward-mode AD, FLOP counters) gets the reference.
    """
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.jit.is_tracing()
        and not x.is_neg()
    )


def backend_for(x: Tensor) -> Backend | None:
    """The fast backend that takes x; None where the reference has to run."""
    backend, dtypes = BACKENDS.get(x.device.type, (None, frozenset()))
    if backend is None or x.dtype not in dtypes or not x.numel() or not _fast_kernels_wanted():
        return None
    return cast(Backend, backend) if _is_available(x.device.type) else None


def fast_or_torch(x: Tensor) -> Backend:
    """The fast backend that takes x, else plain PyTorch."""
    return backend_for(x) or cast(Backend, torch_backend)


@functools.cache
def _is_available(device: str) -> bool:
    reason = BACKENDS[device][0].unavailable() or wrong_on(device)
    if reason is not None:
        log.warning("Attention runs in plain PyTorch, which is slower: %s", reason)
    return reason is None


@functools.cache
def wrong_on(device: str) -> str | None:
    """What the kernels of a GPU compute wrongly here, and what to report; None where they agree with plain PyTorch.

    The kernels of the CPU are not asked: there they are tested, and the first attention would have to wait for them.
    """
    if device != "cuda":
        return None
    backend, dtypes = BACKENDS[device]
    place = torch.device(device) if torch.cuda.is_available() else torch.device("cpu")  # under Triton's interpreter
    found = disagreement(cast(Backend, backend), place, sorted(dtypes, key=str))
    if found is None:
        return None
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "Triton's interpreter"
    versions = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}"
    return f"{found} on {gpu}. Please report this sentence ({versions})."


def _fast_kernels_wanted() -> bool:
    """Whether the user leaves the choice to the library."""
    return (_chosen.get() or _checked(os.environ.get(VARIABLE) or "auto", VARIABLE)) == "auto"


def _checked(choice: str, source: str) -> Choice:
    for known in CHOICES:
        if choice == known:
            return known
    raise ConfigError(f"{source}: {choice!r} is not a choice of kernels; {nearest(choice, CHOICES)}")
