"""The primitives that attentions call, each on the fastest backend that supports its input.

Shapes and meanings are those of reference.py.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputError
from . import custom_ops, reference
from .autograd_functions import PoolUse, Reduction, ScaleUse, ShiftUse, StripUse, scaled, strip_means
from .backend import Backend, Squares
from .dispatch import BACKENDS, NOTE, Route, is_plain, note_route, route_of
from .gradient_collection import Entrance, pending_of
from .layout import Reading, matrix_shape
from .recompute import normalised

FEWEST_IMAGES = 8  # an image is the work of one thread
LONGEST_STRIP = 512  # numbers that are added one after another
PoolOver = Literal["positions", "channels", "columns", "rows"]


def enter(x: Tensor) -> Tensor:
    """x, prepared for the primitives: which kernels run is decided once, and gradients are collected.

    An attention calls this once on its input. It changes no value. Where gradients are recorded, those of all that is
    computed from the result are collected and written in one pass.

    Raises:
        InputError: x does not hold floating-point numbers.
    """
    if not x.is_floating_point():
        raise InputError(
            f"The feature map is of type {x.dtype}: expected floating-point numbers; convert it with .float()."
        )
    route = None if torch.compiler.is_compiling() else route_of(x)
    if route is None or route.backend is None:
        return x
    if not (torch.is_grad_enabled() and x.requires_grad):
        return x if hasattr(x, NOTE) else note_route(x.view_as(x), route)
    if pending_of(x) is not None:
        return x
    recipe = normalised(x) if route.backend.RECOMPUTES else None
    return note_route(Entrance.apply(x, route.backend, recipe), route)


def channel_mean(x: Tensor) -> Tensor:
    """Mean over positions: (B, C, *) -> (B, C)."""
    found = _pool(x, "positions")
    return reference.channel_mean(x) if found is None else found[0].to(x.dtype)


def channel_max(x: Tensor) -> Tensor:
    """Maximum over positions: (B, C, *) -> (B, C)."""
    found = _pool(x, "positions", maximum=True)
    return reference.channel_max(x) if found is None else found[1].to(x.dtype)


def channel_pool(x: Tensor, spatial: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and maximum over positions of x times a spatial gate: (B, C, *), (B, *) -> twice (B, C)."""
    found = _pool(x, "positions", spatial, maximum=True)
    return reference.channel_pool(x, spatial) if found is None else (found[0].to(x.dtype), found[1].to(x.dtype))


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over positions: (B, C, *) -> twice (B, C); one position has variance 0."""
    found = _pool(x, "positions", squares="centred")
    if found is None:
        return reference.channel_moments(x)
    return found[0], found[1] / max(math.prod(x.shape[2:]) - 1, 1)


def channel_norm(x: Tensor, eps: float) -> Tensor:
    """Square root of eps plus the sum of squares over positions: (B, C, *) -> (B, C)."""
    found = _pool(x, "positions", squares="raw")
    return reference.channel_norm(x, eps) if found is None else (found[1] + eps).sqrt()


def spatial_pool(x: Tensor, channel: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and maximum over channels of x times a channel gate: (B, C, *), (B, C) -> twice (B, *)."""
    found = _pool(x, "channels", channel, maximum=True)
    if found is None:
        return reference.spatial_pool(x, channel)
    shape = (x.shape[0], *x.shape[2:])
    return found[0].to(x.dtype).view(shape), found[1].to(x.dtype).view(shape)


def position_logits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sum over channels of x times a weight per channel, plus a bias: (B, C, *), (C), (1) -> (B, N)."""
    found = _pool(x, "channels", (weight * len(weight)).unsqueeze(0))  # times C, since a mean is taken
    if found is None:
        return reference.position_logits(x, weight, bias)
    return (found[0] if bias is None else found[0] + bias).to(x.dtype)


def attended_mean(x: Tensor, weights: Tensor) -> Tensor:
    """Sum over positions of x times weights: (B, C, *), (B, N) -> (B, C), in x's dtype."""
    found = _pool(x, "positions", weights)
    return reference.attended_mean(x, weights) if found is None else (found[0] * weights.shape[1]).to(x.dtype)


