"""Pools as Numba loops. Each takes one pointer to 64-bit integers: a task counter, addresses, sizes, switches.

Threads draw tasks from the counter; which thread takes which task changes nothing, since every number is
reduced within one task, in an order that depends on the shape alone. Rows are taken four at a time where
lanes accumulate, so that the accumulators move fewer bytes than x.
"""

# Numba infers types itself and reads no annotations.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import njit

from .numba_intrinsics import argument, bf16, fp32, larger, load, next_number, output

reload_total, store_total = output("total")
reload_maximum, store_maximum = output("maximum")
reload_ties, store_ties = output("ties")
reload_squares, store_squares = output("squares")

ROWS_PER_TASK = 64
# Numbers that are added up one after another before their sum is added to the others: a sum of many would lose digits.
MOST_LANES, MOST_ROWS = 4096, 512
FLOAT = 4  # bytes
ZERO, ONE, LOWEST = np.float32(0), np.float32(1), np.float32(-np.inf)
CENTRED = 2

plain = njit(error_model="numpy")
# Sums may be taken in any fixed order. Products stay as they are: maxima are found again by comparing them.
reducing = njit(error_model="numpy", fastmath={"reassoc", "nsz"}, forceinline=True)


def _filler(store):
    @plain
    def fill(pointer, at, n, value):
        for index in range(n):
            store(pointer, at + index, value)

    return fill


fill_total, fill_maximum = _filler(store_total), _filler(store_maximum)
fill_ties, fill_squares = _filler(store_ties), _filler(store_squares)


def pool_lanes_fp32(a):
    _pool_lanes(fp32(argument(a, 1)), a)


def pool_lanes_bf16(a):
    _pool_lanes(bf16(argument(a, 1)), a)


def pool_rows_fp32(a):
    _pool_rows(fp32(argument(a, 1)), a)


def pool_rows_bf16(a):
    _pool_rows(bf16(argument(a, 1)), a)


@plain
def _pool_lanes(x, a):
    gate, total, maximum = fp32(argument(a, 2)), fp32(argument(a, 3)), fp32(argument(a, 4))
    ties, squares = fp32(argument(a, 5)), fp32(argument(a, 6))
    batch, rows, lanes = argument(a, 7), argument(a, 8), argument(a, 9)
    with_maximum, with_ties, with_squares = argument(a, 10), argument(a, 11), argument(a, 12)
    blocks = (rows + ROWS_PER_TASK - 1) // ROWS_PER_TASK
    while True:
        task = next_number(a, 0)
        if task >= batch * blocks:
            break
        image, first = task // blocks, (task % blocks) * ROWS_PER_TASK
        row, last = image * rows + first, image * rows + min(rows, first + ROWS_PER_TASK)
        gates = image * lanes
        if with_maximum:
            while row + 2 <= last:
                at = row * lanes
                t0, m0, t1, m1 = two_totals_and_maxima(x, at, gate, gates, lanes)
                c0, c1 = ZERO, ZERO
                if with_ties:
                    c0, c1 = _count_ties_of_two(x, at, gate, gates, lanes, m0, m1)
                if not is_finite(t0):
                    m0, c0 = exact_maximum(x, at, 1, gate, gates, lanes)
                if not is_finite(t1):
                    m1, c1 = exact_maximum(x, at + lanes, 1, gate, gates, lanes)
                store_total(total, row, t0)
                store_total(total, row + 1, t1)
                store_maximum(maximum, row, m0)
                store_maximum(maximum, row + 1, m1)
                if with_ties:
                    store_ties(ties, row, c0)
                    store_ties(ties, row + 1, c1)
                if with_squares:
                    _store_squares(x, row, lanes, t0, squares, with_squares)
                    _store_squares(x, row + 1, lanes, t1, squares, with_squares)
                row += 2
        while row < last:
            at = row * lanes
            found = total_over_lanes(x, at, gate, gates, lanes)
            store_total(total, row, found)
            if with_maximum:
                largest, count = exact_maximum(x, at, 1, gate, gates, lanes)
                store_maximum(maximum, row, largest)
                if with_ties:
                    store_ties(ties, row, count)
            if with_squares:
                _store_squares(x, row, lanes, found, squares, with_squares)
            row += 1


