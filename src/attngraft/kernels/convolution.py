"""The small convolution of spatial attention, from a few pooled maps to one.

Libraries are tuned for many channels: from two channels to one, the backward pass of PyTorch's own convolution takes
as long as all passes over a feature map of 64 channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from . import numba_backend
from .dispatch import backend_for, is_plain

MOST_MAPS = 8


def convolve_maps(maps: Tensor, weight: Tensor) -> Tensor:
    """Convolution with zeros around: (B, M, H, W), (1, M, k, k) with k odd -> (B, 1, H, W)."""
    if _is_fast(maps, weight):
        return MapConvolution.apply(maps.float(), weight.float()).to(maps.dtype)
    return F.conv2d(maps, weight, padding=weight.shape[-1] // 2)


def _is_fast(maps: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling() or {maps.device.type, weight.device.type} != {"cpu"}:
        return False
    if not (is_plain(maps) and is_plain(weight)):
        return False
    if maps.dim() != 4 or maps.shape[1] > MOST_MAPS or weight.shape[0] != 1 or weight.shape[2] != weight.shape[3]:
        return False
    return backend_for(maps) is not None


class MapConvolution(Function):
    """`F.conv2d` without a bias, in fp32."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        return numba_backend.convolve(maps, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        maps, weight = ctx.saved_tensors
        wants_maps, wants_weight = ctx.needs_input_grad
        if torch.is_grad_enabled() or not torch._C._has_storage(grad) or torch._C._are_functorch_transforms_active():
            return _gradients_in_pytorch(grad, maps, weight, wants_maps, wants_weight)
        grad_maps = numba_backend.convolve(grad, weight.flip(2, 3).transpose(0, 1)) if wants_maps else None
        return grad_maps, numba_backend.correlate(maps, grad, weight.shape[-1]) if wants_weight else None


def _gradients_in_pytorch(
    grad: Tensor, maps: Tensor, weight: Tensor, wants_maps: bool, wants_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The same in operations that can be differentiated again and batched."""
    padding = weight.shape[-1] // 2
    grad_maps = conv2d_input(maps.shape, weight, grad, padding=padding) if wants_maps else None
    if not wants_weight:
        return grad_maps, None
    return grad_maps, conv2d_weight(maps, weight.shape, grad, padding=padding)
