"""The passes as formulas in plain PyTorch: what every backend is compared with.

Sums are given as their terms (B, R, L) in float64, so that a test can judge an error by their magnitude. What is
compared for equality, x times a gate against its maximum, is one fp32 product, as the contract says.
"""

import torch
from torch import Tensor

from attngraft.kernels.backend import PoolGradient

ROWS, LANES = 1, 2  # dimensions of (B, R, L)


def across(line: Tensor, dim: int) -> Tensor:
    """Numbers that vary along one dimension of (B, R, L), (B, R) or (B, L), to broadcast along the other."""
    return line.unsqueeze(LANES if dim == ROWS else ROWS)


def product(x: Tensor, gate: Tensor | None, dim: int) -> Tensor:
    """x times a gate that varies along dim, in fp32."""
    return x.float() if gate is None else x.float() * across(gate, dim)


def maxima(x: Tensor, gate: Tensor | None, dim: int) -> tuple[Tensor, Tensor]:
    """Maximum of x * gate along dim, and its number of ties."""
    values = product(x, gate, dim)
    return values.amax(dim), (values == values.amax(dim, keepdim=True)).sum(dim).float()


def squared(x: Tensor, dim: int, squares: str) -> Tensor:
    """The terms of the sum of squares, "raw" or "centred"."""
    x = x.double()
    return x.square() if squares == "raw" else (x - x.mean(dim, keepdim=True)).square()


def scaled(x: Tensor, row_gate: Tensor | None = None, lane_gate: Tensor | None = None) -> Tensor:
    """x times both gates."""
    x = x.double()
    x = x if row_gate is None else x * across(row_gate, ROWS)
    return x if lane_gate is None else x * across(lane_gate, LANES)


def pool_weight(x: Tensor, pooled: PoolGradient, dim: int) -> Tensor:
    """What flows back to x * gate through a pool along dim."""
    weight = across(pooled.weight, ROWS + LANES - dim).double().expand(x.shape)
    if pooled.maximum is None:
        return weight
    hits = product(x, pooled.gate, dim) == across(pooled.maximum, ROWS + LANES - dim)
    return weight + torch.where(hits, across(pooled.share, ROWS + LANES - dim).double(), 0.0)


def pool_input_gradient(x: Tensor, pooled: PoolGradient, dim: int) -> Tensor:
    """What flows back to x through a pool along dim."""
    weight = pool_weight(x, pooled, dim)
    return weight if pooled.gate is None else across(pooled.gate, dim) * weight


def input_terms(
    x: Tensor,
    grad: Tensor | None = None,
    row_gate: Tensor | None = None,
    lane_gate: Tensor | None = None,
    over_rows: PoolGradient | None = None,
    over_lanes: PoolGradient | None = None,
    row_factor: Tensor | None = None,
    lane_factor: Tensor | None = None,
) -> list[Tensor]:
    """What `input_gradient` adds up."""
    terms = [] if grad is None else [scaled(grad, row_gate, lane_gate)]
    terms += [] if over_rows is None else [pool_input_gradient(x, over_rows, ROWS)]
    terms += [] if over_lanes is None else [pool_input_gradient(x, over_lanes, LANES)]
    factors = row_factor is not None or lane_factor is not None
    return [*terms, scaled(x, row_factor, lane_factor)] if factors else terms
