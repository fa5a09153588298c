"""Coordinate attention as one Numba loop over images, for inference; see numba_inference.

Strips are the rows and the columns of an image, N = H + W of them. They lie as the map does: (C, N) where it is
contiguous, (N, C) in channels_last, and so does what is made of them.
"""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from .numba_gradients import scale_row
from .numba_inference import dot
from .numba_intrinsics import fp32, integers, lines, load, maps, next_number, output, peek, poke, power_of_two
from .numba_pooling import FLOAT, ONE, ZERO, plain, reducing
from .numba_wide_rows import add_position, scale_position

reload_column, store_column = output("maximum")

THREE, SIX = np.float32(3), np.float32(6)
LOG2_E, LN_2_HIGH, LN_2_LOW = np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
SMALLEST, LARGEST = np.float32(-87), np.float32(89)  # exponents of numbers near the smallest, and of infinity
TO_WHOLE = np.float32(1.5 * 2**23)  # what is added to it loses all but its whole part
FACTORIALS = tuple(np.float32(1 / factorial) for factorial in (5040, 720, 120, 24, 6, 2, 1, 1))


def gate_strips(a):
    (x,), (y,) = maps(a, 1, 1), maps(a, 4, 1)
    scratch, size, batch, channels, height, width, by_channel = integers(a, 5, 7)
    strips = height + width
    while True:
        image = next_number(a, 0)
        if image >= batch:
            break
        at, gates_at = image * channels * height * width, scratch + FLOAT * image * size
        pooled_at = gates_at + FLOAT * channels * strips
        gates, pooled = fp32(gates_at), fp32(pooled_at)
        hidden_at = pooled_at + FLOAT * channels * strips
        for index in range(channels * strips):
            poke(pooled, index, ZERO)
        if by_channel:
            _pool_planes(x, at, pooled, channels, height, width)
            _gates_of_planes(pooled, fp32(hidden_at), gates, channels, height, width, a)
            for channel in range(channels):
                for row in range(height):
                    here, place = at + (channel * height + row) * width, channel * strips
                    scale_row(x, y, here, load(gates, place + row), gates, place + height, width)
        else:
            _pool_positions(x, at, pooled, channels, height, width)
            _gates_of_positions(pooled_at, hidden_at, gates, channels, height, width, a)
            for row in range(height):
                for column in range(width):
                    here, place = at + (row * width + column) * channels, (height + column) * channels
                    scale_position(x, y, here, gates, row * channels, gates, place, channels)


@plain
def _pool_planes(x, at, pooled, channels, height, width):
    for channel in range(channels):
        to = channel * (height + width)
        for row in range(height):
            here = at + (channel * height + row) * width
            poke(pooled, to + row, _pool_line(x, here, pooled, to + height, width) / np.float32(width))
        for column in range(to + height, to + height + width):
            poke(pooled, column, peek(pooled, column) / np.float32(height))


@reducing
def _pool_line(x, at, columns, to, n):
    total = ZERO
    for index in range(n):
        found = load(x, at + index)
        total += found
        store_column(columns, to + index, reload_column(columns, to + index) + found)
    return total


@plain
def _pool_positions(x, at, pooled, channels, height, width):
    for row in range(height):
        for column in range(width):
            here = at + (row * width + column) * channels
            add_position(x, here, pooled, row * channels, pooled, (height + column) * channels, channels)
    for index in range(height * channels):
        poke(pooled, index, peek(pooled, index) / np.float32(width))
    for index in range(height * channels, (height + width) * channels):
        poke(pooled, index, peek(pooled, index) / np.float32(height))


@plain
def _gates_of_planes(pooled, hidden, gates, channels, height, width, a):
    (reduce, reduce_bias, scale, shift), (units, factor) = lines(a, 12, 4), integers(a, 20, 2)
    (rows, rows_bias, columns, columns_bias), strips = lines(a, 16, 4), height + width
    for unit in range(units):
        _set(hidden, unit * strips, load(reduce_bias, unit), strips)
        for channel in range(channels):
            weight = load(reduce, unit * channels + channel)
            _add_times(hidden, unit * strips, weight, pooled, channel * strips, strips)
        for index in range(unit * strips, (unit + 1) * strips):
            poke(hidden, index, _hard_swish(peek(hidden, index) * load(scale, unit) + load(shift, unit)))
    for channel in range(channels):
        to = channel * strips
        _set(gates, to, load(rows_bias, channel), height)
        _set(gates, to + height, load(columns_bias, channel), width)
        for unit in range(units):
            weight, other = load(rows, channel * units + unit), load(columns, channel * units + unit)
            _add_times(gates, to, weight, hidden, unit * strips, height)
            _add_times(gates, to + height, other, hidden, unit * strips + height, width)
    _to_sigmoids(gates, channels * strips, np.float32(factor))


@plain
def _gates_of_positions(pooled_at, hidden_at, gates, channels, height, width, a):
    (reduce, reduce_bias, scale, shift), (units, factor) = lines(a, 12, 4), integers(a, 20, 2)
    rows, rows_bias, columns, columns_bias = lines(a, 16, 4)
    hidden = fp32(hidden_at)
    for strip in range(height + width):
        weights, biases = (rows, rows_bias) if strip < height else (columns, columns_bias)
        pooled = fp32(pooled_at + FLOAT * strip * channels)
        for unit in range(units):
            found = dot(reduce, unit * channels, pooled, channels) + load(reduce_bias, unit)
            poke(hidden, unit, _hard_swish(found * load(scale, unit) + load(shift, unit)))
        _copy(gates, strip * channels, biases, channels)
        for unit in range(units):
            _add_weights(gates, strip * channels, peek(hidden, unit), weights, unit * channels, channels)
    _to_sigmoids(gates, channels * (height + width), np.float32(factor))


@plain
def _set(out, to, value, n):
    for index in range(n):
        poke(out, to + index, value)


@plain
def _copy(out, to, values, n):
    for index in range(n):
        poke(out, to + index, load(values, index))


@plain
def _add_times(out, to, weight, values, at, n):
    for index in range(n):
        poke(out, to + index, peek(out, to + index) + weight * peek(values, at + index))


@plain
def _add_weights(out, to, value, weights, at, n):
    for index in range(n):
        poke(out, to + index, peek(out, to + index) + value * load(weights, at + index))


@plain
def _hard_swish(value):
    wide = value + THREE
    wide = ZERO if wide < ZERO else wide  # NaN stays
    return value * (SIX if wide > SIX else wide) / SIX


@plain
def _to_sigmoids(values, n, factor):
    for index in range(n):
        poke(values, index, factor * (ONE / (ONE + _exp(-peek(values, index)))))


@plain
def _exp(value):
    """e to the power of a number, in operations that make vectors; exactly 1 of 0."""
    inside = SMALLEST if value < SMALLEST else value
    inside = LARGEST if inside > LARGEST else inside
    twos = (inside * LOG2_E + TO_WHOLE) - TO_WHOLE
    rest = (inside - twos * LN_2_HIGH) - twos * LN_2_LOW
    found = FACTORIALS[0]
    for one in FACTORIALS[1:]:
        found = found * rest + one
    return found * power_of_two(twos)
