"""The Triton kernels.

Reductions call the axis of a matrix (R, L) that survives `kept` and the other one `reduced`, so that one kernel
serves rows and lanes. A program walks along the reduced axis in tiles (kept_tile, reduced_tile), accumulates them
element by element and sums once at the end. A long axis is cut into chunks, one program each, whose partial
results (chunk, B, kept) are merged in their order.

An absent tensor is None and its branch is not compiled. L comes as `lane_groups` times the constant `align`, a
power of two, which tells the compiler how wide a load can be. Offsets into maps have 64 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Sizes change with every map: no kernel of their own for a 1 or a multiple of 16.
SIZES = ["rows", "lane_groups", "tiles"]


@triton.jit
def _load(source, index, mask):
    """One fp32 number per index, 0 where masked."""
    return tl.load(source + index, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _axes(rows, lanes, keep_rows: tl.constexpr):
    """Size and stride of the kept axis, then of the reduced one."""
    return (rows, lanes, lanes, 1) if keep_rows else (lanes, 1, rows, lanes)


@triton.jit
def _place(kept_size, kept_tile: tl.constexpr):
    """Which matrix of the batch this program works on, which items of the kept axis, and where its results go."""
    blocks = tl.cdiv(kept_size, kept_tile)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    kept = tl.program_id(0) % blocks * kept_tile + tl.arange(0, kept_tile)
    batch_size = tl.num_programs(0) // blocks
    out = (tl.program_id(1) * batch_size + batch) * kept_size + kept
    return batch, kept, out


@triton.jit
def _chunk(reduced_size, tiles, reduced_tile: tl.constexpr):
    """The tiles of this program's chunk: the first, and the one behind the last."""
    first = tl.program_id(1) * tiles
    return first, tl.minimum(first + tiles, tl.cdiv(reduced_size, reduced_tile))


@triton.jit
def _largest(values, axis: tl.constexpr):
    """Maximum along an axis, NaN where there is one: tl.max drops it."""
    undefined = values != values
    largest = tl.max(tl.where(undefined, float("-inf"), values), axis)
    return tl.where(tl.max(undefined.to(tl.int32), axis) > 0, float("nan"), largest)


@triton.jit
def _raise(peaks, counts, value, mask):
    """Running maxima, and how often they were met."""
    value = tl.where(mask, value, float("-inf"))
    raised = tl.maximum(peaks, value, propagate_nan=tl.PropagateNan.ALL)
    counts = tl.where(peaks == raised, counts, 0.0) + (mask & (value == raised)).to(tl.float32)
    return raised, counts


@triton.jit
def _spread(means, spreads, value, mask, seen):
    """Welford's update of mean and squared deviations: sums of squares would cancel far from 0."""
    deviation = tl.where(mask, value - means, 0.0)
    means += deviation * (1.0 / seen)
    spreads += deviation * tl.where(mask, value - means, 0.0)
    return means, spreads


@triton.jit
def _merge_spreads(total, means, spreads, number, axis: tl.constexpr):
    """Squared deviations from the common mean, out of groups of `number` values and their own means."""
    common = tl.expand_dims(total / tl.sum(number, axis), axis)
    offset = tl.where(number > 0, means - common, 0.0)
    return tl.sum(spreads + number * offset * offset, axis)


@triton.jit(do_not_specialize=SIZES)
def pool(
    x,
    grad,
    gate,
    total,
    maximum,
    ties,
    squares,
    rows,
    lane_groups,
    tiles,
    align: tl.constexpr,
    keep_rows: tl.constexpr,
    centred: tl.constexpr,
    kept_tile: tl.constexpr,
    reduced_tile: tl.constexpr,
):
    """Statistics of x * grad * gate[reduced] over one chunk of the reduced axis."""
    lanes = lane_groups * align
    kept_size, kept_step, reduced_size, reduced_step = _axes(rows, lanes, keep_rows)
    batch, kept, out = _place(kept_size, kept_tile)
    first, last = _chunk(reduced_size, tiles, reduced_tile)
    inside = kept < kept_size
    start = batch * rows * lanes + (kept.to(tl.int64) * kept_step)[:, None]

    sums = tl.zeros((kept_tile, reduced_tile), tl.float32)
    peaks = tl.full((kept_tile, reduced_tile), float("-inf"), tl.float32)
    counts = tl.zeros((kept_tile, reduced_tile), tl.float32)
    means = tl.zeros((kept_tile, reduced_tile), tl.float32)
    spreads = tl.zeros((kept_tile, reduced_tile), tl.float32)
    seen = 0.0
    for tile in range(first, last):
        reduced = tile * reduced_tile + tl.arange(0, reduced_tile)
        mask = inside[:, None] & (reduced < reduced_size)[None, :]
        index = start + (reduced.to(tl.int64) * reduced_step)[None, :]
        value = _load(x, index, mask)
        if grad is not None:
            value *= _load(grad, index, mask)
        if gate is not None:
            value *= _load(gate, batch * reduced_size + reduced, reduced < reduced_size)[None, :]
        sums += value
        if maximum is not None:
            peaks, counts = _raise(peaks, counts, value, mask)
        if squares is not None:
            if centred:
                seen += 1.0
                means, spreads = _spread(means, spreads, value, mask, seen)
            else:
                spreads += value * value

    line_total = tl.sum(sums, 1)
    tl.store(total + out, line_total, mask=inside)
    if maximum is not None:
        peak = _largest(peaks, 1)
        tl.store(maximum + out, peak, mask=inside)
        if ties is not None:
            tl.store(ties + out, tl.sum(tl.where(peaks == peak[:, None], counts, 0.0), 1), mask=inside)
    if squares is not None:
        if centred:
            column = tl.arange(0, reduced_tile)
            number = tl.minimum(tl.cdiv(reduced_size - column, reduced_tile), last) - first
            number = tl.maximum(number, 0).to(tl.float32)[None, :]
            tl.store(squares + out, _merge_spreads(line_total, means, spreads, number, 1), mask=inside)
        else:
            tl.store(squares + out, tl.sum(spreads, 1), mask=inside)


