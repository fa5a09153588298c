"""Convolutions of a few maps as Numba loops; see numba_pooling for how loops are started.

An image is convolved as one long row: with the padding left in place, a tap of the kernel is a shift. What is
computed in the padding's columns is dropped when the result is copied.
"""

# mypy: ignore-errors

from __future__ import annotations

from .numba_intrinsics import fp32, integers, lines, load, next_number, peek, poke
from .numba_pooling import FLOAT, ZERO, plain, reducing, reload_total, store_total
from .numba_pooling import fill_total as fill


def convolve(a):
    (x,), (weight, y) = lines(a, 1, 1), lines(a, 4, 2)
    batch, inputs, outputs, height, width, kernel = integers(a, 8, 6)
    edge, padded_width = kernel // 2, width + kernel - 1
    plane, n = padded_size(height, width, kernel), height * padded_width
    padded = _own_scratch(a, inputs * plane + n)
    sums = inputs * plane
    while True:
        image = next_number(a, 0)
        if image >= batch:
            break
        for source in range(inputs):
            to = source * plane + edge * padded_width + edge
            _copy_rows(x, (image * inputs + source) * height * width, width, padded, to, padded_width, height, width)
        for output in range(outputs):
            fill(padded, sums, n, ZERO)
            for source in range(inputs):
                for row in range(kernel):
                    taps = ((output * inputs + source) * kernel + row) * kernel
                    add_row_of_taps(padded, source * plane + row * padded_width, weight, taps, kernel, padded, sums, n)
            to = (image * outputs + output) * height * width
            _copy_rows(padded, sums, padded_width, y, to, width, height, width)


@plain
def padded_size(height, width, kernel):
    """Of a map with zeros around, and one row more: the last taps of the last row reach there."""
    return (height + kernel) * (width + kernel - 1)


@plain
def _own_scratch(a, size):
    """This thread's part of the scratch memory, filled with zeros."""
    (scratch_at,) = integers(a, 6, 1)
    scratch = fp32(scratch_at + FLOAT * size * next_number(a, 7))
    fill(scratch, 0, size, ZERO)
    return scratch


@plain
def _copy_rows(x, at, step, y, to, to_step, rows, n):
    for row in range(rows):
        for index in range(n):
            poke(y, to + row * to_step + index, peek(x, at + row * step + index))


@plain
def add_row_of_taps(x, at, weight, taps, kernel, work, to, n):
    tap = 0
    while tap + 4 <= kernel:
        _add_four_taps(x, at + tap, weight, taps + tap, work, to, n)
        tap += 4
    while tap < kernel:
        _add_tap(x, at + tap, load(weight, taps + tap), work, to, n)
        tap += 1


@reducing
def _add_tap(x, at, w, work, to, n):
    for index in range(n):
        store_total(work, to + index, reload_total(work, to + index) + w * load(x, at + index))


@reducing
def _add_four_taps(x, at, weight, taps, work, to, n):
    w0, w1, w2, w3 = load(weight, taps), load(weight, taps + 1), load(weight, taps + 2), load(weight, taps + 3)
    for index in range(n):
        here = at + index
        sums = (w0 * load(x, here) + w1 * load(x, here + 1)) + (w2 * load(x, here + 2) + w3 * load(x, here + 3))
        store_total(work, to + index, reload_total(work, to + index) + sums)


def correlate(a):
    (x,), (grad, weights) = lines(a, 1, 1), lines(a, 4, 2)
    batch, inputs, height, width, kernel = integers(a, 8, 5)
    edge, padded_width = kernel // 2, width + kernel - 1
    plane, n = padded_size(height, width, kernel), height * padded_width
    padded = _own_scratch(a, plane + n)
    while True:
        task = next_number(a, 0)
        if task >= batch * inputs:
            break
        image = task // inputs
        _copy_rows(x, task * height * width, width, padded, edge * padded_width + edge, padded_width, height, width)
        _copy_rows(grad, image * height * width, width, padded, plane, padded_width, height, width)
        for tap in range(kernel * kernel):
            at = (tap // kernel) * padded_width + tap % kernel
            store_total(weights, task * kernel * kernel + tap, _dot(padded, at, padded, plane, n))


@reducing
def _dot(x, at, grad, grads, n):
    total = ZERO
    for index in range(n):
        total += load(x, at + index) * load(grad, grads + index)
    return total