def strip_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of every row and of every column: (B, C, H, W) -> (B, C, H), (B, C, W)."""
    x = enter(x)
    backend = _for_strips(x)
    if backend is not None:
        means = StripUse.apply(x, backend, pending_of(x)) if torch.is_grad_enabled() else strip_means(backend, x)
        return _strip(means[0], x, x.shape[2]), _strip(means[1], x, x.shape[3])
    rows, columns = _pool(x, "columns"), _pool(x, "rows")
    if rows is None or columns is None:
        return reference.strip_pool(x)
    return _strip(rows[0], x, x.shape[2]), _strip(columns[0], x, x.shape[3])


def _for_strips(x: Tensor) -> Backend | None:
    """The backend that finds both means in one read; None where it would not pay, or lose digits, or cannot."""
    route = route_of(x)
    if route is None or route.backend is None or _strip_reading(x, route) is not Reading.LINES:
        return None
    worthwhile = len(x) >= FEWEST_IMAGES and max(x.shape[2:]) <= LONGEST_STRIP
    return route.backend if worthwhile and _suit(x) else None


def strip_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of every row and of every column: (B, C, H, W) -> (B, C, H), (B, C, W)."""
    x = enter(x)
    rows, columns = _pool(x, "columns", maximum=True), _pool(x, "rows", maximum=True)
    if rows is None or columns is None:
        return reference.strip_max(x)
    return _strip(rows[1], x, x.shape[2]), _strip(columns[1], x, x.shape[3])


