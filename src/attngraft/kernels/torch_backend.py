"""The passes in plain PyTorch, on any device and differentiable: for compiled graphs where no fast kernel can run,
and for gradients of gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import GradientTerms, Over, Pooled, PoolGradient, Recomputed, Squares

RECOMPUTES = False
WIDE_ROWS = True
DIMS: dict[Over, int] = {"rows": 1, "lanes": 2}


def pool(x: Tensor, gate: Tensor | None, over: Over, *, maximum: bool, ties: bool, squares: Squares) -> Pooled:
    values, dim = _gated(x, gate, None) if over == "rows" else _gated(x, None, gate), DIMS[over]
    found = values.amax(dim) if maximum else None
    equal = (values == found.unsqueeze(dim)).sum(dim).float() if found is not None and ties else None
    if squares == "none":
        return Pooled(values.sum(dim), found, equal)
    centred = values - values.mean(dim, keepdim=True) if squares == "centred" else values
    return Pooled(values.sum(dim), found, equal, centred.square().sum(dim))


def strip_sums(x: Tensor, inner: int) -> tuple[Tensor, Tensor]:
    values = x.float()
    return values.unflatten(2, (-1, inner)).sum(2), values.sum(1)


def scale(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None) -> Tensor:
    return _gated(x, row_gate, lane_gate).to(x.dtype)


def gate_sums(
    x: Tensor, grad: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, *, rows: bool, lanes: bool
) -> tuple[Tensor | None, Tensor | None]:
    product = x.float() * grad
    by_row = _sum_of_lanes(_gated(product, None, lane_gate), row_gate) if rows else None
    return by_row, _gated(product, row_gate, None).sum(1) if lanes else None


def pool_gate_gradient(x: Tensor, pooled: PoolGradient, over: Over) -> Tensor:
    return (x.float() * _arriving(x, pooled, DIMS[over], x.shape[2])).sum(3 - DIMS[over])


def input_gradient(like: Tensor, terms: GradientTerms) -> Tensor:
    x, total = terms.x, torch.zeros_like(like, dtype=torch.float32)
    assert not isinstance(x, Recomputed)
    if terms.grad is not None:
        total = total + _gated(terms.grad, terms.row_gate, terms.lane_gate)
    if terms.over_rows is not None:
        total = total + _gated(_arriving(x, terms.over_rows, 1, like.shape[2]), terms.over_rows.gate, None)
    if terms.over_lanes is not None:
        total = total + _gated(_arriving(x, terms.over_lanes, 2, like.shape[2]), None, terms.over_lanes.gate)
    for factor, dim in ((terms.row_factor, 2), (terms.lane_factor, 1)):
        if factor is not None and x is not None:
            total = total + x.float() * factor.unsqueeze(dim)
    return total.to(like.dtype)


def along_lanes(line: Tensor, lanes: int) -> Tensor:
    """What belongs to rows, (B, R) or wide (B, R, I) -> (B, R, 1) or (B, R, L), to broadcast along the lanes."""
    return line.unsqueeze(2) if line.dim() == 2 else line.repeat(1, 1, lanes // line.shape[2])


def _sum_of_lanes(values: Tensor, row_gate: Tensor | None) -> Tensor:
    """(B, R, L) -> (B, R), or as wide as the gate of the rows."""
    if row_gate is None or row_gate.dim() == 2:
        return values.sum(2)
    batch, rows, _ = values.shape
    return values.reshape(batch, rows, -1, row_gate.shape[2]).sum(2)  # no `unflatten`: vmap has no rule for it


def _arriving(x: Tensor | None, pooled: PoolGradient, dim: int, lanes: int) -> Tensor:
    """The gradient of x times the gate from a pool over `dim`, (B, R, L) or broadcastable to it."""
    weight = pooled.weight.unsqueeze(1) if dim == 1 else along_lanes(pooled.weight, lanes)
    if pooled.maximum is None or pooled.share is None or x is None:
        return weight
    gated = x.float() if pooled.gate is None else x.float() * pooled.gate.unsqueeze(3 - dim)
    return weight + torch.where(gated == pooled.maximum.unsqueeze(dim), pooled.share.unsqueeze(dim), 0.0)


def _gated(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None) -> Tensor:
    values = x.float()
    if row_gate is not None and lane_gate is not None:
        return values * (along_lanes(row_gate, values.shape[2]) * lane_gate.unsqueeze(1))
    if row_gate is not None:
        return values * along_lanes(row_gate, values.shape[2])
    return values if lane_gate is None else values * lane_gate.unsqueeze(1)
