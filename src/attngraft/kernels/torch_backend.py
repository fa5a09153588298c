"""The passes in plain PyTorch, on any device and differentiable: what runs inside a compiled graph where no fast
kernel can, and what gradients of gradients are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Pooled, PoolGradient, Squares

REMAKES = False


def pool_lanes(x: Tensor, lane_gate: Tensor | None, *, maximum: bool, ties: bool, squares: Squares) -> Pooled:
    return _pool(_gated(x, None, lane_gate), 2, maximum, ties, squares)


def pool_rows(x: Tensor, row_gate: Tensor | None, *, maximum: bool, ties: bool, squares: Squares) -> Pooled:
    return _pool(_gated(x, row_gate, None), 1, maximum, ties, squares)


def scale(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None) -> Tensor:
    return _gated(x, row_gate, lane_gate).to(x.dtype)


def gate_sums(
    x: Tensor, grad: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, *, rows: bool, lanes: bool
) -> tuple[Tensor | None, Tensor | None]:
    product = _wide(x) * grad
    by_row = _gated(product, None, lane_gate).sum(2) if rows else None
    return by_row, _gated(product, row_gate, None).sum(1) if lanes else None


def weigh_lanes(x: Tensor, pooled: PoolGradient) -> Tensor:
    return (_wide(x) * _arriving(x, pooled, 1)).sum(2)


def weigh_rows(x: Tensor, pooled: PoolGradient) -> Tensor:
    return (_wide(x) * _arriving(x, pooled, 2)).sum(1)


def input_gradient(
    like: Tensor,
    *,
    x: Tensor | None = None,
    grad: Tensor | None = None,
    row_gate: Tensor | None = None,
    lane_gate: Tensor | None = None,
    over_rows: PoolGradient | None = None,
    over_lanes: PoolGradient | None = None,
    row_factor: Tensor | None = None,
    lane_factor: Tensor | None = None,
) -> Tensor:
    total = torch.zeros_like(like, dtype=torch.float32)
    if grad is not None:
        total = total + _gated(grad, row_gate, lane_gate)
    if over_rows is not None:
        total = total + _gated(_arriving(x, over_rows, 1), over_rows.gate, None)
    if over_lanes is not None:
        total = total + _gated(_arriving(x, over_lanes, 2), None, over_lanes.gate)
    for factor, dim in ((row_factor, 2), (lane_factor, 1)):
        if factor is not None and x is not None:
            total = total + _wide(x) * factor.unsqueeze(dim)
    return total.to(like.dtype)


def _pool(values: Tensor, dim: int, maximum: bool, ties: bool, squares: Squares) -> Pooled:
    found = values.amax(dim) if maximum else None
    equal = (values == found.unsqueeze(dim)).sum(dim).float() if found is not None and ties else None
    if squares == "none":
        return Pooled(values.sum(dim), found, equal)
    centred = values - values.mean(dim, keepdim=True) if squares == "centred" else values
    return Pooled(values.sum(dim), found, equal, centred.square().sum(dim))


def _arriving(x: Tensor | None, pooled: PoolGradient, dim: int) -> Tensor:
    """What arrives at x times the gate from a pool over `dim`, (B, R, L) or broadcastable to it."""
    weight = pooled.weight.unsqueeze(dim)
    if pooled.maximum is None or pooled.share is None or x is None:
        return weight
    gated = _wide(x) if pooled.gate is None else _wide(x) * pooled.gate.unsqueeze(3 - dim)
    return weight + torch.where(gated == pooled.maximum.unsqueeze(dim), pooled.share.unsqueeze(dim), 0.0)


def _gated(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None) -> Tensor:
    values = _wide(x)
    if row_gate is not None and lane_gate is not None:
        return values * (row_gate.unsqueeze(2) * lane_gate.unsqueeze(1))
    if row_gate is not None:
        return values * row_gate.unsqueeze(2)
    return values if lane_gate is None else values * lane_gate.unsqueeze(1)


def _wide(x: Tensor) -> Tensor:
    return x.float()
