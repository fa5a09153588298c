"""The primitives in plain PyTorch: the definition that every backend must match.

A gate is cast to the dtype of x before it multiplies x, so the dtype and the memory format of x are kept.
Statistics that square x are computed and returned in at least fp32: squares of fp16 activations overflow.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def channel_mean(x: Tensor) -> Tensor:
    """Mean over positions: (B, C, *) -> (B, C)."""
    return x.mean(_position_dims(x))


def channel_max(x: Tensor) -> Tensor:
    """Maximum over positions: (B, C, *) -> (B, C)."""
    return x.amax(_position_dims(x))


def channel_pool(x: Tensor, spatial: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and maximum over positions of x times a spatial gate: (B, C, *), (B, *) -> twice (B, C)."""
    x = apply_gates(x, spatial=spatial)
    return channel_mean(x), channel_max(x)


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over positions: (B, C, *) -> twice (B, C); one position has variance 0."""
    correction = _at_least_one(math.prod(x.shape[2:]) - 1)
    wide, dims = _at_least_fp32(x), _position_dims(x)
    mean = wide.mean(dims, keepdim=True)
    return mean.flatten(1), (wide - mean).square().sum(dims) / correction


def channel_norm(x: Tensor, eps: float) -> Tensor:
    """Square root of eps plus the sum of squares over positions: (B, C, *) -> (B, C)."""
    return (_at_least_fp32(x).square().sum(_position_dims(x)) + eps).sqrt()


def spatial_pool(x: Tensor, channel: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and maximum over channels of x times a channel gate: (B, C, *), (B, C) -> twice (B, *)."""
    x = apply_gates(x, channel=channel)
    return x.mean(1), x.amax(1)


def position_logits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sum over channels of x times a weight per channel, plus a bias: (B, C, *), (C), (1) -> (B, N)."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv1d(x.flatten(2), weight.to(x.dtype).view(1, -1, 1), bias).squeeze(1)


def attended_mean(x: Tensor, weights: Tensor) -> Tensor:
    """Sum over positions of x times weights: (B, C, *), (B, N) -> (B, C)."""
    return (x.flatten(2) @ weights.to(x.dtype).unsqueeze(2)).squeeze(2)


def strip_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of every row and of every column: (B, C, H, W) -> (B, C, H), (B, C, W)."""
    return x.mean(3), x.mean(2)


def strip_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of every row and of every column: (B, C, H, W) -> (B, C, H), (B, C, W)."""
    return x.amax(3), x.amax(2)


def apply_gates(
    x: Tensor,
    *,
    channel: Tensor | None = None,
    spatial: Tensor | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> Tensor:
    """x times every gate that is given; shapes as in `broadcast_gates`."""
    for gate in broadcast_gates(x, channel=channel, spatial=spatial, rows=rows, columns=columns):
        x = x * gate
    return x


def shift(x: Tensor, offset: Tensor) -> Tensor:
    """x plus a number per channel: (B, C, *), (B, C) -> (B, C, *)."""
    return x + offset[(...,) + (None,) * (x.dim() - 2)].to(x.dtype)


def broadcast_gates(
    x: Tensor,
    *,
    channel: Tensor | None = None,
    spatial: Tensor | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> list[Tensor]:
    """The gates that are given, in x's dtype and shaped to broadcast against x.

    Shape:
        x (B, C, *), channel (B, C), spatial (B, *), rows (B, C or 1, H), columns (B, C or 1, W).
    """
    shaped = (
        None if channel is None else channel[(...,) + (None,) * (x.dim() - 2)],
        None if spatial is None else spatial.unsqueeze(1),
        None if rows is None else rows.unsqueeze(-1),
        None if columns is None else columns.unsqueeze(-2),
    )
    return [gate.to(x.dtype) for gate in shaped if gate is not None]


def _at_least_one(count: Any) -> Any:
    """The count, at least 1: an int, symbolic in `torch.export`, a tensor where TorchScript traces (ONNX)."""
    if torch.jit.is_tracing() and isinstance(count, Tensor):
        return count.clamp(min=1)
    return torch.sym_max(count, 1)  # type: ignore[arg-type]


def _position_dims(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
