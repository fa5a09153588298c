"""Whole attentions as one Numba loop over images, for inference; see numba_pooling for how loops are started.

An image stays in the core's cache while its channels are pooled, weighed, pooled across and scaled. What is written
and read again within a task is read untagged (`peek`): tagged loads promise that nobody writes there.
"""

# mypy: ignore-errors

from __future__ import annotations

import math

import numpy as np

from .numba_convolution import add_row_of_taps, padded_size
from .numba_gradients import scale_row
from .numba_intrinsics import fp32, integers, lines, load, maps, next_number, peek, poke
from .numba_pooling import FLOAT, ONE, ZERO, fill_total, plain, pool_across, pool_along, reducing

BOTTLENECK = 1  # the kind of a channel gate, as in fused_inference


def gate_images(a):
    (x,), (y,), (ones,) = maps(a, 1, 1), maps(a, 4, 1), lines(a, 5, 1)
    scratch, size, batch, channels, height, width, by_channel, kind, _, with_maximum = integers(a, 6, 10)
    (kernel,) = integers(a, 23, 1)
    positions = height * width
    rows, lanes = (channels, positions) if by_channel else (positions, channels)
    longest = max(channels, positions)
    while True:
        image = next_number(a, 0)
        if image >= batch:
            break
        row, at = image * rows, image * channels * positions
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
                pool_along(x, row, row + rows, lanes, ones, 0, total, maximum, maximum, 0, with_maximum, 0)
            else:
                pool_across(
                    x, at, lanes, rows, ones, 0, total, rest, maximum, maximum, 0, lanes, lanes, with_maximum, 0
                )
            if kind == BOTTLENECK:
                _bottleneck(total, maximum, rest, gate, channels, positions, a)
            else:
                _convolve_channels(total, gate, channels, positions, a)
        if kernel:
            if by_channel:
                pool_across(x, at, lanes, rows, gate, 0, total, rest, maximum, maximum, 0, lanes, lanes, 1, 0)
            else:
                pool_along(x, row, row + rows, lanes, gate, 0, total, maximum, maximum, 0, 1, 0)
            _weigh_positions(total, maximum, rest, space, channels, height, width, a)
        row_gate, lane_gate = (gate, space) if by_channel else (space, gate)
        for index in range(rows):
            scale_row(x, y, at + index * lanes, load(row_gate, index), lane_gate, 0, lanes)


@plain
def _sigmoid(logit):
    return ONE / (ONE + np.float32(math.exp(-logit)))


@plain
def _bottleneck(total, maximum, hidden, gate, channels, positions, a):
    with_mean, with_maximum, factor = integers(a, 14, 3)
    first, first_bias, second, second_bias = lines(a, 17, 4)
    (width,) = integers(a, 21, 1)
    scale = ONE / np.float32(positions)
    for unit in range(width):
        found = ZERO
        if with_mean:
            found += _rectified(dot(first, unit * channels, total, channels) * scale + load(first_bias, unit))
        if with_maximum:
            found += _rectified(dot(first, unit * channels, maximum, channels) + load(first_bias, unit))
        poke(hidden, unit, found)
    times = np.float32(with_mean + with_maximum)  # the second bias comes once for each descriptor
    for channel in range(channels):
        logit = dot(second, channel * width, hidden, width) + times * load(second_bias, channel)
        poke(gate, channel, np.float32(factor) * _sigmoid(logit))


@plain
def _rectified(value):
    return ZERO if value < ZERO else value  # NaN stays


@reducing
def dot(weights, at, values, n):
    found = ZERO
    for index in range(n):
        found += load(weights, at + index) * peek(values, index)
    return found


@plain
def _convolve_channels(total, gate, channels, positions, a):
    (factor,), (taps,), (n,) = integers(a, 16, 1), lines(a, 17, 1), integers(a, 21, 1)
    for channel in range(channels):
        logit = ZERO
        for tap in range(n):
            source = channel + tap - n // 2
            if 0 <= source < channels:
                logit += load(taps, tap) * peek(total, source)
        poke(gate, channel, np.float32(factor) * _sigmoid(logit / np.float32(positions)))


@plain
def _weigh_positions(total, maximum, rest, space, channels, height, width, a):
    (weight,), (kernel,), (affine,), (factor,) = (
        lines(a, 22, 1),
        integers(a, 23, 1),
        lines(a, 24, 1),
        integers(a, 25, 1),
    )
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
            poke(space, row * width + column, np.float32(factor) * _sigmoid(logit))
