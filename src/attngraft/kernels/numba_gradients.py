"""Gates and gradients as Numba loops; see numba_pools for how they are started and why rows go by fours."""

# mypy: ignore-errors

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types
from numba.extending import overload

from .numba_intrinsics import argument, bf16, fp32, load, next_number, remade
from .numba_pools import ROWS_PER_TASK, ZERO, plain, reducing
from .numba_pools import fill_total as fill
from .numba_pools import reload_total as reload
from .numba_pools import store_total as store


def scale_fp32(a):
    _scale(fp32(argument(a, 1)), fp32(argument(a, 2)), a)


def scale_bf16(a):
    _scale(bf16(argument(a, 1)), bf16(argument(a, 2)), a)


class ByRow(NamedTuple):
    """x that is made anew from what it was computed of: `rounded(fma(pointer, slope, offset))`, one pair a row."""

    pointer: Any
    slope: Any
    offset: Any


class ByLane(NamedTuple):
    """The same with one slope and one offset a lane."""

    pointer: Any
    slope: Any
    offset: Any


def value(x, row, lane, at):
    """Element `at` of x, which is in that row and lane; all three count on through the images."""
    raise NotImplementedError


@overload(value)
def _value_of(x, row, lane, at):
    if isinstance(x, types.CPointer):
        return lambda x, row, lane, at: load(x, at)
    if x.instance_class is ByRow:
        return lambda x, row, lane, at: remade(x.pointer, at, load(x.slope, row), load(x.offset, row))
    return lambda x, row, lane, at: remade(x.pointer, at, load(x.slope, lane), load(x.offset, lane))


def gate_sums_fp32(a):
    _gate_sums(fp32(argument(a, 1)), fp32(argument(a, 2)), a)


def gate_sums_bf16(a):
    _gate_sums(bf16(argument(a, 1)), bf16(argument(a, 2)), a)


def gate_sums_by_row_fp32(a):
    _gate_sums(ByRow(fp32(argument(a, 1)), fp32(argument(a, 14)), fp32(argument(a, 15))), fp32(argument(a, 2)), a)


def gate_sums_by_row_bf16(a):
    _gate_sums(ByRow(bf16(argument(a, 1)), fp32(argument(a, 14)), fp32(argument(a, 15))), bf16(argument(a, 2)), a)


def gate_sums_by_lane_fp32(a):
    _gate_sums(ByLane(fp32(argument(a, 1)), fp32(argument(a, 14)), fp32(argument(a, 15))), fp32(argument(a, 2)), a)


def gate_sums_by_lane_bf16(a):
    _gate_sums(ByLane(bf16(argument(a, 1)), fp32(argument(a, 14)), fp32(argument(a, 15))), bf16(argument(a, 2)), a)


def weigh_lanes_fp32(a):
    _weigh_lanes(fp32(argument(a, 1)), a)


def weigh_lanes_bf16(a):
    _weigh_lanes(bf16(argument(a, 1)), a)


def weigh_lanes_by_row_fp32(a):
    _weigh_lanes(ByRow(fp32(argument(a, 1)), fp32(argument(a, 10)), fp32(argument(a, 11))), a)


def weigh_lanes_by_row_bf16(a):
    _weigh_lanes(ByRow(bf16(argument(a, 1)), fp32(argument(a, 10)), fp32(argument(a, 11))), a)


def weigh_lanes_by_lane_fp32(a):
    _weigh_lanes(ByLane(fp32(argument(a, 1)), fp32(argument(a, 10)), fp32(argument(a, 11))), a)


def weigh_lanes_by_lane_bf16(a):
    _weigh_lanes(ByLane(bf16(argument(a, 1)), fp32(argument(a, 10)), fp32(argument(a, 11))), a)


def weigh_rows_fp32(a):
    _weigh_rows(fp32(argument(a, 1)), a)


def weigh_rows_bf16(a):
    _weigh_rows(bf16(argument(a, 1)), a)


def weigh_rows_by_row_fp32(a):
    _weigh_rows(ByRow(fp32(argument(a, 1)), fp32(argument(a, 11)), fp32(argument(a, 12))), a)


def weigh_rows_by_row_bf16(a):
    _weigh_rows(ByRow(bf16(argument(a, 1)), fp32(argument(a, 11)), fp32(argument(a, 12))), a)


def weigh_rows_by_lane_fp32(a):
    _weigh_rows(ByLane(fp32(argument(a, 1)), fp32(argument(a, 11)), fp32(argument(a, 12))), a)


def weigh_rows_by_lane_bf16(a):
    _weigh_rows(ByLane(bf16(argument(a, 1)), fp32(argument(a, 11)), fp32(argument(a, 12))), a)


