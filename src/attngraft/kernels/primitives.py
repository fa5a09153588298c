"""The primitives as attentions call them: each runs on the fastest backend that takes its input, else as the reference.

Shapes and meanings are those of reference.py.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputError
from . import custom_ops, reference
from .autograd_functions import (
    PoolUse,
    Reduction,
    ScaleUse,
    scaled,
)
from .backend import Passes, Squares
from .dispatch import is_plain, passes_for
from .gradient_collection import Entrance, pending_of
from .layout import Reading, matrix_shape, reading_of
from .recompute import normalised

CAN_COMPILE = {
    "cpu": importlib.util.find_spec("numba") is not None,
    "cuda": importlib.util.find_spec("triton") is not None,
}
Over = Literal["positions", "channels", "columns", "rows"]


def enter(x: Tensor) -> Tensor:
    """x, so that the gradients of all that is computed from it are collected and written in one pass.

    An attention calls this once on its input. It changes no value, and nothing at all where gradients are not
    recorded or the reference runs.

    Raises:
        InputError: x does not hold floating-point numbers.
    """
    if not x.is_floating_point():
        raise InputError(
            f"The feature map is of type {x.dtype}: expected floating-point numbers; convert it with .float()."
        )
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not x.requires_grad:
        return x
    if pending_of(x) is not None or reading_of(x) is None or not is_plain(x):
        return x
    passes = passes_for(x)
    if passes is None:
        return x
    return Entrance.apply(x, passes, normalised(x) if passes.REMAKES else None)


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


def strip_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of every row and of every column: (B, C, H, W) -> (B, C, H), (B, C, W)."""
    x = enter(x)
    rows, columns = _pool(x, "columns"), _pool(x, "rows")
    if rows is None or columns is None:
        return reference.strip_pool(x)
    batch, channels = x.shape[:2]
    return rows[0].to(x.dtype).view(x.shape[:3]), columns[0].to(x.dtype).view(batch, channels, x.shape[3])


def strip_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of every row and of every column: (B, C, H, W) -> (B, C, H), (B, C, W)."""
    x = enter(x)
    rows, columns = _pool(x, "columns", maximum=True), _pool(x, "rows", maximum=True)
    if rows is None or columns is None:
        return reference.strip_max(x)
    batch, channels = x.shape[:2]
    return rows[1].to(x.dtype).view(x.shape[:3]), columns[1].to(x.dtype).view(batch, channels, x.shape[3])


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


@dataclass(frozen=True)
class _Call:
    """How a use of x runs: on a backend, or as an operator of a graph that is being compiled (passes is None)."""

    reading: Reading
    passes: Passes | None


def _call(x: Tensor, *gates: Tensor | None) -> _Call | None:
    """None where the reference has to run."""
    reading = reading_of(x)
    if reading is None:
        return None
    if not all(gate is None or (gate.device == x.device and gate.is_floating_point()) for gate in gates):
        return None
    if torch.compiler.is_compiling():
        takes = CAN_COMPILE.get(x.device.type, False) and x.dtype in (torch.float32, torch.bfloat16)
        return _Call(reading, None) if takes and not torch.compiler.is_exporting() else None
    are_plain = is_plain(x) and all(gate is None or is_plain(gate) for gate in gates)
    passes = passes_for(x) if are_plain else None
    return None if passes is None else _Call(reading, passes)


def _pool(
    x: Tensor, over: Over, gate: Tensor | None = None, *, maximum: bool = False, squares: Squares = "none"
) -> Any:
    """Mean, and maximum or squares, as fp32 (B, lines); None where the reference has to run."""
    call = _call(x, gate)
    if call is None:
        return None
    reduction = _reduction(call.reading, over, maximum, squares)
    if reduction is None:
        return None
    if gate is not None:
        gate = _gate(gate, *_gate_shape(reduction, x.shape))
    if call.passes is None:
        mean, second, _ = custom_ops.pool(x, gate, reduction.reading.name, reduction.over, maximum, squares)
        return mean, second
    if not torch.is_grad_enabled():
        return reduction.results(call.passes, x, gate)[:2]
    x = enter(x)
    return PoolUse.apply(x, gate, reduction, call.passes, pending_of(x))


def _reduction(reading: Reading, over: Over, maximum: bool, squares: Squares) -> Reduction | None:
    if over in ("rows", "columns"):
        if reading is not Reading.CHANNEL_ROWS:
            return None
        return Reduction(Reading.PLANES, "rows" if over == "rows" else "lanes", maximum, squares)
    along_lanes = (over == "positions") == (reading is Reading.CHANNEL_ROWS)
    return Reduction(reading, "lanes" if along_lanes else "rows", maximum, squares)


def _gate_shape(reduction: Reduction, shape: torch.Size) -> tuple[int, int]:
    """A pool's gate has one number per element of a pooled line."""
    batch, rows, lanes = matrix_shape(shape, reduction.reading)
    return batch, rows if reduction.over == "rows" else lanes


def _scale(
    x: Tensor, channel: Tensor | None, spatial: Tensor | None, rows: Tensor | None, columns: Tensor | None
) -> Tensor | None:
    """None where the reference has to run."""
    call = _call(x, channel, spatial, rows, columns)
    if call is None:
        return None
    strips = [gate for gate in (rows, columns) if gate is not None]
    if strips and all(gate.shape[1] == 1 for gate in strips):  # the same for all channels: a spatial gate in two parts
        spatial = _product(rows, columns, spatial).expand(-1, *x.shape[2:])
    elif strips:
        if channel is not None or spatial is not None or call.reading is not Reading.CHANNEL_ROWS:
            return None
        call = replace(call, reading=Reading.PLANES)
    batch, n_rows, n_lanes = matrix_shape(x.shape, call.reading)
    if call.reading is Reading.PLANES:
        row_gate, lane_gate = (_strip_gate(gate, x.shape[:2], n) for gate, n in ((rows, n_rows), (columns, n_lanes)))
    else:
        by_layout = (channel, spatial) if call.reading is Reading.CHANNEL_ROWS else (spatial, channel)
        row_gate, lane_gate = (_gate(gate, batch, n) for gate, n in zip(by_layout, (n_rows, n_lanes), strict=True))
    if call.passes is None:
        return custom_ops.scale(x, row_gate, lane_gate, call.reading.name)
    if not torch.is_grad_enabled():
        return scaled(call.passes, x, row_gate, lane_gate, call.reading)
    x = enter(x)
    return ScaleUse.apply(x, row_gate, lane_gate, call.reading, call.passes, pending_of(x))


def _gate(gate: Tensor | None, batch: int, n: int) -> Tensor | None:
    """(B or 1, *) -> (B, n) as the passes take it."""
    return None if gate is None else gate.flatten(1).float().expand(batch, n).contiguous()


def _strip_gate(gate: Tensor | None, planes: torch.Size, n: int) -> Tensor | None:
    """(B, C or 1, n or 1) -> (B * C, n) as the passes take it."""
    return None if gate is None else gate.float().expand(*planes, n).flatten(0, 1).contiguous()


def _product(rows: Tensor | None, columns: Tensor | None, spatial: Tensor | None) -> Tensor:
    """(B, 1, H), (B, 1, W) and (B, H, W), where given -> a spatial gate, (B, H, W) or broadcastable to it."""
    parts = (rows if rows is None else rows.squeeze(1).unsqueeze(2), columns, spatial)
    return functools.reduce(torch.mul, (part for part in parts if part is not None))
