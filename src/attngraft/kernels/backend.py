"""The interface of a backend: passes over a feature map as a batch of matrices.

A map (B, C, *) is a batch of matrices (B, R, L) of rows and lanes, where lanes lie side by side in memory:
contiguous maps have channels as rows and positions as lanes, channels_last maps have positions as rows and
channels as lanes. Every primitive, forward and backward, is one of the passes below in either layout; a channel
gate of one is a row gate of the other. So a backend knows nothing of channels, positions or autograd.

All backends share these rules. x is contiguous in (B, R, L), fp32, bf16 or (on GPUs) fp16, and not empty.
Everything small, (B, R) or (B, L), is contiguous fp32, in and out; arithmetic is in fp32. An absent gate
counts as 1. Maxima propagate NaN. Reductions run in an order that depends on the shape alone.

What belongs to rows may be wide in `scale`, `gate_sums` and `input_gradient`: (B, R, I), where I divides L, has I
numbers per row, and lane l takes number l mod I. Beside wide rows there are neither maxima nor factors. Coordinate
attention in channels_last is made of this: a row is a line of the map, and I are the channels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

from torch import Tensor

Over = Literal["rows", "lanes"]
Squares = Literal["none", "raw", "centred"]


@dataclass(frozen=True)
class Pooled:
    """Results of a pool, one number per lane (B, L) where it is over rows, per row (B, R) where it is over lanes.

    Attributes:
        total: the sum.
        maximum: the largest value, if requested.
        ties: how many values equal the maximum, as fp32, if requested; 0 where the maximum is NaN.
        squares: the sum of squares ("raw") or of squared deviations from the mean ("centred"), if requested.
    """

    total: Tensor
    maximum: Tensor | None = None
    ties: Tensor | None = None
    squares: Tensor | None = None


@dataclass(frozen=True)
class PoolGradient:
    """The gradient that flows back through a pool of x times a gate.

    With v = x * gate and j the pooled line of an element, the gradient with respect to v is
    weight[j] + (share[j] where v equals maximum[j]).

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
class Recomputed:
    """A map x that was not stored: source * slope + offset, rounded once, and once more to source's dtype.

    Only backends whose `RECOMPUTES` is True are given one.

    Attributes:
        source: (B, R, L).
        slope: (B, R), or (B, L) where by_lane.
        offset: the same shape.
        by_lane: whether slope and offset belong to lanes.
    """

    source: Tensor
    slope: Tensor
    offset: Tensor
    by_lane: bool


@dataclass(frozen=True)
class GradientTerms:
    """What the gradient of x is the sum of; absent terms are None.

    Attributes:
        x: read, and needed, only where there is a maximum or a factor.
        grad, row_gate, lane_gate: grad * row_gate * lane_gate, from `scale`.
        over_rows: gate[r] * (weight[l] + (share[l] where x * gate[r] equals maximum[l])), from a pool over rows.
        over_lanes: gate[l] * (weight[r] + (share[r] where x * gate[l] equals maximum[r])), from a pool over lanes.
        row_factor, lane_factor: x * row_factor[r] or x * lane_factor[l], from squares; at most one of them.
    """

    x: Tensor | Recomputed | None = None
    grad: Tensor | None = None
    row_gate: Tensor | None = None
    lane_gate: Tensor | None = None
    over_rows: PoolGradient | None = None
    over_lanes: PoolGradient | None = None
    row_factor: Tensor | None = None
    lane_factor: Tensor | None = None

    def given(self) -> dict[str, Any]:
        """The terms that are not None, by name."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in named if value is not None}


class Backend(Protocol):
    """A module with these functions. Each reads every big tensor once.

    Attributes:
        RECOMPUTES: whether maps may come as `Recomputed`.
        WIDE_ROWS: whether row tensors may be wide.
    """

    RECOMPUTES: bool
    WIDE_ROWS: bool

    def pool(
        self, x: Tensor, gate: Tensor | None, over: Over, *, maximum: bool, ties: bool, squares: Squares
    ) -> Pooled:
        """Reduce x * gate, over "rows" with a row gate (B, R) or over "lanes" with a lane gate (B, L).

        `squares` other than "none" comes without a gate. `ties` implies `maximum`.
        """

    def strip_sums(self, x: Tensor, inner: int) -> tuple[Tensor, Tensor]:
        """Sums over the lanes, wide (B, R, inner), and over the rows (B, L), in one read; only with `WIDE_ROWS`."""

    def scale(self, x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None) -> Tensor:
        """x * (row_gate * lane_gate), in x's dtype; exactly x where both are 1."""

    def gate_sums(
        self,
        x: Tensor | Recomputed,
        grad: Tensor,
        row_gate: Tensor | None,
        lane_gate: Tensor | None,
        *,
        rows: bool,
        lanes: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of `scale` with respect to its gates; None for one that is not requested.

        For rows (B, R): the sum over lanes of x * grad * lane_gate. For lanes (B, L): the sum over rows of
        x * grad * row_gate. grad has x's shape and dtype.
        """

    def pool_gate_gradient(self, x: Tensor | Recomputed, pooled: PoolGradient, over: Over) -> Tensor:
        """The gradient of `pool` with respect to its gate.

        Over rows (B, R): the sum over lanes of x * (weight[l] + (share[l] where x * gate[r] equals maximum[l])).
        Over lanes (B, L): the sum over rows of x * (weight[r] + (share[r] where x * gate[l] equals maximum[r])).
        """

    def input_gradient(self, like: Tensor, terms: GradientTerms) -> Tensor:
        """The sum of all terms, in the dtype and shape (B, R, L) of `like`."""