@triton.jit(do_not_specialize=["size", "reduced_size", "chunk"])
def merge_pools(
    total_parts,
    maximum_parts,
    ties_parts,
    squares_parts,
    total,
    maximum,
    ties,
    squares,
    size,
    reduced_size,
    chunk,
    centred: tl.constexpr,
    chunks_tile: tl.constexpr,
    tile: tl.constexpr,
):
    """What `pool` found in each chunk, (chunks, size), as one result, (size)."""
    item = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside = item < size
    part = tl.arange(0, chunks_tile)
    number = tl.minimum(tl.maximum(reduced_size - part * chunk, 0), chunk).to(tl.float32)[:, None]
    mask = (number > 0) & inside[None, :]
    index = part.to(tl.int64)[:, None] * size + item[None, :]

    totals = _load(total_parts, index, mask)
    tl.store(total + item, tl.sum(totals, 0), mask=inside)
    if maximum is not None:
        peaks = tl.where(mask, _load(maximum_parts, index, mask), float("-inf"))
        peak = _largest(peaks, 0)
        tl.store(maximum + item, peak, mask=inside)
        if ties is not None:
            counts = tl.where(peaks == peak[None, :], _load(ties_parts, index, mask), 0.0)
            tl.store(ties + item, tl.sum(counts, 0), mask=inside)
    if squares is not None:
        spreads = _load(squares_parts, index, mask)
        if centred:
            means = totals / tl.maximum(number, 1.0)
            tl.store(squares + item, _merge_spreads(tl.sum(totals, 0), means, spreads, number, 0), mask=inside)
        else:
            tl.store(squares + item, tl.sum(spreads, 0), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def weigh(
    x,
    weight,
    gate,
    maximum,
    share,
    out,
    rows,
    lane_groups,
    tiles,
    align: tl.constexpr,
    keep_rows: tl.constexpr,
    kept_tile: tl.constexpr,
    reduced_tile: tl.constexpr,
):
    """Sum of x * (weight[reduced] + (share[reduced] where x * gate[kept] equals maximum[reduced])) over one chunk."""
    lanes = lane_groups * align
    kept_size, kept_step, reduced_size, reduced_step = _axes(rows, lanes, keep_rows)
    batch, kept, out_at = _place(kept_size, kept_tile)
    first, last = _chunk(reduced_size, tiles, reduced_tile)
    inside = (kept < kept_size)[:, None]
    start = batch * rows * lanes + (kept.to(tl.int64) * kept_step)[:, None]
    own = (batch * kept_size + kept)[:, None]

    sums = tl.zeros((kept_tile, reduced_tile), tl.float32)
    for tile in range(first, last):
        reduced = tile * reduced_tile + tl.arange(0, reduced_tile)
        here = (reduced < reduced_size)[None, :]
        value = _load(x, start + (reduced.to(tl.int64) * reduced_step)[None, :], inside & here)
        line = (batch * reduced_size + reduced)[None, :]
        sums += value * _pool_weight(value, weight, gate, maximum, share, line, here, own, inside)
    tl.store(out + out_at, tl.sum(sums, 1), mask=kept < kept_size)


@triton.jit
def _pool_weight(value, weight, gate, maximum, share, line, in_line, own, in_own):
    """weight[line] + (share[line] where value * gate[own] equals maximum[line])."""
    result = _load(weight, line, in_line)
    if maximum is not None:
        if gate is not None:
            value *= _load(gate, own, in_own)
        result += tl.where(value == _load(maximum, line, in_line), _load(share, line, in_line), 0.0)
    return result


@triton.jit(do_not_specialize=SIZES)
def gate_sums(
    x,
    grad,
    row_gate,
    lane_gate,
    row_sums,
    lane_sums,
    rows,
    lane_groups,
    tiles,
    align: tl.constexpr,
    kept_tile: tl.constexpr,
    reduced_tile: tl.constexpr,
):
    """Sums of x * grad * the other gate: per row over a block of lanes, per lane over a chunk of rows."""
    lanes = lane_groups * align
    batch, lane, lane_at = _place(lanes, kept_tile)
    blocks = tl.cdiv(lanes, kept_tile)
    row_sums += (tl.program_id(0) % blocks * (tl.num_programs(0) // blocks) + batch) * rows
    first, last = _chunk(rows, tiles, reduced_tile)
    inside = (lane < lanes)[None, :]

    sums = tl.zeros((reduced_tile, kept_tile), tl.float32)
    for tile in range(first, last):
        row = tile * reduced_tile + tl.arange(0, reduced_tile)
        here = (row < rows)[:, None]
        index = (batch * rows + row)[:, None] * lanes + lane[None, :]
        product = _load(x, index, here & inside) * _load(grad, index, here & inside)
        by_row, by_lane = product, product
        if lane_gate is not None:
            by_row = product * _load(lane_gate, (batch * lanes + lane)[None, :], inside)
        if row_gate is not None:
            by_lane = product * _load(row_gate, (batch * rows + row)[:, None], here)
        sums += by_lane
        tl.store(row_sums + row, tl.sum(by_row, 1), mask=row < rows)
    tl.store(lane_sums + lane_at, tl.sum(sums, 0), mask=lane < lanes)


@triton.jit
def _tile(rows, lanes, row_tile: tl.constexpr, lane_tile: tl.constexpr):
    """This program's tile of the map: per row its number in the batch, per lane likewise, and what is inside."""
    lane_blocks, row_blocks = tl.cdiv(lanes, lane_tile), tl.cdiv(rows, row_tile)
    block = tl.program_id(0) // lane_blocks
    batch = (block // row_blocks).to(tl.int64)
    row = (block % row_blocks * row_tile + tl.arange(0, row_tile))[:, None]
    lane = (tl.program_id(0) % lane_blocks * lane_tile + tl.arange(0, lane_tile))[None, :]
    index = (batch * rows + row) * lanes + lane
    return index, batch * rows + row, batch * lanes + lane, row < rows, lane < lanes


@triton.jit(do_not_specialize=["rows", "lane_groups"])
def scale(
    x,
    row_gate,
    lane_gate,
    out,
    rows,
    lane_groups,
    align: tl.constexpr,
    row_tile: tl.constexpr,
    lane_tile: tl.constexpr,
):
    """x * (row_gate * lane_gate)."""
    index, row, lane, in_rows, in_lanes = _tile(rows, lane_groups * align, row_tile, lane_tile)
    value = _load(x, index, in_rows & in_lanes) * _gates(row_gate, lane_gate, row, lane, in_rows, in_lanes)
    tl.store(out + index, value.to(out.dtype.element_ty), mask=in_rows & in_lanes)


@triton.jit
def _gates(row_gate, lane_gate, row, lane, in_rows, in_lanes):
    gates = 1.0
    if row_gate is not None:
        gates *= _load(row_gate, row, in_rows)
    if lane_gate is not None:
        gates *= _load(lane_gate, lane, in_lanes)
    return gates


@triton.jit(do_not_specialize=["rows", "lane_groups"])
def input_gradient(
    out,
    x,
    grad,
    row_gate,
    lane_gate,
    rows_weight,
    rows_gate,
    rows_maximum,
    rows_share,
    lanes_weight,
    lanes_gate,
    lanes_maximum,
    lanes_share,
    row_factor,
    lane_factor,
    rows,
    lane_groups,
    align: tl.constexpr,
    row_tile: tl.constexpr,
    lane_tile: tl.constexpr,
):
    """The sum of the gradients that flow back to x; rows_* belong to a pool over the rows, lanes_* over the lanes."""
    index, row, lane, in_rows, in_lanes = _tile(rows, lane_groups * align, row_tile, lane_tile)
    mask = in_rows & in_lanes
    result = tl.zeros((row_tile, lane_tile), tl.float32)
    value = result
    if x is not None:
        value = _load(x, index, mask)
    if grad is not None:
        result += _load(grad, index, mask) * _gates(row_gate, lane_gate, row, lane, in_rows, in_lanes)
    if rows_weight is not None:
        share = _pool_weight(value, rows_weight, rows_gate, rows_maximum, rows_share, lane, in_lanes, row, in_rows)
        result += share * _gates(rows_gate, None, row, lane, in_rows, in_lanes)
    if lanes_weight is not None:
        share = _pool_weight(value, lanes_weight, lanes_gate, lanes_maximum, lanes_share, row, in_rows, lane, in_lanes)
        result += share * _gates(None, lanes_gate, row, lane, in_rows, in_lanes)
    if row_factor is not None:
        result += value * _load(row_factor, row, in_rows)
    if lane_factor is not None:
        result += value * _load(lane_factor, lane, in_lanes)
    tl.store(out + index, result.to(out.dtype.element_ty), mask=mask)