def input_gradient_fp32(a):
    _input_gradient(fp32(argument(a, 1)), fp32(argument(a, 2)), fp32(argument(a, 3)), a)


def input_gradient_bf16(a):
    _input_gradient(bf16(argument(a, 1)), bf16(argument(a, 2)), bf16(argument(a, 3)), a)


def input_gradient_by_row_fp32(a):
    _input_gradient(
        ByRow(fp32(argument(a, 1)), fp32(argument(a, 22)), fp32(argument(a, 23))),
        fp32(argument(a, 2)),
        fp32(argument(a, 3)),
        a,
    )


def input_gradient_by_row_bf16(a):
    _input_gradient(
        ByRow(bf16(argument(a, 1)), fp32(argument(a, 22)), fp32(argument(a, 23))),
        bf16(argument(a, 2)),
        bf16(argument(a, 3)),
        a,
    )


def input_gradient_by_lane_fp32(a):
    _input_gradient(
        ByLane(fp32(argument(a, 1)), fp32(argument(a, 22)), fp32(argument(a, 23))),
        fp32(argument(a, 2)),
        fp32(argument(a, 3)),
        a,
    )


def input_gradient_by_lane_bf16(a):
    _input_gradient(
        ByLane(bf16(argument(a, 1)), fp32(argument(a, 22)), fp32(argument(a, 23))),
        bf16(argument(a, 2)),
        bf16(argument(a, 3)),
        a,
    )


@plain
def _scale(x, y, a):
    row_gate, lane_gate = fp32(argument(a, 3)), fp32(argument(a, 4))
    batch, rows, lanes = argument(a, 5), argument(a, 6), argument(a, 7)
    blocks = (rows + ROWS_PER_TASK - 1) // ROWS_PER_TASK
    while True:
        task = next_number(a, 0)
        if task >= batch * blocks:
            break
        image, first = task // blocks, (task % blocks) * ROWS_PER_TASK
        for row in range(image * rows + first, image * rows + min(rows, first + ROWS_PER_TASK)):
            scale_row(x, y, row * lanes, load(row_gate, row), lane_gate, image * lanes, lanes)


@reducing
def scale_row(x, y, at, g, lane_gate, gates, n):
    for lane in range(n):
        store(y, at + lane, load(x, at + lane) * (g * load(lane_gate, gates + lane)))


@plain
def _gate_sums(x, grad, a):
    row_gate, lane_gate, by_row, by_lane = (
        fp32(argument(a, 3)),
        fp32(argument(a, 4)),
        fp32(argument(a, 5)),
        fp32(argument(a, 6)),
    )
    batch, rows, lanes, splits = argument(a, 7), argument(a, 8), argument(a, 9), argument(a, 10)
    with_rows, with_lanes, pitch = argument(a, 11), argument(a, 12), argument(a, 13)
    while True:
        part = next_number(a, 0)
        if part >= batch * splits:
            break
        image, split = part // splits, part % splits
        row, last = image * rows + rows * split // splits, image * rows + rows * (split + 1) // splits
        gates, to = image * lanes, part * pitch
        wide = pitch if image < batch - 1 else lanes  # as in numba_pools: nothing follows the last image
        if with_lanes:
            fill(by_lane, to, pitch, ZERO)
        if not with_lanes:
            while row < last:
                store(by_row, row, _product_sum(x, grad, row, lane_gate, gates, lanes))
                row += 1
        elif not with_rows:
            while row + 4 <= last:
                _add_four_products(x, grad, row, lanes, row_gate, gates, by_lane, to)
                row += 4
            while row < last:
                _add_product(x, grad, row, lanes, row_gate, gates, by_lane, to)
                row += 1
        else:
            while row + 4 <= last:
                sums = _four_rows_both_ways(x, grad, row, lanes, wide, row_gate, lane_gate, gates, by_lane, to)
                for index in range(4):
                    store(by_row, row + index, sums[index])
                row += 4
            while row < last:
                found = _row_both_ways(x, grad, row, lanes, row_gate, lane_gate, gates, by_lane, to)
                store(by_row, row, found)
                row += 1


@reducing
def _product(x, grad, row, lane, at):
    return value(x, row, lane, at) * load(grad, at)


@reducing
def _product_sum(x, grad, row, lane_gate, gates, n):
    total = ZERO
    for lane in range(n):
        total += _product(x, grad, row, gates + lane, row * n + lane) * load(lane_gate, gates + lane)
    return total


@reducing
def _add_product(x, grad, row, n, row_gate, gates, by_lane, to):
    g = load(row_gate, row)
    for lane in range(n):
        product = _product(x, grad, row, gates + lane, row * n + lane)
        store(by_lane, to + lane, reload(by_lane, to + lane) + product * g)


