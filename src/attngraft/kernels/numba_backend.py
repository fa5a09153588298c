"""The passes on processors, compiled by Numba on first use and cached on disk; see backend.py for the contract."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .backend import (
    Pooled,
    PoolGradient,
    Remade,
    Squares,
)
from .buffer_pool import empty_like
from .inference_programs import (
    BOTTLENECK,
    TAPS,
    ChannelGate,
    GateProgram,
    SpatialGate,
)
from .threads import run_loop

REMAKES = True
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
SQUARES: dict[Squares, int] = {"none": 0, "raw": 1, "centred": 2}
WIDTH = 1024  # lanes of a task that accumulates: its accumulators stay in the first cache
VECTOR = 16  # numbers in the widest vector
CENTRED_WIDTH = 64  # lanes of a task that reads its block twice: the block stays in the second cache
ENOUGH_TASKS = 32
FEWEST_ROWS, MOST_ROWS = 64, 4096  # of a split; a sum of more would lose digits


@functools.cache
def unavailable() -> str | None:
    """Why these kernels cannot run here, in one sentence; None if they can."""
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed: pip install 'attngraft[fast]' brings the fast kernels for processors."
    try:
        _cached("scale_fp32")
    except Exception as error:  # Numba fails in many ways on machines it does not know or may not write to
        return f"Numba cannot compile or cache here ({type(error).__name__}: {error})"
    return None


def pool_lanes(x: Tensor, lane_gate: Tensor | None, *, maximum: bool, ties: bool, squares: Squares) -> Pooled:
    batch, rows, lanes = x.shape
    out = _outputs((batch, rows), maximum, ties, squares)
    gate = _gate(lane_gate, x, lanes)
    switches = (int(maximum), int(ties), SQUARES[squares])
    _run(
        "pool_lanes",
        x,
        _addresses(x, gate, out.total, out.maximum, out.ties, out.squares),
        (batch, rows, lanes, *switches),
    )
    return out


def pool_rows(x: Tensor, row_gate: Tensor | None, *, maximum: bool, ties: bool, squares: Squares) -> Pooled:
    batch, rows, lanes = x.shape
    width = WIDTH if squares == "none" else CENTRED_WIDTH
    splits = _splits(batch * -(-lanes // width), rows) if squares == "none" else 1
    pitch = _pitch(lanes) if squares == "none" else lanes
    scratch = _scratch_for_threads(2 * width)
    out = _outputs((batch * splits, pitch), maximum, ties, squares)
    gate = _gate(row_gate, x, rows)
    switches = (int(maximum), int(ties), SQUARES[squares])
    _run(
        "pool_rows",
        x,
        _addresses(x, gate, out.total, out.maximum, out.ties, out.squares),
        (batch, rows, lanes, *switches, splits, width, pitch, *_addresses(scratch), 0),
    )
    return _join(_without_padding(out, lanes), batch, splits)


def scale(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None) -> Tensor:
    batch, rows, lanes = x.shape
    y = empty_like(x)
    gates = _gate(row_gate, x, rows), _gate(lane_gate, x, lanes)
    _run("scale", x, _addresses(x, y, *gates), (batch, rows, lanes))
    return y


def gate_sums(
    x: Tensor | Remade, grad: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, *, rows: bool, lanes: bool
) -> tuple[Tensor | None, Tensor | None]:
    if not rows and not lanes:
        return None, None
    batch, n_rows, n_lanes = grad.shape
    splits = _splits(batch, n_rows)
    by_row = _empty(batch, n_rows) if rows else None
    pitch = _pitch(n_lanes)
    by_lane = _empty(batch * splits, pitch) if lanes else None
    gates = _gate(row_gate, grad, n_rows), _gate(lane_gate, grad, n_lanes)
    addresses = _addresses(_source(x), grad, *gates, by_row, by_lane)
    _run("gate_sums", x, addresses, (batch, n_rows, n_lanes, splits, int(rows), int(lanes), pitch))
    return by_row, None if by_lane is None else _join_sums(by_lane[:, :n_lanes].contiguous(), batch, splits)


def weigh_lanes(x: Tensor | Remade, pooled: PoolGradient) -> Tensor:
    if pooled.maximum is None and isinstance(x, Tensor):
        return pool_lanes(x, pooled.weight, maximum=False, ties=False, squares="none").total
    source = _source(x)
    batch, rows, lanes = source.shape
    by_row = _empty(batch, rows)
    parts = _gradient_parts(pooled, _neutral(source, rows), _neutral(source, lanes))
    addresses = _addresses(source, *parts, by_row)
    _run("weigh_lanes", x, addresses, (batch, rows, lanes))
    return by_row


def weigh_rows(x: Tensor | Remade, pooled: PoolGradient) -> Tensor:
    if pooled.maximum is None and isinstance(x, Tensor):
        return pool_rows(x, pooled.weight, maximum=False, ties=False, squares="none").total
    source = _source(x)
    batch, rows, lanes = source.shape
    splits = _splits(batch, rows)
    by_lane = _empty(batch * splits, lanes)
    parts = _gradient_parts(pooled, _neutral(source, lanes), _neutral(source, rows))
    addresses = _addresses(source, *parts, by_lane)
    _run("weigh_rows", x, addresses, (batch, rows, lanes, splits))
    return _join_sums(by_lane, batch, splits)


def input_gradient(
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
    batch, rows, lanes = like.shape
    out = empty_like(like)
    row_parts = _neutral(like, rows)
    lane_parts = _neutral(like, lanes)
    parts = (
        *(_gate(row_gate, like, rows), _gate(lane_gate, like, lanes)),
        *_gradient_parts(over_rows, row_parts, lane_parts),
        *_gradient_parts(over_lanes, lane_parts, row_parts),
        *(
            row_parts.zeros if row_factor is None else row_factor,
            lane_parts.zeros if lane_factor is None else lane_factor,
        ),
    )
    maxima = any(pooled is not None and pooled.maximum is not None for pooled in (over_rows, over_lanes))
    factors = row_factor is not None or lane_factor is not None
    addresses = _addresses(like if x is None else _source(x), like if grad is None else grad, out, *parts)
    switches = (int(grad is not None), int(maxima), int(factors))
    _run("input_gradient", like if x is None else x, addresses, (batch, rows, lanes, *switches))
    return out


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution with zeros around: (B, M, H, W), (O, M, k, k) -> (B, O, H, W), all fp32."""
    batch, inputs, height, width = x.shape
    outputs, kernel = weight.shape[0], weight.shape[-1]
    x, weight, y = x.contiguous(), weight.contiguous(), _empty(batch, outputs, height, width)
    scratch = _scratch_for_threads(_padded_size(height, width, kernel) * inputs + height * (width + kernel - 1))
    sizes = (0, batch, inputs, outputs, height, width, kernel)
    _run("convolve", x, _addresses(x, weight, y, scratch), sizes)
    return y