@plain
def _pool_rows(x, a):
    gate, total, maximum = fp32(argument(a, 2)), fp32(argument(a, 3)), fp32(argument(a, 4))
    ties, squares = fp32(argument(a, 5)), fp32(argument(a, 6))
    batch, rows, lanes = argument(a, 7), argument(a, 8), argument(a, 9)
    with_maximum, with_ties, with_squares = argument(a, 10), argument(a, 11), argument(a, 12)
    splits, width, pitch = argument(a, 13), argument(a, 14), argument(a, 15)
    scratch = argument(a, 16) + 2 * FLOAT * width * next_number(a, 17)  # of this thread
    blocks = (lanes + width - 1) // width
    while True:
        task = next_number(a, 0)
        if task >= batch * splits * blocks:
            break
        part, lane = task // blocks, (task % blocks) * width
        image, split = part // splits, part % splits
        n, to = min(width, lanes - lane), part * pitch + lane
        # Whole vectors run on into the next row, and what they find there is left behind; nothing follows the last image.
        n = min(width, pitch - lane) if image < batch - 1 else n
        first, last = rows * split // splits, rows * (split + 1) // splits
        at, gates = image * rows * lanes + first * lanes + lane, image * rows + first
        fill_total(total, to, n, ZERO)
        if with_maximum:
            fill_maximum(maximum, to, n, LOWEST)
        if with_ties:
            fill_ties(ties, to, n, ZERO)
        part = fp32(scratch - FLOAT * to)  # index `to` is its first number
        row = first
        while row < last:
            rows_now, place, theirs = min(MOST_ROWS, last - row), at + (row - first) * lanes, gates + row - first
            summed = total if last - first <= MOST_ROWS else part
            if last - first > MOST_ROWS:
                fill_total(part, to, n, ZERO)
            if with_ties:
                _total_maximum_ties(x, place, lanes, rows_now, gate, theirs, summed, maximum, ties, to, n)
            elif with_maximum:
                total_and_maximum_over_rows(x, place, lanes, rows_now, gate, theirs, summed, maximum, to, n)
            else:
                add_rows(x, place, lanes, rows_now, gate, theirs, summed, to, n)
            if last - first > MOST_ROWS:
                add_part(part, total, to, n)
            row += MOST_ROWS
        if with_maximum:
            for index in range(min(n, lanes - lane)):
                if not is_finite(reload_total(total, to + index)):
                    largest, count = exact_maximum(x, at + index, lanes, gate, gates, last - first)
                    store_maximum(maximum, to + index, largest)
                    if with_ties:
                        store_ties(ties, to + index, count)
        if with_squares:
            fill_squares(squares, to, n, ZERO)
            part = fp32(scratch + FLOAT * (width - to))  # not where totals were: loads and stores say they differ
            row = 0
            while row < last - first:
                fill_squares(part, to, n, ZERO)
                for this in range(row, min(row + MOST_ROWS, last - first)):
                    if with_squares == CENTRED:
                        _add_centred_squares(x, at + this * lanes, total, ONE / np.float32(rows), part, to, n)
                    else:
                        _add_squares(x, at + this * lanes, part, to, n)
                _add_part_of_squares(part, squares, to, n)
                row += MOST_ROWS


# One row, over its lanes


@plain
def total_over_lanes(x, at, gate, gates, n):
    total, lane = ZERO, 0
    while lane < n:
        total += _some_total(x, at + lane, gate, gates + lane, min(MOST_LANES, n - lane))
        lane += MOST_LANES
    return total


@reducing
def _some_total(x, at, gate, gates, n):
    total = ZERO
    for lane in range(n):
        total += load(x, at + lane) * load(gate, gates + lane)
    return total


