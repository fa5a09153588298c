"""Which backend runs for a given tensor."""

from __future__ import annotations

import functools
import logging
from types import ModuleType
from typing import cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import numba_backend, torch_backend, triton_backend
from .backend import Passes
from .backend_switch import fast_kernels_wanted

log = logging.getLogger(__name__)
BACKENDS: dict[str, tuple[ModuleType, frozenset[torch.dtype]]] = {
    "cpu": (numba_backend, frozenset({torch.float32, torch.bfloat16})),
    "cuda": (triton_backend, frozenset({torch.float32, torch.bfloat16, torch.float16})),
}


def is_plain(x: Tensor) -> bool:
    """Whether x is an ordinary tensor in ordinary times: no subclass, no tracing, no transformation of functions.

    Whatever watches or rewrites operations (export, vmap, forward-mode AD, counters of FLOPs) gets the reference.
    """
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.jit.is_tracing()
        and not x.is_neg()
    )


def passes_for(x: Tensor) -> Passes | None:
    """The backend that takes x; None where the reference has to run."""
    backend, dtypes = BACKENDS.get(x.device.type, (None, frozenset()))
    if backend is None or x.dtype not in dtypes or not x.numel() or not fast_kernels_wanted():
        return None
    return cast(Passes, backend) if _is_available(x.device.type) else None


@functools.cache
def _is_available(device: str) -> bool:
    reason = BACKENDS[device][0].unavailable()
    if reason is not None:
        log.warning("Attention runs in plain PyTorch, which is slower: %s", reason)
    return reason is None


def passes_or_plain(x: Tensor) -> Passes:
    """The backend that takes x, or plain PyTorch."""
    return passes_for(x) or cast(Passes, torch_backend)
