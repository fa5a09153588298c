"""Pools as Numba loops. Each takes one pointer to 64-bit integers: a task counter, addresses, sizes, switches.

Threads draw tasks from the counter. Which thread takes which task changes nothing, since every number is reduced
within one task, in an order that depends on the shape alone. Where lanes accumulate, rows are taken four at a time,
so that the accumulators move fewer bytes than x.
"""

# Numba infers types itself and reads no annotations.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from numba import njit

from .numba_intrinsics import fp32, integers, larger, lines, load, maps, next_number, output

reload_total, store_total = output("total")
reload_maximum, store_maximum = output("maximum")
reload_ties, store_ties = output("ties")
reload_squares, store_squares = output("squares")

ROWS_PER_TASK = 64
# Numbers that are added one after another before their sum is added to the others: a sum of many would lose digits.
MOST_LANES, MOST_ROWS = 4096, 512
FLOAT = 4  # bytes
ZERO, ONE, LOWEST, NAN = np.float32(0), np.float32(1), np.float32(-np.inf), np.float32(np.nan)
CENTRED = 2

plain = njit(error_model="numpy", forceinline=True)
# Sums may be taken in any fixed order. Products stay as they are: maxima are found again by comparing them.
reducing = njit(error_model="numpy", fastmath={"reassoc", "nsz"}, forceinline=True)


def _make_fill(store):
    @plain
    def fill(pointer, at, n, value):
        for index in range(n):
            store(pointer, at + index, value)

    return fill


fill_total, fill_maximum = _make_fill(store_total), _make_fill(store_maximum)
fill_ties, fill_squares = _make_fill(store_ties), _make_fill(store_squares)


@plain
def next_rows(a, batch, rows):
    """Draw a task of some rows: image, first row, last row + 1. There is none left where image >= batch."""
    blocks = (rows + ROWS_PER_TASK - 1) // ROWS_PER_TASK
    task = next_number(a, 0)
    image, first = task // blocks, (task % blocks) * ROWS_PER_TASK
    return image, image * rows + first, image * rows + min(rows, first + ROWS_PER_TASK)


def pool_lanes(a):
    (x,) = maps(a, 1, 1)
    gate, total, maximum, ties, squares = lines(a, 4, 5)
    batch, rows, lanes, with_maximum, with_ties, with_squares = integers(a, 9, 6)
    image, first, last = next_rows(a, batch, rows)
    while image < batch:
        gates = image * lanes
        pool_along(x, first, last, lanes, gate, gates, total, maximum, ties, first, with_maximum, with_ties)
        if with_squares:
            for row in range(first, last):
                _store_squares(x, row, lanes, reload_total(total, row), squares, with_squares)
        image, first, last = next_rows(a, batch, rows)


@plain
def pool_along(x, row, last, lanes, gate, gates, total, maximum, ties, to, with_maximum, with_ties):
    """Reduce each of some rows over its lanes; results go to index `to` and on."""
    while with_maximum and row + 2 <= last:
        at = row * lanes
        t0, m0, t1, m1 = two_totals_and_maxima(x, at, gate, gates, lanes)
        c0, c1 = ZERO, ZERO
        if with_ties:
            c0, c1 = _count_ties_of_two(x, at, gate, gates, lanes, m0, m1)
        store_total(total, to, t0)
        store_total(total, to + 1, t1)
        _store_maximum(x, at, gate, gates, lanes, t0, m0, c0, maximum, ties, to, with_ties)
        _store_maximum(x, at + lanes, gate, gates, lanes, t1, m1, c1, maximum, ties, to + 1, with_ties)
        row += 2
        to += 2
    while row < last:
        store_total(total, to, total_over_lanes(x, row * lanes, gate, gates, lanes))
        if with_maximum:
            _store_maximum(x, row * lanes, gate, gates, lanes, NAN, NAN, ZERO, maximum, ties, to, with_ties)
        row += 1
        to += 1


@plain
def _store_maximum(x, at, gate, gates, n, total, found, count, maximum, ties, to, with_ties):
    """Store the maximum of a row, found again by exact comparisons unless its total is finite."""
    if not is_finite(total):
        found, count = exact_maximum(x, at, 1, gate, gates, n)
    store_maximum(maximum, to, found)
    if with_ties:
        store_ties(ties, to, count)


def pool_rows(a):
    (x,) = maps(a, 1, 1)
    gate, total, maximum, ties, squares = lines(a, 4, 5)
    batch, rows, lanes, with_maximum, with_ties, with_squares = integers(a, 9, 6)
    splits, width, pitch, scratch = integers(a, 15, 4)
    scratch += 2 * FLOAT * width * next_number(a, 19)  # of this thread
    blocks = (lanes + width - 1) // width
    while True:
        task = next_number(a, 0)
        if task >= batch * splits * blocks:
            break
        part, lane = task // blocks, (task % blocks) * width
        image, split = part // splits, part % splits
        n, to = min(width, lanes - lane), part * pitch + lane
        # Whole vectors run on into the next row, and what they find there is dropped; nothing follows the last image.
        wide = min(width, pitch - lane) if image < batch - 1 else n
        first, last = rows * split // splits, rows * (split + 1) // splits
        at, gates = image * rows * lanes + first * lanes + lane, image * rows + first
        work = fp32(scratch - FLOAT * to)  # index `to` is its first number
        switches = with_maximum, with_ties
        pool_across(x, at, lanes, last - first, gate, gates, total, work, maximum, ties, to, n, wide, *switches)
        if with_squares:
            work = fp32(scratch + FLOAT * (width - to))  # not where totals were: loads and stores say they differ
            _square_rows(x, at, lanes, last - first, total, squares, work, to, n, with_squares == CENTRED)


