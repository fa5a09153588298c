"""Scaling and gradients as Numba loops; see numba_pooling for how they are started and why rows go by fours."""

# mypy: ignore-errors

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types
from numba.extending import overload

from .numba_intrinsics import integers, lines, load, maps, next_number, recomputed
from .numba_pooling import ZERO, next_rows, plain, reducing
from .numba_pooling import fill_total as fill
from .numba_pooling import reload_total as reload
from .numba_pooling import store_total as store


class ByRow(NamedTuple):
    """x that is recomputed from what it was computed of: `rounded(fma(pointer, slope, offset))`, one pair per row."""

    pointer: Any
    slope: Any
    offset: Any


class ByLane(NamedTuple):
    """The same with one slope and one offset per lane."""

    pointer: Any
    slope: Any
    offset: Any


def input_map(a):
    """x: a pointer, or what x is recomputed from."""
    raise NotImplementedError


@overload(input_map)
def _input_map_of(a):
    if a.kind == "stored":
        return lambda a: maps(a, 1, 1)[0]
    if a.kind == "by_row":
        return lambda a: ByRow(maps(a, 1, 1)[0], lines(a, 2, 2)[0], lines(a, 2, 2)[1])
    return lambda a: ByLane(maps(a, 1, 1)[0], lines(a, 2, 2)[0], lines(a, 2, 2)[1])


def value(x, row, lane, at):
    """Element `at` of x, which is in that row and lane; all three are counted through the images."""
    raise NotImplementedError


@overload(value)
def _value_of(x, row, lane, at):
    if isinstance(x, types.CPointer):
        return lambda x, row, lane, at: load(x, at)
    if x.instance_class is ByRow:
        return lambda x, row, lane, at: recomputed(x.pointer, at, load(x.slope, row), load(x.offset, row))
    return lambda x, row, lane, at: recomputed(x.pointer, at, load(x.slope, lane), load(x.offset, lane))


@plain
def next_split(a, batch, rows, splits):
    """Draw one of the parts that the rows of an image are split into: part, image, first row, last row + 1."""
    part = next_number(a, 0)
    image, split = part // splits, part % splits
    return part, image, image * rows + rows * split // splits, image * rows + rows * (split + 1) // splits


def scale(a):
    (x, y), (row_gate, lane_gate) = (maps(a, 1, 1)[0], maps(a, 4, 1)[0]), lines(a, 5, 2)
    batch, rows, lanes = integers(a, 7, 3)
    image, first, last = next_rows(a, batch, rows)
    while image < batch:
        for row in range(first, last):
            scale_row(x, y, row * lanes, load(row_gate, row), lane_gate, image * lanes, lanes)
        image, first, last = next_rows(a, batch, rows)


@reducing
def scale_row(x, y, at, g, lane_gate, gates, n):
    for lane in range(n):
        store(y, at + lane, load(x, at + lane) * (g * load(lane_gate, gates + lane)))


def gate_sums(a):
    x, (grad,) = input_map(a), maps(a, 4, 1)
    row_gate, lane_gate, by_row, by_lane = lines(a, 5, 4)
    batch, rows, lanes, splits, with_rows, with_lanes, pitch = integers(a, 9, 7)
    part, image, row, last = next_split(a, batch, rows, splits)
    while image < batch:
        gates, to = image * lanes, part * pitch
        wide = pitch if image < batch - 1 else lanes  # as in numba_pooling: nothing follows the last image
        if with_lanes:
            fill(by_lane, to, pitch, ZERO)
        while with_lanes and row + 4 <= last:
            if with_rows:
                sums = _four_rows_both_ways(x, grad, row, lanes, wide, row_gate, lane_gate, gates, by_lane, to)
                for index in range(4):
                    store(by_row, row + index, sums[index])
            else:
                _four_rows_to_lanes(x, grad, row, lanes, lanes, row_gate, lane_gate, gates, by_lane, to)
            row += 4
        while row < last:
            if with_rows and with_lanes:
                store(by_row, row, _row_both_ways(x, grad, row, lanes, row_gate, lane_gate, gates, by_lane, to))
            elif with_rows:
                store(by_row, row, _row_sum(x, grad, row, lanes, row_gate, lane_gate, gates, by_lane, to))
            else:
                _row_to_lanes(x, grad, row, lanes, row_gate, lane_gate, gates, by_lane, to)
            row += 1
        part, image, row, last = next_split(a, batch, rows, splits)


@reducing
def _product(x, grad, row, lane, at):
    return value(x, row, lane, at) * load(grad, at)


