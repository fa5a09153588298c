"""The Triton backend for GPUs: launches of the kernels in triton_kernels.py.

Tiles and chunks depend on the shape alone, and nothing is tuned at run time: equal input gives equal bits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .backend import GradientTerms, Over, Pooled, PoolGradient, Recomputed, Squares

RECOMPUTES = False
WIDE_ROWS = False
TILE = 2048  # elements of a tile at most: 16 for each of a program's 128 threads
REDUCED_LANES = 512  # lanes of a tile at most, by what becomes of them
KEPT_LANES = 128
SCALED_LANES = 256
WIDEST_LOAD = 8  # elements that a thread loads at once, at 16 bits each
EVEN_ADDRESS = 16  # bytes; where Triton begins to load more than one element at once
FEW_PROGRAMS, MANY_PROGRAMS = 512, 1024  # about 4 and 8 for each multiprocessor of a large GPU
TILES_PER_CHUNK = 4  # fewer would not be worth the kernel that merges the chunks


@cache
def unavailable() -> str | None:
    """Why these kernels cannot run here, in one sentence; None where they can."""
    if find_spec("triton") is None:
        return "Triton is not installed."
    if os.environ.get("TRITON_INTERPRET") == "1":  # then Triton computes in Python, on any device
        return None
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device."
    try:  # the first time this builds Triton's driver module, which takes a C compiler and Python's headers
        import triton

        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # whatever it is, no kernel could be launched
        return f"Triton does not start here ({type(error).__name__}: {error})."
    return None


def pool(x: Tensor, gate: Tensor | None, over: Over, *, maximum: bool, ties: bool, squares: Squares) -> Pooled:
    return _pool(x, gate, _walk(x, keep_rows=over == "lanes"), maximum=maximum, ties=ties, squares=squares)


def scale(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None) -> Tensor:
    out = torch.empty_like(x)
    _launch_tiles(_kernels().scale, x, row_gate, lane_gate, out)
    return out


def gate_sums(
    x: Tensor, grad: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, *, rows: bool, lanes: bool
) -> tuple[Tensor | None, Tensor | None]:
    if rows and lanes:
        return _row_and_lane_sums(x, grad, row_gate, lane_gate)
    of_rows = _pool(x, lane_gate, _walk(x, keep_rows=True), grad=grad).total if rows else None
    of_lanes = _pool(x, row_gate, _walk(x, keep_rows=False), grad=grad).total if lanes else None
    return of_rows, of_lanes


def pool_gate_gradient(x: Tensor, pooled: PoolGradient, over: Over) -> Tensor:
    walk = _walk(x, keep_rows=over == "rows")
    parts = _empty(x, (walk.chunks, len(x), walk.kept))
    _launch_walk(_kernels().weigh, walk, x, *_tensors(pooled), parts, keep_rows=walk.keep_rows)
    return _sum_of(parts)


def input_gradient(like: Tensor, terms: GradientTerms) -> Tensor:
    out, x = torch.empty_like(like), terms.x
    assert not isinstance(x, Recomputed)
    tensors = (
        *(x, terms.grad, terms.row_gate, terms.lane_gate),
        *(*_tensors(terms.over_rows), *_tensors(terms.over_lanes)),
        *(terms.row_factor, terms.lane_factor),
    )
    _launch_tiles(_kernels().input_gradient, out, *tensors)
    return out


@dataclass(frozen=True)
class _Walk:
    """How a reduction is cut up.

    Attributes:
        keep_rows: whether lanes are reduced, else rows are.
        kept, reduced: items of the axis that survives and of the other.
        kept_tile, reduced_tile: what a program holds of the two axes at a time.
        tiles: how many of them one program walks along, which is a chunk.
        chunks: programs along the reduced axis; the results of more than one have to be merged.
    """

    keep_rows: bool
    kept: int
    reduced: int
    kept_tile: int
    reduced_tile: int
    tiles: int
    chunks: int


def _walk(x: Tensor, *, keep_rows: bool) -> _Walk:
    batch_size, rows, lanes = x.shape
    kept, reduced = (rows, lanes) if keep_rows else (lanes, rows)
    row_tile, lane_tile = _tile(rows, lanes, REDUCED_LANES if keep_rows else KEPT_LANES)
    kept_tile, reduced_tile = (row_tile, lane_tile) if keep_rows else (lane_tile, row_tile)
    programs, tiles = batch_size * _blocks(kept, kept_tile), _blocks(reduced, reduced_tile)
    if programs < FEW_PROGRAMS:
        tiles = max(_blocks(tiles * programs, MANY_PROGRAMS), TILES_PER_CHUNK)
    chunks = _blocks(reduced, tiles * reduced_tile)
    return _Walk(keep_rows, kept, reduced, kept_tile, reduced_tile, tiles, chunks)


def _tile(rows: int, lanes: int, most_lanes: int) -> tuple[int, int]:
    """Rows and lanes of a tile: powers of two, no more than there are, TILE elements at most."""
    lane_tile = min(_power_of_two(lanes), most_lanes)
    return min(_power_of_two(rows), TILE // lane_tile), lane_tile


def _pool(
    x: Tensor,
    gate: Tensor | None,
    walk: _Walk,
    *,
    grad: Tensor | None = None,
    maximum: bool = False,
    ties: bool = False,
    squares: Squares = "none",
) -> Pooled:
    """Statistics of x * grad * gate along the reduced axis."""
    shape, wanted, centred = (len(x), walk.kept), (maximum, ties, squares != "none"), squares == "centred"
    parts = _room(x, shape if walk.chunks == 1 else (walk.chunks, *shape), *wanted)
    _launch_walk(_kernels().pool, walk, x, grad, gate, *_numbers(parts), keep_rows=walk.keep_rows, centred=centred)
    if walk.chunks == 1:
        return parts
    merged = _room(x, shape, *wanted)
    _merge(parts, merged, walk, centred)
    return merged


def _merge(parts: Pooled, merged: Pooled, walk: _Walk, centred: bool) -> None:
    """Make one result of those of the chunks."""
    size, chunk = merged.total.numel(), walk.tiles * walk.reduced_tile
    chunks_tile = _power_of_two(walk.chunks)
    tile = max(TILE // chunks_tile, 1)
    args = *_numbers(parts), *_numbers(merged), size, walk.reduced, chunk
    grid = (_blocks(size, tile),)
    _launch(_kernels().merge_pools, grid, args, centred=centred, chunks_tile=chunks_tile, tile=tile)


def _room(x: Tensor, shape: tuple[int, ...], maximum: bool, ties: bool, squares: bool) -> Pooled:
    others = (_empty(x, shape) if wanted else None for wanted in (maximum, ties, squares))
    return Pooled(_empty(x, shape), *others)


def _numbers(pooled: Pooled) -> tuple[Tensor | None, ...]:
    """In the order in which the kernels take them."""
    return pooled.total, pooled.maximum, pooled.ties, pooled.squares


def _row_and_lane_sums(
    x: Tensor, grad: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both gradients of `scale` in one read: rows summed over blocks of lanes, lanes over chunks of rows."""
    walk = _walk(x, keep_rows=False)
    of_rows = _empty(x, (_blocks(walk.kept, walk.kept_tile), len(x), walk.reduced))
    of_lanes = _empty(x, (walk.chunks, len(x), walk.kept))
    _launch_walk(_kernels().gate_sums, walk, x, grad, row_gate, lane_gate, of_rows, of_lanes)
    return _sum_of(of_rows), _sum_of(of_lanes)