@plain
def pool_across(x, at, step, rows, gate, gates, total, work, maximum, ties, to, n, wide, with_maximum, with_ties):
    """Reduce each of some lanes over the rows; n of the lanes count, `wide` are computed."""
    fill_total(total, to, wide, ZERO)
    if with_maximum:
        fill_maximum(maximum, to, wide, LOWEST)
    if with_ties:
        fill_ties(ties, to, wide, ZERO)
    row = 0
    while row < rows:
        some, place, theirs = min(MOST_ROWS, rows - row), at + row * step, gates + row
        summed = total if rows <= MOST_ROWS else work
        if rows > MOST_ROWS:
            fill_total(summed, to, wide, ZERO)
        if with_ties:
            _add_rows_and_ties(x, place, step, some, gate, theirs, summed, maximum, ties, to, wide)
        elif with_maximum:
            _add_rows_and_maximum(x, place, step, some, gate, theirs, summed, maximum, ties, to, wide)
        else:
            _add_rows(x, place, step, some, gate, theirs, summed, maximum, ties, to, wide)
        if rows > MOST_ROWS:
            _add_part(summed, total, to, wide)
        row += MOST_ROWS
    for index in range(n if with_maximum else 0):
        if not is_finite(reload_total(total, to + index)):
            largest, count = exact_maximum(x, at + index, step, gate, gates, rows)
            store_maximum(maximum, to + index, largest)
            if with_ties:
                store_ties(ties, to + index, count)


@plain
def _square_rows(x, at, step, rows, total, squares, part, to, n, centred):
    fill_squares(squares, to, n, ZERO)
    row = 0
    while row < rows:
        fill_squares(part, to, n, ZERO)
        for this in range(row, min(row + MOST_ROWS, rows)):
            if centred:
                _add_centred_squares(x, at + this * step, total, ONE / np.float32(rows), part, to, n)
            else:
                _add_squares(x, at + this * step, part, to, n)
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
    found, lane = ZERO, 0
    while lane < n:
        found += _some_squares(x, row * n + lane, min(MOST_LANES, n - lane), centre)
        lane += MOST_LANES
    store_squares(squares, row, found)


@reducing
def _some_squares(x, at, n, centre):
    squares = ZERO
    for lane in range(n):
        deviation = load(x, at + lane) - centre
        squares += deviation * deviation
    return squares


@plain
def exact_maximum(x, at, step, gate, gates, n):
    """Maximum and number of ties; a NaN is the maximum, and nothing equals it."""
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


def _make_add_rows(with_maximum, with_ties):
    """A function that adds rows to `total`, and keeps `maximum` and `ties` up to date where it is to."""

    @reducing
    def add_one(x, at, g, total, maximum, ties, to, n):
        for lane in range(n):
            value = load(x, at + lane) * g
            store_total(total, to + lane, reload_total(total, to + lane) + value)
            if with_maximum:
                before = reload_maximum(maximum, to + lane)
                largest = larger(value, before)
                if with_ties:
                    kept = reload_ties(ties, to + lane) if before == largest else ZERO
                    store_ties(ties, to + lane, kept + (ONE if value == largest else ZERO))
                store_maximum(maximum, to + lane, largest)

    @reducing
    def add_four(x, at, step, gate, gates, total, maximum, ties, to, n):
        g0, g1, g2, g3 = load(gate, gates), load(gate, gates + 1), load(gate, gates + 2), load(gate, gates + 3)
        for lane in range(n):
            one = at + lane
            v0, v1 = load(x, one) * g0, load(x, one + step) * g1
            v2, v3 = load(x, one + 2 * step) * g2, load(x, one + 3 * step) * g3
            store_total(total, to + lane, reload_total(total, to + lane) + ((v0 + v1) + (v2 + v3)))
            if with_maximum:
                before = reload_maximum(maximum, to + lane)
                largest = larger(larger(larger(v0, v1), larger(v2, v3)), before)
                if with_ties:
                    kept = reload_ties(ties, to + lane) if before == largest else ZERO
                    first = (ONE if v0 == largest else ZERO) + (ONE if v1 == largest else ZERO)
                    second = (ONE if v2 == largest else ZERO) + (ONE if v3 == largest else ZERO)
                    store_ties(ties, to + lane, kept + (first + second))
                store_maximum(maximum, to + lane, largest)

    @plain
    def add_rows(x, at, step, rows, gate, gates, total, maximum, ties, to, n):
        row = 0
        while row + 4 <= rows:
            add_four(x, at + row * step, step, gate, gates + row, total, maximum, ties, to, n)
            row += 4
        while row < rows:
            add_one(x, at + row * step, load(gate, gates + row), total, maximum, ties, to, n)
            row += 1

    return add_rows


_add_rows = _make_add_rows(with_maximum=False, with_ties=False)
_add_rows_and_maximum = _make_add_rows(with_maximum=True, with_ties=False)
_add_rows_and_ties = _make_add_rows(with_maximum=True, with_ties=True)


@reducing
def _add_part(part, total, to, n):
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