@reducing
def _add_four_products(x, grad, row, n, row_gate, gates, by_lane, to):
    g0, g1 = load(row_gate, row), load(row_gate, row + 1)
    g2, g3 = load(row_gate, row + 2), load(row_gate, row + 3)
    for lane in range(n):
        here, at = gates + lane, row * n + lane
        p0 = _product(x, grad, row, here, at) * g0
        p1 = _product(x, grad, row + 1, here, at + n) * g1
        p2 = _product(x, grad, row + 2, here, at + 2 * n) * g2
        p3 = _product(x, grad, row + 3, here, at + 3 * n) * g3
        store(by_lane, to + lane, reload(by_lane, to + lane) + ((p0 + p1) + (p2 + p3)))


@reducing
def _row_both_ways(x, grad, row, n, row_gate, lane_gate, gates, by_lane, to):
    g, total = load(row_gate, row), ZERO
    for lane in range(n):
        product = _product(x, grad, row, gates + lane, row * n + lane)
        total += product * load(lane_gate, gates + lane)
        store(by_lane, to + lane, reload(by_lane, to + lane) + product * g)
    return total


@reducing
def _four_rows_both_ways(x, grad, row, n, wide, row_gate, lane_gate, gates, by_lane, to):
    g0, g1 = load(row_gate, row), load(row_gate, row + 1)
    g2, g3 = load(row_gate, row + 2), load(row_gate, row + 3)
    s0, s1, s2, s3 = ZERO, ZERO, ZERO, ZERO
    for lane in range(wide):
        here, at, counts = gates + lane, row * n + lane, lane < n
        p0, p1 = _product(x, grad, row, here, at), _product(x, grad, row + 1, here, at + n)
        p2, p3 = _product(x, grad, row + 2, here, at + 2 * n), _product(x, grad, row + 3, here, at + 3 * n)
        gate = load(lane_gate, here)
        s0 += p0 * gate if counts else ZERO
        s1 += p1 * gate if counts else ZERO
        s2 += p2 * gate if counts else ZERO
        s3 += p3 * gate if counts else ZERO
        store(by_lane, to + lane, reload(by_lane, to + lane) + ((p0 * g0 + p1 * g1) + (p2 * g2 + p3 * g3)))
    return s0, s1, s2, s3


@plain
def _weigh_lanes(x, a):
    gate, weight, maximum, share, by_row = (
        fp32(argument(a, 2)),
        fp32(argument(a, 3)),
        fp32(argument(a, 4)),
        fp32(argument(a, 5)),
        fp32(argument(a, 6)),
    )
    batch, rows, lanes = argument(a, 7), argument(a, 8), argument(a, 9)
    blocks = (rows + ROWS_PER_TASK - 1) // ROWS_PER_TASK
    while True:
        task = next_number(a, 0)
        if task >= batch * blocks:
            break
        image, first = task // blocks, (task % blocks) * ROWS_PER_TASK
        for row in range(image * rows + first, image * rows + min(rows, first + ROWS_PER_TASK)):
            store(by_row, row, _weigh_row(x, row, gate, weight, maximum, share, image * lanes, lanes))


@reducing
def _weigh_row(x, row, gate, weight, maximum, share, pooled, n):
    g, total = load(gate, row), ZERO
    for lane in range(n):
        here = pooled + lane
        found = value(x, row, here, row * n + lane)
        arrives = load(share, here) if found * g == load(maximum, here) else ZERO
        total += found * (load(weight, here) + arrives)
    return total


@plain
def _weigh_rows(x, a):
    gate, weight, maximum, share, by_lane = (
        fp32(argument(a, 2)),
        fp32(argument(a, 3)),
        fp32(argument(a, 4)),
        fp32(argument(a, 5)),
        fp32(argument(a, 6)),
    )
    batch, rows, lanes, splits = argument(a, 7), argument(a, 8), argument(a, 9), argument(a, 10)
    while True:
        part = next_number(a, 0)
        if part >= batch * splits:
            break
        image, split = part // splits, part % splits
        row, last = image * rows + rows * split // splits, image * rows + rows * (split + 1) // splits
        gates, to = image * lanes, part * lanes
        fill(by_lane, to, lanes, ZERO)
        while row + 2 <= last:
            _weigh_two_rows(x, row, lanes, gate, gates, weight, maximum, share, by_lane, to)
            row += 2
        while row < last:
            _weigh_one_row(x, row, lanes, gate, gates, weight, maximum, share, by_lane, to)
            row += 1


