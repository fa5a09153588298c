"""What a backend has to offer: passes over a feature map that is read as a batch of matrices.

A map (B, C, *) is a batch of matrices (B, R, L) of rows and lanes, where lanes lie side by side in memory:
contiguous maps have channels as rows and positions as lanes, channels_last maps have positions as rows and
channels as lanes. Every primitive, forward and backward, is one of the passes below in either layout; what is
a channel gate here is a row gate there. So a backend knows nothing of channels, positions or autograd.

All backends share these rules. x is contiguous in (B, R, L), fp32, bf16 or (on GPUs) fp16, and not empty.
Everything small, (B, R) or (B, L), is contiguous fp32, in and out; arithmetic is in fp32. An absent gate
counts as 1. Maxima propagate NaN. Reductions run in an order that depends on the shape alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

Squares = Literal["none", "raw", "centred"]


@dataclass(frozen=True)
class Pooled:
    """What a pool found, one number per row (B, R) or per lane (B, L).

    Attributes:
        total: the sum.
        maximum: the largest value, where it was asked for.
        ties: how many values equal the maximum, as fp32, where it was asked for; 0 where the maximum is NaN.
        squares: the sum of squares ("raw") or of squared deviations from the mean ("centred"), where asked for.
    """

    total: Tensor
    maximum: Tensor | None = None
    ties: Tensor | None = None
    squares: Tensor | None = None


@dataclass(frozen=True)
class PoolGradient:
    """The gradient that flows back through a pool of x times a gate.

    With v = x * gate and the pooled line j that an element belongs to, the element's share of the gradient
    with respect to v is weight[j] + (share[j] where v equals maximum[j]).

    Attributes:
        weight: one number per pooled line.
        gate: one number per element of a line, or None.
        maximum: as the pool found it, None where it was not used.
        share: gradient of the maximum divided by the number of ties; None exactly where maximum is.
    """

    weight: Tensor
    gate: Tensor | None = None
    maximum: Tensor | None = None
    share: Tensor | None = None


@dataclass(frozen=True)
class Remade:
    """A map x that was not kept: source * slope + offset, rounded once, and once more to source's dtype.

    Only backends whose `REMAKES` is True are given one.

    Attributes:
        source: (B, R, L).
        slope: (B, R), or (B, L) where by_lane.
        offset: the same shape.
        by_lane: what slope and offset go by.
    """

    source: Tensor
    slope: Tensor
    offset: Tensor
    by_lane: bool


class Passes(Protocol):
    """A backend. Every function reads each big tensor once unless it says otherwise."""

    REMAKES: bool

    def pool_lanes(self, x: Tensor, lane_gate: Tensor | None, *, maximum: bool, ties: bool, squares: Squares) -> Pooled:
        """Reduce each row of x * lane_gate over its lanes: (B, R, L), (B, L) -> (B, R) each.

        "squares" other than "none" comes without a gate. `ties` implies `maximum`.
        """

    def pool_rows(self, x: Tensor, row_gate: Tensor | None, *, maximum: bool, ties: bool, squares: Squares) -> Pooled:
        """Reduce each lane of x * row_gate over the rows: (B, R, L), (B, R) -> (B, L) each."""

    def scale(self, x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None) -> Tensor:
        """x * (row_gate * lane_gate), in x's dtype; exactly x where both are 1."""

    def gate_sums(
        self,
        x: Tensor | Remade,
        grad: Tensor,
        row_gate: Tensor | None,
        lane_gate: Tensor | None,
        *,
        rows: bool,
        lanes: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of `scale` with respect to its gates; None for one that is not wanted.

        For rows (B, R): the sum over lanes of x * grad * lane_gate. For lanes (B, L): the sum over rows of
        x * grad * row_gate. grad has x's shape and dtype.
        """

    def weigh_lanes(self, x: Tensor | Remade, pooled: PoolGradient) -> Tensor:
        """The gradient of `pool_rows` with respect to its row gate: (B, R).

        pooled.weight, maximum and share are (B, L), pooled.gate is (B, R) or None (all 1):
        the sum over lanes of x * (weight[l] + (share[l] where x * gate[r] equals maximum[l])).
        """

    def weigh_rows(self, x: Tensor | Remade, pooled: PoolGradient) -> Tensor:
        """The gradient of `pool_lanes` with respect to its lane gate: (B, L).

        pooled.weight, maximum and share are (B, R), pooled.gate is (B, L) or None (all 1):
        the sum over rows of x * (weight[r] + (share[r] where x * gate[l] equals maximum[r])).
        """

    def input_gradient(
        self,
        like: Tensor,
        *,
        x: Tensor | Remade | None = None,
        grad: Tensor | None = None,
        row_gate: Tensor | None = None,
        lane_gate: Tensor | None = None,
        over_rows: PoolGradient | None = None,
        over_lanes: PoolGradient | None = None,
        row_factor: Tensor | None = None,
        lane_factor: Tensor | None = None,
    ) -> Tensor:
        """Everything that flows back to x, in one pass, in the dtype and shape (B, R, L) of `like`.

        The sum of those of these that are given:
            grad * row_gate * lane_gate                                                        (from `scale`)
            gate[r] * (weight[l] + (share[l] where x * gate[r] equals maximum[l]))   (over_rows, from `pool_rows`)
            gate[l] * (weight[r] + (share[r] where x * gate[l] equals maximum[r])) (over_lanes, from `pool_lanes`)
            x * row_factor[r],  x * lane_factor[l]                                 (from squares; at most one of them)
        x is given where a maximum or a factor is, and read only then.
        """
