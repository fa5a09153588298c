"""Convolutions of a few maps as Numba loops; see numba_pools for how loops are started.

An image is convolved as one long row: with the padding left in place, a tap of the kernel is a shift. What is
computed in the padding's columns is left behind when the result is copied.
"""

# mypy: ignore-errors

from __future__ import annotations

from .numba_intrinsics import argument, fp32, load, next_task
from .numba_pools import ZERO, plain, reducing, reload_total, store_maximum, store_total
from .numba_pools import fill_total as fill


def convolve_fp32(a):
    _convolve(fp32(argument(a, 1)), fp32(argument(a, 2)), fp32(argument(a, 3)), fp32(argument(a, 4)), a)


def correlate_fp32(a):
    _correlate(fp32(argument(a, 1)), fp32(argument(a, 2)), fp32(argument(a, 3)), a)


@plain
def _convolve(x, weight, work, y, a):
    batch, inputs, outputs = argument(a, 5), argument(a, 6), argument(a, 7)
    height, width, kernel, padded_width, plane = (
        argument(a, 8),
        argument(a, 9),
        argument(a, 10),
        argument(a, 11),
        argument(a, 12),
    )
    n = height * padded_width
    while True:
        task = next_task(a)
        if task >= batch * outputs:
            break
        image, output = task // outputs, task % outputs
        to = task * n
        fill(work, to, n, ZERO)
        for source in range(inputs):
            for row in range(kernel):
                at = (image * inputs + source) * plane + row * padded_width
                taps = ((output * inputs + source) * kernel + row) * kernel
                add_row_of_taps(x, at, weight, taps, kernel, work, to, n)
        for row in range(height):
            _copy(work, to + row * padded_width, y, (task * height + row) * width, width)


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


@reducing
def _copy(work, at, y, to, n):
    for index in range(n):
        store_maximum(y, to + index, reload_total(work, at + index))


@plain
def _correlate(x, grad, weights, a):
    batch, inputs, height, kernel, padded_width, plane = (
        argument(a, 4),
        argument(a, 5),
        argument(a, 6),
        argument(a, 7),
        argument(a, 8),
        argument(a, 9),
    )
    n = height * padded_width
    while True:
        task = next_task(a)
        if task >= batch * inputs:
            break
        image = task // inputs
        for tap in range(kernel * kernel):
            at = task * plane + (tap // kernel) * padded_width + tap % kernel
            store_total(weights, task * kernel * kernel + tap, _dot(x, at, grad, image * n, n))


@reducing
def _dot(x, at, grad, grads, n):
    total = ZERO
    for index in range(n):
        total += load(x, at + index) * load(grad, grads + index)
    return total
