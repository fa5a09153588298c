"""Scaling and gradients where rows are wide, as Numba loops: a row has a number for every lane of a period.

Rows are lines of a channels_last map, a period is a position with its channels; see numba_pooling for how loops are
started. Two positions go at once, so that sums over them move half the bytes.
"""

# mypy: ignore-errors

from __future__ import annotations

from .numba_gradients import input_map, next_split, value
from .numba_intrinsics import integers, lines, load, maps, next_number, output, poke
from .numba_pooling import ZERO, plain, reducing
from .numba_pooling import fill_maximum as fill_lanes
from .numba_pooling import fill_total as fill_row
from .numba_pooling import reload_total as reload_row
from .numba_pooling import store_total as store_row

# Two names promise that the two positions do not overlap: even positions always go by one, odd ones by the other.
reload_lane, store_lane = output("maximum")
reload_next, store_next = output("ties")


def scale_wide(a):
    (x, y), (row_gate, lane_gate) = (maps(a, 1, 1)[0], maps(a, 4, 1)[0]), lines(a, 5, 2)
    batch, rows, lanes, inner = integers(a, 7, 4)
    row = next_number(a, 0)
    while row < batch * rows:
        at, gates = row * lanes, row // rows * lanes
        for lane in range(0, lanes, inner):
            scale_position(x, y, at + lane, row_gate, row * inner, lane_gate, gates + lane, inner)
        row = next_number(a, 0)


@reducing
def scale_position(x, y, at, row_gate, row, lane_gate, lane, n):
    for index in range(n):
        gate = load(row_gate, row + index) * load(lane_gate, lane + index)
        store_row(y, at + index, load(x, at + index) * gate)


def strip_sums(a):
    (x,), (by_row, by_lane) = maps(a, 1, 1), lines(a, 4, 2)
    batch, rows, lanes, inner = integers(a, 6, 4)
    image = next_number(a, 0)
    while image < batch:
        fill_row(by_row, image * rows * inner, rows * inner, ZERO)
        fill_lanes(by_lane, image * lanes, lanes, ZERO)
        for row in range(image * rows, (image + 1) * rows):
            for lane in range(0, lanes, inner):
                add_position(x, row * lanes + lane, by_row, row * inner, by_lane, image * lanes + lane, inner)
        image = next_number(a, 0)


@reducing
def add_position(x, at, by_row, row, by_lane, lane, n):
    """Add a position, with all its numbers, to the sums of its row and of its lanes."""
    for index in range(n):
        found = load(x, at + index)
        store_row(by_row, row + index, reload_row(by_row, row + index) + found)
        store_lane(by_lane, lane + index, reload_lane(by_lane, lane + index) + found)


def gate_sums_wide(a):
    x, (grad,) = input_map(a), maps(a, 4, 1)
    row_gate, lane_gate, by_row, by_lane = lines(a, 5, 4)
    batch, rows, lanes, splits, inner = integers(a, 9, 5)
    part, image, row, last = next_split(a, batch, rows, splits)
    while image < batch:
        for lane in range(lanes):
            poke(by_lane, part * lanes + lane, ZERO)  # by no name, since what follows has two
        while row < last:
            _sum_row(x, grad, row, image, row_gate, lane_gate, by_row, by_lane, part * lanes, lanes, inner)
            row += 1
        part, image, row, last = next_split(a, batch, rows, splits)


@plain
def _sum_row(x, grad, row, image, row_gate, lane_gate, by_row, by_lane, to, lanes, inner):
    at, gates, of_row, lane = row * lanes, image * lanes, row * inner, 0
    fill_row(by_row, of_row, inner, ZERO)
    while lane + 2 * inner <= lanes:
        here, there = gates + lane, to + lane
        _sum_two_positions(x, grad, at + lane, row, row_gate, of_row, lane_gate, here, by_row, by_lane, there, inner)
        lane += 2 * inner
    if lane < lanes:
        here, there = gates + lane, to + lane
        _sum_position(x, grad, at + lane, row, row_gate, of_row, lane_gate, here, by_row, by_lane, there, inner)


@reducing
def _sum_two_positions(x, grad, at, row, row_gate, of_row, lane_gate, lane, by_row, by_lane, to, n):
    for index in range(n):
        one, other = at + index, at + n + index
        p0 = value(x, row, lane + index, one) * load(grad, one)
        p1 = value(x, row, lane + n + index, other) * load(grad, other)
        gate, place = load(row_gate, of_row + index), of_row + index
        store_lane(by_lane, to + index, reload_lane(by_lane, to + index) + p0 * gate)
        store_next(by_lane, to + n + index, reload_next(by_lane, to + n + index) + p1 * gate)
        sums = p0 * load(lane_gate, lane + index) + p1 * load(lane_gate, lane + n + index)
        store_row(by_row, place, reload_row(by_row, place) + sums)


@reducing
def _sum_position(x, grad, at, row, row_gate, of_row, lane_gate, lane, by_row, by_lane, to, n):
    for index in range(n):
        p, place = value(x, row, lane + index, at + index) * load(grad, at + index), of_row + index
        store_lane(by_lane, to + index, reload_lane(by_lane, to + index) + p * load(row_gate, place))
        store_row(by_row, place, reload_row(by_row, place) + p * load(lane_gate, lane + index))


def input_gradient_wide(a):
    (grad,), (out,) = maps(a, 1, 1), maps(a, 4, 1)
    row_gate, lane_gate, row_weight, lane_weight = lines(a, 5, 4)
    batch, rows, lanes, inner = integers(a, 9, 4)
    row = next_number(a, 0)
    while row < batch * rows:
        at, here = row * lanes, row // rows * lanes
        for lane in range(0, lanes, inner):
            numbers = row_gate, row_weight, row * inner, lane_gate, lane_weight, here + lane
            _gradient_of_position(grad, out, at + lane, *numbers, inner)
        row = next_number(a, 0)


@reducing
def _gradient_of_position(grad, out, at, row_gate, row_weight, row, lane_gate, lane_weight, lane, n):
    for index in range(n):
        gate = load(row_gate, row + index) * load(lane_gate, lane + index)
        weight = load(row_weight, row + index) + load(lane_weight, lane + index)
        store_row(out, at + index, load(grad, at + index) * gate + weight)
