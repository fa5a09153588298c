"""Whole attentions as one Numba loop over images, for inference; see numba_pools for how loops are started.

An image stays in the core's cache while its channels are pooled, weighed, pooled across and scaled. What is written
and read again within a task is read untagged (`peek`): tagged loads promise that nobody writes there.
"""

# mypy: ignore-errors

from __future__ import annotations

import math

import numpy as np

from .inference_programs import BOTTLENECK
from .numba_convolution import add_row_of_taps, padded_size
from .numba_gradients import scale_row
from .numba_intrinsics import (
    argument,
    bf16,
    fp32,
    load,
    next_number,
    peek,
    poke,
)
from .numba_pools import (
    FLOAT,
    LOWEST,
    MOST_ROWS,
    ONE,
    ZERO,
    add_part,
    add_rows,
    exact_maximum,
    fill_maximum,
    fill_total,
    is_finite,
    plain,
    reducing,
    total_and_maximum_over_rows,
    total_over_lanes,
    two_totals_and_maxima,
)


def gate_images_fp32(a):
    _gate_images(fp32(argument(a, 1)), fp32(argument(a, 2)), a)


def gate_images_bf16(a):
    _gate_images(bf16(argument(a, 1)), bf16(argument(a, 2)), a)


@plain
def _gate_images(x, y, a):
    ones, scratch, size = fp32(argument(a, 3)), argument(a, 4), argument(a, 5)
    batch, channels, height, width, by_channel = (
        argument(a, 6),
        argument(a, 7),
        argument(a, 8),
        argument(a, 9),
        argument(a, 10),
    )
    kind, with_maximum, kernel = argument(a, 11), argument(a, 13) != 0, argument(a, 21)
    positions = height * width
    rows, lanes = (channels, positions) if by_channel else (positions, channels)
    longest = max(channels, positions)
    while True:
        image = next_number(a, 0)
        if image >= batch:
            break
        at = image * channels * positions
        gate_at = scratch + FLOAT * image * size
        space_at = gate_at + FLOAT * channels
        total_at = space_at + FLOAT * positions
        gate, space, total = fp32(gate_at), fp32(space_at), fp32(total_at)
        maximum, rest = fp32(total_at + FLOAT * longest), fp32(total_at + 2 * FLOAT * longest)
        for index in range(channels):
            poke(gate, index, ONE)
        for index in range(positions):
            poke(space, index, ONE)
        if kind:
            if by_channel:
                _pool_along(x, at, rows, lanes, ones, total, maximum, with_maximum)
            else:
                _pool_across(x, at, rows, lanes, ones, total, maximum, rest, with_maximum)
            if kind == BOTTLENECK:
                _bottleneck(total, maximum, rest, gate, channels, positions, a)
            else:
                _convolve_channels(total, gate, channels, positions, a)
        if kernel:
            if by_channel:
                _pool_across(x, at, rows, lanes, gate, total, maximum, rest, True)
            else:
                _pool_along(x, at, rows, lanes, gate, total, maximum, True)
            _weigh_positions(total, maximum, rest, space, channels, height, width, a)
        row_gate, lane_gate = (gate, space) if by_channel else (space, gate)
        for row in range(rows):
            scale_row(x, y, at + row * lanes, load(row_gate, row), lane_gate, 0, lanes)


@plain
def _pool_along(x, at, rows, lanes, gate, total, maximum, with_maximum):
    row = 0
    while with_maximum and row + 2 <= rows:
        t0, m0, t1, m1 = two_totals_and_maxima(x, at + row * lanes, gate, 0, lanes)
        if not is_finite(t0):
            m0, _ = exact_maximum(x, at + row * lanes, 1, gate, 0, lanes)
        if not is_finite(t1):
            m1, _ = exact_maximum(x, at + (row + 1) * lanes, 1, gate, 0, lanes)
        poke(total, row, t0)
        poke(total, row + 1, t1)
        poke(maximum, row, m0)
        poke(maximum, row + 1, m1)
        row += 2
    while row < rows:
        poke(total, row, total_over_lanes(x, at + row * lanes, gate, 0, lanes))
        if with_maximum:
            largest, _ = exact_maximum(x, at + row * lanes, 1, gate, 0, lanes)
            poke(maximum, row, largest)
        row += 1


