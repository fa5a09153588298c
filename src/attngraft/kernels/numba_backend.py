"""The Numba backend for CPUs: loops compiled on first use and cached on disk."""

from __future__ import annotations

import functools
import importlib.util
import math
from types import FunctionType
from typing import Any, TypeGuard

import torch
from torch import Tensor

from .backend import GradientTerms, Over, Pooled, PoolGradient, Recomputed, Squares
from .threads import run_loop

RECOMPUTES = True
WIDE_ROWS = True
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
        _compile("scale", "fp32", "stored")
    except Exception as error:  # Numba fails in many ways on machines it does not know or may not write to
        return f"Numba cannot compile or cache here ({type(error).__name__}: {error})"
    return None


def pool(x: Tensor, gate: Tensor | None, over: Over, *, maximum: bool, ties: bool, squares: Squares) -> Pooled:
    switches = (maximum, ties, SQUARES[squares])
    if over == "rows":
        return _pool_rows(x, gate, squares != "none", switches)
    batch, rows, lanes = x.shape
    out = _outputs((batch, rows), *switches)
    run("pool_lanes", x, _gate(gate, batch * lanes), *_numbers(out), batch, rows, lanes, *switches)
    return out


def _pool_rows(x: Tensor, gate: Tensor | None, squares: bool, switches: tuple[bool, bool, int]) -> Pooled:
    batch, rows, lanes = x.shape
    width = CENTRED_WIDTH if squares else WIDTH
    splits = 1 if squares else _splits(batch * -(-lanes // width), rows)
    pitch = lanes if squares else _pitch(lanes)
    out = _outputs((batch * splits, pitch), *switches)
    sizes = (batch, rows, lanes, *switches, splits, width, pitch)
    run("pool_rows", x, _gate(gate, batch * rows), *_numbers(out), *sizes, _scratch_for_threads(2 * width), 0)
    return _join(_without_padding(out, lanes), batch, splits)


def strip_sums(x: Tensor, inner: int) -> tuple[Tensor, Tensor]:
    batch, rows, lanes = x.shape
    by_row, by_lane = _empty(batch, rows, inner), _empty(batch, lanes)
    run("strip_sums", x, by_row, by_lane, batch, rows, lanes, inner)
    return by_row, by_lane


def scale(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None) -> Tensor:
    batch, rows, lanes = x.shape
    y, lane_gate = torch.empty_like(x), _gate(lane_gate, batch * lanes)
    if _is_wide(row_gate):
        run("scale_wide", x, y, row_gate, lane_gate, batch, rows, lanes, row_gate.shape[2])
    else:
        run("scale", x, y, _gate(row_gate, batch * rows), lane_gate, batch, rows, lanes)
    return y


def gate_sums(
    x: Tensor | Recomputed, grad: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, *, rows: bool, lanes: bool
) -> tuple[Tensor | None, Tensor | None]:
    if not rows and not lanes:
        return None, None
    if _is_wide(row_gate):
        by_row, by_lane = _wide_gate_sums(x, grad, row_gate, lane_gate)
        return by_row if rows else None, by_lane if lanes else None
    batch, n_rows, n_lanes = grad.shape
    splits, pitch = _splits(batch, n_rows), _pitch(n_lanes)
    of_rows = _empty(batch, n_rows) if rows else None
    of_lanes = _empty(batch * splits, pitch) if lanes else None
    gates = _gate(row_gate, batch * n_rows), _gate(lane_gate, batch * n_lanes)
    run("gate_sums", x, grad, *gates, of_rows, of_lanes, batch, n_rows, n_lanes, splits, rows, lanes, pitch)
    return of_rows, None if of_lanes is None else _join_sums(of_lanes[:, :n_lanes].contiguous(), batch, splits)


def _wide_gate_sums(
    x: Tensor | Recomputed, grad: Tensor, row_gate: Tensor, lane_gate: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, rows, lanes = grad.shape
    splits, by_row = _splits(batch, rows), torch.empty_like(row_gate)
    by_lane = _empty(batch * splits, lanes)
    sizes = (batch, rows, lanes, splits, row_gate.shape[2])
    run("gate_sums_wide", x, grad, row_gate, _gate(lane_gate, batch * lanes), by_row, by_lane, *sizes)
    return by_row, _join_sums(by_lane, batch, splits)


def pool_gate_gradient(x: Tensor | Recomputed, pooled: PoolGradient, over: Over) -> Tensor:
    if pooled.maximum is None and isinstance(x, Tensor):
        other: Over = "lanes" if over == "rows" else "rows"
        return pool(x, pooled.weight, other, maximum=False, ties=False, squares="none").total
    batch, rows, lanes = sizes = (x.source if isinstance(x, Recomputed) else x).shape
    if over == "rows":
        by_row = _empty(batch, rows)
        run("weigh_lanes", x, *_gradient_parts(pooled, batch * rows, batch * lanes), by_row, *sizes)
        return by_row
    splits = _splits(batch, rows)
    by_lane = _empty(batch * splits, lanes)
    run("weigh_rows", x, *_gradient_parts(pooled, batch * lanes, batch * rows), by_lane, *sizes, splits)
    return _join_sums(by_lane, batch, splits)


def input_gradient(like: Tensor, terms: GradientTerms) -> Tensor:
    batch, rows, lanes = like.shape
    n_rows, n_lanes = batch * rows, batch * lanes
    out = torch.empty_like(like)
    if _is_wide(terms.row_gate) or (terms.over_lanes is not None and _is_wide(terms.over_lanes.weight)):
        _wide_input_gradient(out, terms)
        return out
    parts = (
        *(_gate(terms.row_gate, n_rows), _gate(terms.lane_gate, n_lanes)),
        *_gradient_parts(terms.over_rows, n_rows, n_lanes),
        *_gradient_parts(terms.over_lanes, n_lanes, n_rows),
        constant(0.0, n_rows) if terms.row_factor is None else terms.row_factor,
        constant(0.0, n_lanes) if terms.lane_factor is None else terms.lane_factor,
    )
    maxima = any(pooled is not None and pooled.maximum is not None for pooled in (terms.over_rows, terms.over_lanes))
    switches = (terms.grad is not None, maxima, terms.row_factor is not None or terms.lane_factor is not None)
    x, grad = (like if terms.x is None else terms.x), (like if terms.grad is None else terms.grad)
    run("input_gradient", x, grad, out, *parts, batch, rows, lanes, *switches)
    return out


def _wide_input_gradient(out: Tensor, terms: GradientTerms) -> None:
    batch, rows, lanes = out.shape
    weights = [None if pooled is None else pooled.weight for pooled in (terms.over_lanes, terms.over_rows)]
    inner = next(line.shape[2] for line in (terms.row_gate, weights[0]) if line is not None)
    parts = (
        *(_gate(terms.row_gate, batch * rows * inner), _gate(terms.lane_gate, batch * lanes)),
        constant(0.0, batch * rows * inner) if weights[0] is None else weights[0],
        constant(0.0, batch * lanes) if weights[1] is None else weights[1],
    )
    assert terms.grad is not None, "what is made of pools alone is no pass"
    run("input_gradient_wide", terms.grad, out, *parts, batch, rows, lanes, inner)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution with zeros around: (B, M, H, W), (O, M, k, k) -> (B, O, H, W), all fp32."""
    batch, inputs, height, width = x.shape
    outputs, kernel = weight.shape[0], weight.shape[-1]
    x, weight, y = x.contiguous(), weight.contiguous(), _empty(batch, outputs, height, width)
    scratch = _scratch_for_threads(_padded_size(height, width, kernel) * inputs + height * (width + kernel - 1))
    run("convolve", x, weight, y, scratch, 0, batch, inputs, outputs, height, width, kernel)
    return y


def correlate(x: Tensor, grad: Tensor, kernel: int) -> Tensor:
    """The gradient of `convolve` with respect to its weight: (B, M, H, W), (B, 1, H, W) -> (1, M, k, k)."""
    batch, inputs, height, width = x.shape
    x, grad, weights = x.contiguous(), grad.contiguous(), _empty(batch, inputs, kernel, kernel)
    scratch = _scratch_for_threads(_padded_size(height, width, kernel) + height * (width + kernel - 1))
    run("correlate", x, grad, weights, scratch, 0, batch, inputs, height, width, kernel)
    return weights.sum(0, keepdim=True)


def _padded_size(height: int, width: int, kernel: int) -> int:
    """As in numba_convolution."""
    return (height + kernel) * (width + kernel - 1)


def run(loop: str, x: Tensor | Recomputed, *arguments: Tensor | int | None) -> None:
    """Run a compiled loop.

    Args:
        loop: its name in one of the modules numba_*.
        x: the map; the loop is another one for each dtype, and for stored and recomputed maps.
        arguments: from its fourth argument on; a tensor stands for its address.
    """
    if isinstance(x, Recomputed):
        compiled = _compiled(loop, DTYPES[x.source.dtype], "by_lane" if x.by_lane else "by_row")
        arguments = (x.source, x.slope, x.offset, *arguments)
    else:
        compiled = _compiled(loop, DTYPES[x.dtype], "stored")
        arguments = (x, None, None, *arguments)
    run_loop(compiled.address, [arg.data_ptr() if isinstance(arg, Tensor) else arg or 0 for arg in arguments])


@functools.cache
def _compiled(loop: str, dtype: str, kind: str) -> Any:
    """A loop, compiled for this processor or read from Numba's cache."""
    try:
        return _compile(loop, dtype, kind)
    except Exception:  # a damaged or full cache folder fails in many ways; compiling anew fails in none of them
        return _compile(loop, dtype, kind, cache=False)


def _compile(loop: str, dtype: str, kind: str, *, cache: bool = True) -> Any:
    from numba import cfunc, types

    from . import (
        numba_convolution,
        numba_gradients,
        numba_inference,
        numba_pooling,
        numba_strip_inference,
        numba_wide_rows,
    )
    from .numba_intrinsics import Arguments

    passes = (numba_pooling, numba_gradients, numba_wide_rows, numba_convolution)
    modules = (*passes, numba_inference, numba_strip_inference)
    function = next(getattr(module, loop) for module in modules if hasattr(module, loop))
    signature = types.void(Arguments(dtype, kind))
    return cfunc(signature, cache=cache, error_model="numpy")(_renamed(function, f"{loop}_{dtype}_{kind}"))


def _renamed(function: FunctionType, name: str) -> FunctionType:
    """A copy of a function. Numba's cache has a file per name: variants of one name would overwrite each other's
    entries where two processes compile at the same time."""
    copy = FunctionType(function.__code__, function.__globals__, name)
    copy.__qualname__ = name
    return copy


def constant(value: float, count: int) -> Tensor:
    """At least `count` times the value; read only."""
    return _constants(value, 1 << (count - 1).bit_length())


@functools.cache
def _constants(value: float, count: int) -> Tensor:
    return torch.full((count,), value, dtype=torch.float32, device="cpu")


def _gate(gate: Tensor | None, count: int) -> Tensor:
    return constant(1.0, count) if gate is None else gate


def _is_wide(line: Tensor | None) -> TypeGuard[Tensor]:
    """Whether what belongs to rows has more than one number for each."""
    return line is not None and line.dim() == 3


def _gradient_parts(pooled: PoolGradient | None, elements: int, lines: int) -> tuple[Tensor, ...]:
    """Gate, weight, maximum and share; what is absent has no effect: gates 1, weights 0, maxima nothing equals."""
    if pooled is None:
        return constant(1.0, elements), constant(0.0, lines), constant(math.nan, lines), constant(0.0, lines)
    return (
        _gate(pooled.gate, elements),
        pooled.weight,
        constant(math.nan, lines) if pooled.maximum is None else pooled.maximum,
        constant(0.0, lines) if pooled.share is None else pooled.share,
    )


def _outputs(shape: tuple[int, int], maximum: bool, ties: bool, squares: int) -> Pooled:
    return Pooled(_empty(*shape), *(_empty(*shape) if wanted else None for wanted in (maximum, ties, squares)))


def _numbers(pooled: Pooled) -> tuple[Tensor | None, ...]:
    """In the order in which the loops take them."""
    return pooled.total, pooled.maximum, pooled.ties, pooled.squares


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _scratch_for_threads(size: int) -> Tensor:
    return _empty(torch.get_num_threads(), size)


def _pitch(lanes: int) -> int:
    """Lanes of an accumulator: in whole vectors where rows are short and the remainder would take long."""
    return -(-lanes // VECTOR) * VECTOR if VECTOR <= lanes < WIDTH else lanes


def _without_padding(out: Pooled, lanes: int) -> Pooled:
    if out.total.shape[1] == lanes:
        return out
    cut = {name: part[:, :lanes].contiguous() for name, part in vars(out).items() if part is not None}
    return Pooled(**cut)


def _splits(tasks: int, rows: int) -> int:
    """How many parts to split the rows into: a function of the shape, never of the number of threads."""
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