@plain
def two_totals_and_maxima(x, at, gate, gates, n):
    t0, t1, m0, m1, lane = ZERO, ZERO, LOWEST, LOWEST, 0
    while lane < n:
        some = _two_of_some(x, at + lane, n, gate, gates + lane, min(MOST_LANES, n - lane))
        t0 += some[0]
        m0 = larger(some[1], m0)
        t1 += some[2]
        m1 = larger(some[3], m1)
        lane += MOST_LANES
    return t0, m0, t1, m1


@reducing
def _two_of_some(x, at, step, gate, gates, n):
    t0, t1, m0, m1 = ZERO, ZERO, LOWEST, LOWEST
    for lane in range(n):
        g = load(gate, gates + lane)
        v0, v1 = load(x, at + lane) * g, load(x, at + step + lane) * g
        t0 += v0
        t1 += v1
        m0 = larger(v0, m0)
        m1 = larger(v1, m1)
    return t0, m0, t1, m1


@reducing
def _count_ties_of_two(x, at, gate, gates, n, m0, m1):
    c0, c1 = np.int32(0), np.int32(0)
    for lane in range(n):
        g = load(gate, gates + lane)
        c0 += np.int32(load(x, at + lane) * g == m0)
        c1 += np.int32(load(x, at + n + lane) * g == m1)
    return np.float32(c0), np.float32(c1)


@plain
def _store_squares(x, row, n, total, squares, kind):
    centre = total / np.float32(n) if kind == CENTRED else ZERO
    store_squares(squares, row, _squares(x, row * n, n, centre))


@plain
def _squares(x, at, n, centre):
    squares, lane = ZERO, 0
    while lane < n:
        squares += _some_squares(x, at + lane, min(MOST_LANES, n - lane), centre)
        lane += MOST_LANES
    return squares


@reducing
def _some_squares(x, at, n, centre):
    squares = ZERO
    for lane in range(n):
        deviation = load(x, at + lane) - centre
        squares += deviation * deviation
    return squares


@plain
def exact_maximum(x, at, step, gate, gates, n):
    """A NaN is the maximum, and nothing equals it."""
    maximum, ties = LOWEST, ZERO
    for index in range(n):
        value = load(x, at + index * step) * load(gate, gates + index)
        if value != value:
            return value, ZERO
        if value > maximum:
            maximum, ties = value, ONE
        elif value == maximum:
            ties += ONE
    return maximum, ties


# A block of lanes, over its rows


@plain
def add_rows(x, at, step, rows, gate, gates, total, to, n):
    row = 0
    while row + 4 <= rows:
        _add_four(x, at + row * step, step, gate, gates + row, total, to, n)
        row += 4
    while row < rows:
        _add_one(x, at + row * step, load(gate, gates + row), total, to, n)
        row += 1


@plain
def total_and_maximum_over_rows(x, at, step, rows, gate, gates, total, maximum, to, n):
    row = 0
    while row + 4 <= rows:
        _add_four_and_maximum(x, at + row * step, step, gate, gates + row, total, maximum, to, n)
        row += 4
    while row < rows:
        _add_one_and_maximum(x, at + row * step, load(gate, gates + row), total, maximum, to, n)
        row += 1


@plain
def _total_maximum_ties(x, at, step, rows, gate, gates, total, maximum, ties, to, n):
    row = 0
    while row + 4 <= rows:
        _add_four_and_ties(x, at + row * step, step, gate, gates + row, total, maximum, ties, to, n)
        row += 4
    while row < rows:
        _add_one_and_ties(x, at + row * step, load(gate, gates + row), total, maximum, ties, to, n)
        row += 1


@reducing
def _add_one(x, at, g, total, to, n):
    for lane in range(n):
        store_total(total, to + lane, reload_total(total, to + lane) + load(x, at + lane) * g)