@plain
def _pool_across(x, at, rows, lanes, gate, total, maximum, part, with_maximum):
    fill_total(total, 0, lanes, ZERO)
    fill_maximum(maximum, 0, lanes, LOWEST)
    row = 0
    while row < rows:
        rows_now, place = min(MOST_ROWS, rows - row), at + row * lanes
        fill_total(part, 0, lanes, ZERO)
        if with_maximum:
            total_and_maximum_over_rows(x, place, lanes, rows_now, gate, row, part, maximum, 0, lanes)
        else:
            add_rows(x, place, lanes, rows_now, gate, row, part, 0, lanes)
        add_part(part, total, 0, lanes)
        row += MOST_ROWS
    if not with_maximum:
        return
    for index in range(lanes):
        if not is_finite(peek(total, index)):
            largest, _ = exact_maximum(x, at + index, lanes, gate, 0, rows)
            poke(maximum, index, largest)


@plain
def _sigmoid(logit):
    return ONE / (ONE + np.float32(math.exp(-logit)))


@plain
def _bottleneck(total, maximum, hidden, gate, channels, positions, a):
    with_mean, with_maximum, factor = argument(a, 12), argument(a, 13), np.float32(argument(a, 14))
    first, first_bias, second, second_bias = (
        fp32(argument(a, 15)),
        fp32(argument(a, 16)),
        fp32(argument(a, 17)),
        fp32(argument(a, 18)),
    )
    width = argument(a, 19)
    scale = ONE / np.float32(positions)
    for unit in range(width):
        found = ZERO
        if with_mean:
            found += _rectified(_dot(first, unit * channels, total, channels) * scale + load(first_bias, unit))
        if with_maximum:
            found += _rectified(_dot(first, unit * channels, maximum, channels) + load(first_bias, unit))
        poke(hidden, unit, found)
    times = np.float32(with_mean + with_maximum)  # the second bias comes once for each descriptor
    for channel in range(channels):
        logit = _dot(second, channel * width, hidden, width) + times * load(second_bias, channel)
        poke(gate, channel, factor * _sigmoid(logit))


@plain
def _rectified(value):
    return ZERO if value < ZERO else value  # NaN stays


@reducing
def _dot(weights, at, values, n):
    found = ZERO
    for index in range(n):
        found += load(weights, at + index) * peek(values, index)
    return found


@plain
def _convolve_channels(total, gate, channels, positions, a):
    factor, taps, n = np.float32(argument(a, 14)), fp32(argument(a, 15)), argument(a, 19)
    for channel in range(channels):
        logit = ZERO
        for tap in range(n):
            source = channel + tap - n // 2
            if 0 <= source < channels:
                logit += load(taps, tap) * peek(total, source)
        poke(gate, channel, factor * _sigmoid(logit / np.float32(positions)))


@plain
def _weigh_positions(total, maximum, rest, space, channels, height, width, a):
    weight, affine = fp32(argument(a, 20)), fp32(argument(a, 22))
    kernel, factor = argument(a, 21), np.float32(argument(a, 23))
    edge = kernel // 2
    padded_width = width + 2 * edge
    plane = padded_size(height, width, kernel)
    n = height * padded_width
    for index in range(2 * plane):
        poke(rest, index, ZERO)
    for row in range(height):
        for column in range(width):
            here = (row + edge) * padded_width + edge + column
            poke(rest, here, peek(maximum, row * width + column))
            poke(rest, plane + here, peek(total, row * width + column) / np.float32(channels))
    work = 2 * plane
    fill_total(rest, work, n, ZERO)
    for source in range(2):
        for row in range(kernel):
            taps = (source * kernel + row) * kernel
            add_row_of_taps(rest, source * plane + row * padded_width, weight, taps, kernel, rest, work, n)
    scale, shift = load(affine, 0), load(affine, 1)
    for row in range(height):
        for column in range(width):
            logit = peek(rest, work + row * padded_width + column) * scale + shift
            poke(space, row * width + column, factor * _sigmoid(logit))