def _empty(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.new_empty(shape, dtype=torch.float32)


def _sum_of(parts: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _tensors(pooled: PoolGradient | None) -> tuple[Tensor | None, ...]:
    """In the order in which the kernels take them."""
    return (None,) * 4 if pooled is None else (pooled.weight, pooled.gate, pooled.maximum, pooled.share)


def _launch_walk(kernel: Any, walk: _Walk, x: Tensor, *tensors: Tensor | None, **constants: bool) -> None:
    grid = len(x) * _blocks(walk.kept, walk.kept_tile), walk.chunks
    args = x, *tensors, *_sizes(x), walk.tiles
    tile = {"kept_tile": walk.kept_tile, "reduced_tile": walk.reduced_tile}
    _launch(kernel, grid, args, align=_alignment(x), **tile, **constants)


def _launch_tiles(kernel: Any, x: Tensor, *tensors: Tensor | None) -> None:
    """A program for every tile of x."""
    batch_size, rows, lanes = x.shape
    row_tile, lane_tile = _tile(rows, lanes, SCALED_LANES)
    grid = (batch_size * _blocks(rows, row_tile) * _blocks(lanes, lane_tile),)
    args = x, *tensors, *_sizes(x)
    _launch(kernel, grid, args, align=_alignment(x), row_tile=row_tile, lane_tile=lane_tile)


def _launch(kernel: Any, grid: tuple[int, ...], args: Sequence[Tensor | int | None], **constants: int) -> None:
    """Start a kernel on the device of its first argument, x, which need not be the current one."""
    with torch.cuda.device_of(args[0]):
        kernel[grid](*map(_aligned, args), **constants)


def _aligned(arg: Tensor | int | None) -> Tensor | int | None:
    """A copy of a tensor at an odd address, which would get a kernel of its own that adds in another order.

    Results are never copied: new tensors start at even addresses.
    """
    return arg.clone() if isinstance(arg, Tensor) and arg.data_ptr() % EVEN_ADDRESS else arg


def _sizes(x: Tensor) -> tuple[int, int]:
    """Rows, and lanes in groups of the alignment, as the kernels take them."""
    return x.shape[1], x.shape[2] // _alignment(x)


def _alignment(x: Tensor) -> int:
    """The largest power of two that divides the number of lanes, as far as loads profit from it."""
    lanes = x.shape[2]
    return min(lanes & -lanes, WIDEST_LOAD)


@cache
def _kernels() -> ModuleType:
    from . import triton_kernels  # only now: triton need not be installed, and takes time to import

    return triton_kernels


def _power_of_two(size: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (size - 1).bit_length()


def _blocks(size: int, block: int) -> int:
    """How many blocks cover an axis."""
    return -(-size // block)