@reducing
def _add_four(x, at, step, gate, gates, total, to, n):
    g0, g1, g2, g3 = load(gate, gates), load(gate, gates + 1), load(gate, gates + 2), load(gate, gates + 3)
    for lane in range(n):
        one = at + lane
        v0, v1 = load(x, one) * g0, load(x, one + step) * g1
        v2, v3 = load(x, one + 2 * step) * g2, load(x, one + 3 * step) * g3
        store_total(total, to + lane, reload_total(total, to + lane) + ((v0 + v1) + (v2 + v3)))


@reducing
def _add_one_and_maximum(x, at, g, total, maximum, to, n):
    for lane in range(n):
        value = load(x, at + lane) * g
        store_total(total, to + lane, reload_total(total, to + lane) + value)
        store_maximum(maximum, to + lane, larger(value, reload_maximum(maximum, to + lane)))


@reducing
def _add_four_and_maximum(x, at, step, gate, gates, total, maximum, to, n):
    g0, g1, g2, g3 = load(gate, gates), load(gate, gates + 1), load(gate, gates + 2), load(gate, gates + 3)
    for lane in range(n):
        one = at + lane
        v0, v1 = load(x, one) * g0, load(x, one + step) * g1
        v2, v3 = load(x, one + 2 * step) * g2, load(x, one + 3 * step) * g3
        store_total(total, to + lane, reload_total(total, to + lane) + ((v0 + v1) + (v2 + v3)))
        four = larger(larger(v0, v1), larger(v2, v3))
        store_maximum(maximum, to + lane, larger(four, reload_maximum(maximum, to + lane)))


@reducing
def _add_one_and_ties(x, at, g, total, maximum, ties, to, n):
    for lane in range(n):
        value, before = load(x, at + lane) * g, reload_maximum(maximum, to + lane)
        largest = larger(value, before)
        kept = reload_ties(ties, to + lane) if before == largest else ZERO
        store_total(total, to + lane, reload_total(total, to + lane) + value)
        store_ties(ties, to + lane, kept + (ONE if value == largest else ZERO))
        store_maximum(maximum, to + lane, largest)


@reducing
def _add_four_and_ties(x, at, step, gate, gates, total, maximum, ties, to, n):
    g0, g1, g2, g3 = load(gate, gates), load(gate, gates + 1), load(gate, gates + 2), load(gate, gates + 3)
    for lane in range(n):
        one = at + lane
        v0, v1 = load(x, one) * g0, load(x, one + step) * g1
        v2, v3 = load(x, one + 2 * step) * g2, load(x, one + 3 * step) * g3
        before = reload_maximum(maximum, to + lane)
        largest = larger(larger(larger(v0, v1), larger(v2, v3)), before)
        kept = reload_ties(ties, to + lane) if before == largest else ZERO
        first = (ONE if v0 == largest else ZERO) + (ONE if v1 == largest else ZERO)
        second = (ONE if v2 == largest else ZERO) + (ONE if v3 == largest else ZERO)
        store_total(total, to + lane, reload_total(total, to + lane) + ((v0 + v1) + (v2 + v3)))
        store_ties(ties, to + lane, kept + (first + second))
        store_maximum(maximum, to + lane, largest)


@reducing
def add_part(part, total, to, n):
    for lane in range(n):
        store_total(total, to + lane, reload_total(total, to + lane) + reload_total(part, to + lane))


@reducing
def _add_part_of_squares(part, squares, to, n):
    for lane in range(n):
        store_squares(squares, to + lane, reload_squares(squares, to + lane) + reload_squares(part, to + lane))


@reducing
def _add_squares(x, at, squares, to, n):
    for lane in range(n):
        value = load(x, at + lane)
        store_squares(squares, to + lane, reload_squares(squares, to + lane) + value * value)


@reducing
def _add_centred_squares(x, at, total, scale, squares, to, n):
    for lane in range(n):
        deviation = load(x, at + lane) - reload_total(total, to + lane) * scale
        store_squares(squares, to + lane, reload_squares(squares, to + lane) + deviation * deviation)


@plain
def is_finite(value):
    """Neither NaN nor an infinity."""
    return value - value == ZERO