@reducing
def _weigh_one_row(x, row, n, gate, gates, weight, maximum, share, by_lane, to):
    w, m, s = load(weight, row), load(maximum, row), load(share, row)
    for lane in range(n):
        found = value(x, row, gates + lane, row * n + lane)
        arrives = s if found * load(gate, gates + lane) == m else ZERO
        store(by_lane, to + lane, reload(by_lane, to + lane) + found * (w + arrives))


@reducing
def _weigh_two_rows(x, row, n, gate, gates, weight, maximum, share, by_lane, to):
    w0, m0, s0 = load(weight, row), load(maximum, row), load(share, row)
    w1, m1, s1 = load(weight, row + 1), load(maximum, row + 1), load(share, row + 1)
    for lane in range(n):
        here, at = gates + lane, row * n + lane
        g = load(gate, here)
        v0, v1 = value(x, row, here, at), value(x, row + 1, here, at + n)
        a0, a1 = s0 if v0 * g == m0 else ZERO, s1 if v1 * g == m1 else ZERO
        store(by_lane, to + lane, reload(by_lane, to + lane) + (v0 * (w0 + a0) + v1 * (w1 + a1)))


class Parts(NamedTuple):
    """Pointers to everything small that an input gradient may be made of; those that are absent point to neutral
    numbers."""

    row_gate: Any
    lane_gate: Any
    rows_gate: Any
    rows_weight: Any
    rows_maximum: Any
    rows_share: Any
    lanes_gate: Any
    lanes_weight: Any
    lanes_maximum: Any
    lanes_share: Any
    row_factor: Any
    lane_factor: Any


@plain
def _input_gradient(x, grad, out, a):
    parts = Parts(
        fp32(argument(a, 4)),
        fp32(argument(a, 5)),
        fp32(argument(a, 6)),
        fp32(argument(a, 7)),
        fp32(argument(a, 8)),
        fp32(argument(a, 9)),
        fp32(argument(a, 10)),
        fp32(argument(a, 11)),
        fp32(argument(a, 12)),
        fp32(argument(a, 13)),
        fp32(argument(a, 14)),
        fp32(argument(a, 15)),
    )
    batch, rows, lanes = argument(a, 16), argument(a, 17), argument(a, 18)
    with_grad, with_maxima, with_factors = argument(a, 19) != 0, argument(a, 20) != 0, argument(a, 21) != 0
    blocks = (rows + ROWS_PER_TASK - 1) // ROWS_PER_TASK
    while True:
        task = next_number(a, 0)
        if task >= batch * blocks:
            break
        image, first = task // blocks, (task % blocks) * ROWS_PER_TASK
        for row in range(image * rows + first, image * rows + min(rows, first + ROWS_PER_TASK)):
            # The three usual cases are spelt out so that the switches are constants and the loops stay vectors.
            if with_grad and not with_maxima and not with_factors:
                _gradient_row(x, grad, out, row, image * lanes, lanes, parts, True, False, False)
            elif with_grad and with_maxima and not with_factors:
                _gradient_row(x, grad, out, row, image * lanes, lanes, parts, True, True, False)
            elif with_grad and with_factors and not with_maxima:
                _gradient_row(x, grad, out, row, image * lanes, lanes, parts, True, False, True)
            else:
                _gradient_row(x, grad, out, row, image * lanes, lanes, parts, with_grad, with_maxima, with_factors)


@reducing
def _gradient_row(x, grad, out, row, lane_at, n, parts, with_grad, with_maxima, with_factors):
    at = row * n
    row_gate, rows_gate, row_factor = load(parts.row_gate, row), load(parts.rows_gate, row), load(parts.row_factor, row)
    lanes_weight, lanes_maximum = load(parts.lanes_weight, row), load(parts.lanes_maximum, row)
    lanes_share = load(parts.lanes_share, row)
    for lane in range(n):
        here = lane_at + lane
        rows_weight, lanes_gate = load(parts.rows_weight, here), load(parts.lanes_gate, here)
        over_rows, over_lanes = rows_weight, lanes_weight
        found = value(x, row, here, at + lane) if with_maxima or with_factors else ZERO
        if with_maxima:
            over_rows += load(parts.rows_share, here) if found * rows_gate == load(parts.rows_maximum, here) else ZERO
            over_lanes += lanes_share if found * lanes_gate == lanes_maximum else ZERO
        total = rows_gate * over_rows + lanes_gate * over_lanes
        if with_grad:
            total += load(grad, at + lane) * (row_gate * load(parts.lane_gate, here))
        if with_factors:
            total += found * (row_factor + load(parts.lane_factor, here))
        store(out, at + lane, total)