def correlate(x: Tensor, grad: Tensor, kernel: int) -> Tensor:
    """The gradient of `convolve` with respect to its weight: (B, M, H, W), (B, 1, H, W) -> (1, M, k, k)."""
    batch, inputs, height, width = x.shape
    x, grad, weights = x.contiguous(), grad.contiguous(), _empty(batch, inputs, kernel, kernel)
    scratch = _scratch_for_threads(_padded_size(height, width, kernel) + height * (width + kernel - 1))
    _run("correlate", x, _addresses(x, grad, weights, scratch), (0, batch, inputs, height, width, kernel))
    return weights.sum(0, keepdim=True)


def _padded_size(height: int, width: int, kernel: int) -> int:
    """As in numba_convolution."""
    return (height + kernel) * (width + kernel - 1)


def _scratch_for_threads(size: int) -> Tensor:
    return _empty(torch.get_num_threads(), size)


def gate_images(x: Tensor, shape: torch.Size, program: GateProgram, *, by_channel: bool) -> Tensor:
    """A whole attention in inference, image by image.

    Args:
        x: (B, R, L), with channels as rows or, where not by_channel, as lanes.
        shape: (B, C, H, W).
        program: what to compute.
    """
    batch, channels, height, width = shape
    y, longest = empty_like(x), max(channels, height * width)
    channel, spatial = _channel_arguments(program.channel), _spatial_arguments(program.spatial)
    edge = spatial.kernel // 2
    padded_width = width + 2 * edge
    maps = 2 * (height + 2 * edge + 1) * padded_width + height * padded_width
    size = channels + height * width + 2 * longest + max(maps, channel.width, longest)
    scratch = _empty(batch, size)
    arguments = (
        *(size, batch, channels, height, width, int(by_channel)),
        *(channel.kind, channel.mean, channel.maximum, channel.factor, *_addresses(*channel.tensors), channel.width),
        *(*_addresses(spatial.weight), spatial.kernel, *_addresses(spatial.affine), spatial.factor),
    )
    _run("gate_images", x, _addresses(x, y, _constant(1.0, longest), scratch), arguments)
    return y


class _ChannelArguments(NamedTuple):
    kind: int = 0
    mean: int = 0
    maximum: int = 0
    factor: int = 1
    tensors: tuple[Tensor | None, ...] = (None,) * 4
    width: int = 0


class _SpatialArguments(NamedTuple):
    weight: Tensor | None = None
    kernel: int = 0
    affine: Tensor | None = None
    factor: int = 1


def _channel_arguments(gate: ChannelGate | None) -> _ChannelArguments:
    if gate is None:
        return _ChannelArguments()
    switches = (int(gate.mean), int(gate.maximum), gate.factor)
    if isinstance(gate.logits, Tensor):
        taps = _small(gate.logits)
        return _ChannelArguments(TAPS, *switches, (taps, None, None, None), taps.numel())
    first, second = _small(gate.logits.first), _small(gate.logits.second)
    hidden, channels = first.shape
    biases = (
        _constant(0.0, n) if bias is None else _small(bias)
        for bias, n in ((gate.logits.first_bias, hidden), (gate.logits.second_bias, channels))
    )
    first_bias, second_bias = biases
    return _ChannelArguments(BOTTLENECK, *switches, (first, first_bias, second, second_bias), hidden)