def _make_row(with_rows, with_lanes):
    """The sum of a row of x * grad * lane_gate, the addition of x * grad * row_gate to `by_lane`, or both."""

    @reducing
    def one_row(x, grad, row, n, row_gate, lane_gate, gates, by_lane, to):
        g, total = load(row_gate, row), ZERO
        for lane in range(n):
            product = _product(x, grad, row, gates + lane, row * n + lane)
            if with_rows:
                total += product * load(lane_gate, gates + lane)
            if with_lanes:
                store(by_lane, to + lane, reload(by_lane, to + lane) + product * g)
        return total

    return one_row


_row_sum = _make_row(with_rows=True, with_lanes=False)
_row_to_lanes = _make_row(with_rows=False, with_lanes=True)
_row_both_ways = _make_row(with_rows=True, with_lanes=True)


def _make_four_rows(with_rows):
    """The same for four rows at once, which are always added to `by_lane`."""

    @reducing
    def four_rows(x, grad, row, n, wide, row_gate, lane_gate, gates, by_lane, to):
        g0, g1 = load(row_gate, row), load(row_gate, row + 1)
        g2, g3 = load(row_gate, row + 2), load(row_gate, row + 3)
        s0, s1, s2, s3 = ZERO, ZERO, ZERO, ZERO
        for lane in range(wide):
            here, at, counts = gates + lane, row * n + lane, lane < n
            p0, p1 = _product(x, grad, row, here, at), _product(x, grad, row + 1, here, at + n)
            p2, p3 = _product(x, grad, row + 2, here, at + 2 * n), _product(x, grad, row + 3, here, at + 3 * n)
            if with_rows:
                gate = load(lane_gate, here)
                s0 += p0 * gate if counts else ZERO
                s1 += p1 * gate if counts else ZERO
                s2 += p2 * gate if counts else ZERO
                s3 += p3 * gate if counts else ZERO
            store(by_lane, to + lane, reload(by_lane, to + lane) + ((p0 * g0 + p1 * g1) + (p2 * g2 + p3 * g3)))
        return s0, s1, s2, s3

    return four_rows


_four_rows_both_ways = _make_four_rows(with_rows=True)
_four_rows_to_lanes = _make_four_rows(with_rows=False)


def weigh_lanes(a):
    x = input_map(a)
    gate, weight, maximum, share, by_row = lines(a, 4, 5)
    batch, rows, lanes = integers(a, 9, 3)
    image, first, last = next_rows(a, batch, rows)
    while image < batch:
        for row in range(first, last):
            store(by_row, row, _weigh_row(x, row, gate, weight, maximum, share, image * lanes, lanes))
        image, first, last = next_rows(a, batch, rows)


@reducing
def _weigh_row(x, row, gate, weight, maximum, share, pooled, n):
    g, total = load(gate, row), ZERO
    for lane in range(n):
        here = pooled + lane
        found = value(x, row, here, row * n + lane)
        arrives = load(share, here) if found * g == load(maximum, here) else ZERO
        total += found * (load(weight, here) + arrives)
    return total


def weigh_rows(a):
    x = input_map(a)
    gate, weight, maximum, share, by_lane = lines(a, 4, 5)
    batch, rows, lanes, splits = integers(a, 9, 4)
    part, image, row, last = next_split(a, batch, rows, splits)
    while image < batch:
        gates, to = image * lanes, part * lanes
        fill(by_lane, to, lanes, ZERO)
        while row + 2 <= last:
            _weigh_two_rows(x, row, lanes, gate, gates, weight, maximum, share, by_lane, to)
            row += 2
        while row < last:
            _weigh_one_row(x, row, lanes, gate, gates, weight, maximum, share, by_lane, to)
            row += 1
        part, image, row, last = next_split(a, batch, rows, splits)


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
    """Pointers to everything small that an input gradient may be made of; absent parts point to neutral numbers."""

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


def input_gradient(a):
    x, (grad, out), parts = input_map(a), maps(a, 4, 2), Parts(*lines(a, 6, 12))
    batch, rows, lanes, with_grad, with_maxima, with_factors = integers(a, 18, 6)
    image, first, last = next_rows(a, batch, rows)
    while image < batch:
        for row in range(first, last):
            # The three usual cases are spelt out so that the switches are constants and the loops stay vectors.
            if with_grad and not with_maxima and not with_factors:
                _gradient_row(x, grad, out, row, image * lanes, lanes, parts, True, False, False)
            elif with_grad and with_maxima and not with_factors:
                _gradient_row(x, grad, out, row, image * lanes, lanes, parts, True, True, False)
            elif with_grad and with_factors and not with_maxima:
                _gradient_row(x, grad, out, row, image * lanes, lanes, parts, True, False, True)
            else:
                switches = with_grad != 0, with_maxima != 0, with_factors != 0
                _gradient_row(x, grad, out, row, image * lanes, lanes, parts, *switches)
        image, first, last = next_rows(a, batch, rows)


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