def apply_gates(
    x: Tensor,
    *,
    channel: Tensor | None = None,
    spatial: Tensor | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> Tensor:
    """x times every gate that is given; shapes as in `broadcast_gates`."""
    gates = (channel, spatial, rows, columns)
    fast = None if all(gate is None for gate in gates) else _scale(x, *gates)
    if fast is None:
        return reference.apply_gates(x, channel=channel, spatial=spatial, rows=rows, columns=columns)
    return fast


def shift(x: Tensor, offset: Tensor) -> Tensor:
    """x plus a number per channel: (B, C, *), (B, C) -> (B, C, *)."""
    route = route_of(x)
    if route is None or route.backend is None or not torch.is_grad_enabled() or not _suit(x, offset):
        return reference.shift(x, offset)
    x = enter(x)
    pending = pending_of(x)
    if pending is None:  # x takes no gradient
        return reference.shift(x, offset)
    return ShiftUse.apply(x, offset, route.reading, route.backend, pending)


def _suit(x: Tensor, *gates: Tensor | None) -> bool:
    """Whether the kernels take these gates beside x."""
    compiling = torch.compiler.is_compiling()
    return all(
        gate is None or (gate.device == x.device and gate.is_floating_point() and (compiling or is_plain(gate)))
        for gate in gates
    )


def _pool(
    x: Tensor, over: PoolOver, gate: Tensor | None = None, *, maximum: bool = False, squares: Squares = "none"
) -> Any:
    """Mean, and maximum or squares, as fp32 (B, lines); None where the reference has to run."""
    route = route_of(x)
    reduction = None if route is None else _reduction(x, route, over, maximum, squares)
    if route is None or reduction is None or not _suit(x, gate):
        return None
    if gate is not None:
        gate = _gate(gate, *_gate_shape(reduction, x.shape))
    if route.backend is None:
        return custom_ops.pool(x, gate, custom_ops.encode(reduction))[:2]
    if not torch.is_grad_enabled():
        return reduction.results(route.backend, x, gate)[:2]
    x = enter(x)
    return PoolUse.apply(x, gate, reduction, route.backend, pending_of(x))


def _reduction(x: Tensor, route: Route, over: PoolOver, maximum: bool, squares: Squares) -> Reduction | None:
    reading = route.reading
    if over in ("rows", "columns"):
        strips = _strip_reading(x, route)
        if strips is None or (strips is Reading.LINES and maximum):
            return None
        return Reduction(strips, "rows" if over == "rows" else "lanes", maximum, squares)
    along_lanes = (over == "positions") == (reading is Reading.CHANNEL_ROWS)
    return Reduction(reading, "lanes" if along_lanes else "rows", maximum, squares)


def _strip_reading(x: Tensor, route: Route) -> Reading | None:
    """How the rows and columns of a map are read; None where only the reference can."""
    if route.reading is Reading.CHANNEL_ROWS:
        return Reading.PLANES
    return Reading.LINES if BACKENDS[x.device.type][0].WIDE_ROWS else None


def _strip(found: Tensor, x: Tensor, n: int) -> Tensor:
    """What was found in n strips as (B, C, n), in x's dtype."""
    batch, channels = x.shape[:2]
    route, found = route_of(x), found.to(x.dtype)
    if route is not None and route.reading is Reading.POSITION_ROWS:
        return found.view(batch, n, channels).transpose(1, 2)
    return found.view(batch, channels, n)


def _gate_shape(reduction: Reduction, shape: torch.Size) -> tuple[int, int]:
    """A pool's gate has one number per element of a pooled line."""
    batch, rows, lanes = matrix_shape(shape, reduction.reading)
    return batch, rows if reduction.over == "rows" else lanes


def _scale(
    x: Tensor, channel: Tensor | None, spatial: Tensor | None, rows: Tensor | None, columns: Tensor | None
) -> Tensor | None:
    """None where the reference has to run."""
    route = route_of(x)
    if route is None or not _suit(x, channel, spatial, rows, columns):
        return None
    reading, strips = route.reading, [gate for gate in (rows, columns) if gate is not None]
    if strips and all(gate.shape[1] == 1 for gate in strips):  # the same for all channels: a spatial gate in two parts
        spatial, strips = _product(rows, columns, spatial).expand(-1, *x.shape[2:]), []
    if strips:
        strip_reading = _strip_reading(x, route)
        if channel is not None or spatial is not None or strip_reading is None:
            return None
        reading = strip_reading
    batch, n_rows, n_lanes = matrix_shape(x.shape, reading)
    if strips:
        row_gate, lane_gate = (
            _strip_gate(gate, x.shape[:2], n, reading) for gate, n in ((rows, x.shape[2]), (columns, x.shape[3]))
        )
        if reading is Reading.LINES and lane_gate is not None:
            lane_gate = lane_gate.flatten(1)
    else:
        by_layout = (channel, spatial) if reading is Reading.CHANNEL_ROWS else (spatial, channel)
        row_gate, lane_gate = (_gate(gate, batch, n) for gate, n in zip(by_layout, (n_rows, n_lanes), strict=True))
    if route.backend is None:
        return custom_ops.scale(x, row_gate, lane_gate, reading.name)
    if not torch.is_grad_enabled():
        return scaled(route.backend, x, row_gate, lane_gate, reading)
    x = enter(x)
    return ScaleUse.apply(x, row_gate, lane_gate, reading, route.backend, pending_of(x))


def _gate(gate: Tensor | None, batch: int, n: int) -> Tensor | None:
    """(B or 1, *) -> (B, n) as the passes take it."""
    return None if gate is None else gate.flatten(1).float().expand(batch, n).contiguous()


def _strip_gate(gate: Tensor | None, planes: torch.Size, n: int, reading: Reading) -> Tensor | None:
    """(B, C or 1, n or 1) -> (B * C, n), in `Reading.LINES` (B, n, C), as the passes take it."""
    if gate is None:
        return None
    gate = gate.float().expand(*planes, n)
    return (gate.transpose(1, 2) if reading is Reading.LINES else gate.flatten(0, 1)).contiguous()


def _product(rows: Tensor | None, columns: Tensor | None, spatial: Tensor | None) -> Tensor:
    """(B, 1, H), (B, 1, W) and (B, H, W), where given -> a spatial gate, (B, H, W) or broadcastable to it."""
    parts = (rows if rows is None else rows.squeeze(1).unsqueeze(2), columns, spatial)
    return functools.reduce(torch.mul, (part for part in parts if part is not None))