def _spatial_arguments(gate: SpatialGate | None) -> _SpatialArguments:
    if gate is None:
        return _SpatialArguments()
    affine = torch.cat((gate.scale, gate.shift)).detach().float()
    return _SpatialArguments(_small(gate.weight), gate.weight.shape[-1], affine, gate.factor)


def _small(parameter: Tensor) -> Tensor:
    return parameter.detach().float().contiguous()


def _run(loop: str, x: Tensor | Remade, addresses: Sequence[int], sizes: Sequence[int]) -> None:
    if isinstance(x, Remade):
        kind = "by_lane" if x.by_lane else "by_row"
        compiled = _compiled(f"{loop}_{kind}_{DTYPES[x.source.dtype]}")
        run_loop(compiled.address, (*addresses, *sizes, *_addresses(x.slope, x.offset)))
    else:
        run_loop(_compiled(f"{loop}_{DTYPES[x.dtype]}").address, (*addresses, *sizes))


@functools.cache
def _compiled(loop: str) -> Any:
    """A loop, compiled for this processor or read from Numba's cache."""
    try:
        return _cached(loop)
    except Exception:  # a damaged or full cache folder fails in many ways; compiling anew fails in none of them
        return _cached(loop, cache=False)


def _cached(loop: str, *, cache: bool = True) -> Any:
    from numba import cfunc, types

    from . import numba_convolution, numba_gradients, numba_inference, numba_pools

    modules = (numba_pools, numba_gradients, numba_convolution, numba_inference)
    function = next(getattr(module, loop) for module in modules if hasattr(module, loop))
    return cfunc(types.void(types.voidptr), cache=cache)(function)


@dataclass(frozen=True)
class _Neutral:
    """Numbers that change nothing, B * n each: gates 1, weights 0, maxima that nothing equals."""

    ones: Tensor
    zeros: Tensor
    nan: Tensor


def _neutral(x: Tensor, n: int) -> _Neutral:
    batch = x.shape[0]
    return _Neutral(*(_constant(value, batch * n) for value in (1.0, 0.0, math.nan)))


def _constant(value: float, count: int) -> Tensor:
    """At least `count` times the value, to be read only."""
    return _constants(value, 1 << (count - 1).bit_length())


@functools.cache
def _constants(value: float, count: int) -> Tensor:
    return torch.full((count,), value, dtype=torch.float32, device="cpu")


def _gradient_parts(pooled: PoolGradient | None, elements: _Neutral, lines: _Neutral) -> tuple[Tensor, ...]:
    if pooled is None:
        return elements.ones, lines.zeros, lines.nan, lines.zeros
    return (
        elements.ones if pooled.gate is None else pooled.gate,
        pooled.weight,
        lines.nan if pooled.maximum is None else pooled.maximum,
        lines.zeros if pooled.share is None else pooled.share,
    )


def _outputs(shape: tuple[int, int], maximum: bool, ties: bool, squares: Squares) -> Pooled:
    wanted = (maximum, ties, squares != "none")
    return Pooled(_empty(*shape), *(_empty(*shape) if is_wanted else None for is_wanted in wanted))


def _addresses(*tensors: Tensor | None) -> tuple[int, ...]:
    return tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)


def _source(x: Tensor | Remade) -> Tensor:
    return x.source if isinstance(x, Remade) else x


def _gate(gate: Tensor | None, x: Tensor, n: int) -> Tensor:
    return _constant(1.0, x.shape[0] * n) if gate is None else gate


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _pitch(lanes: int) -> int:
    """Lanes of an accumulator: in whole vectors where rows are short and what is left over would take long."""
    return -(-lanes // VECTOR) * VECTOR if VECTOR <= lanes < WIDTH else lanes


def _without_padding(out: Pooled, lanes: int) -> Pooled:
    if out.total.shape[1] == lanes:
        return out
    cut = {name: part[:, :lanes].contiguous() for name, part in vars(out).items() if part is not None}
    return Pooled(**cut)


def _splits(tasks: int, rows: int) -> int:
    """Into how many parts to split the rows: a function of the shape, never of the number of threads."""
    for_threads = min(-(-ENOUGH_TASKS // tasks), rows // FEWEST_ROWS)
    return max(1, for_threads, -(-rows // MOST_ROWS))


def _join(parts: Pooled, batch: int, splits: int) -> Pooled:
    """One result per image from those of its splits."""
    if splits == 1:
        return parts
    total = _join_sums(parts.total, batch, splits)
    if parts.maximum is None:
        return Pooled(total)
    found = parts.maximum.view(batch, splits, -1)
    maximum = found.amax(1)
    if parts.ties is None:
        return Pooled(total, maximum)
    ties = parts.ties.view(batch, splits, -1)
    return Pooled(total, maximum, (ties * (found == maximum.unsqueeze(1))).sum(1))


def _join_sums(parts: Tensor, batch: int, splits: int) -> Tensor:
    return parts if splits == 1 else parts.view(batch, splits, -1).sum(1)
