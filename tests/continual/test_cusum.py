"""The CUSUM of errors: values and run lengths by hand, exact run lengths against simulation."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngraft.continual.drift.cusum import CusumState, ErrorCusum, run_length, safe_error_rate
from attngraft.errors import ConfigError

BY_HAND = ErrorCusum(0.3, 0.5, up=3, down=2, threshold=5, images_between_false_alarms=0, images_until_seen=0)


def errors(text: str) -> np.ndarray:
    """ "x" is an error, "." a right answer."""
    return np.array([letter == "x" for letter in text])


@pytest.mark.parametrize(
    ("stream", "value", "alarm_at"),
    [
        ("", 0, None),
        ("....", 0, None),
        ("x", 3, None),
        ("x.", 1, None),
        ("x..", 0, None),  # never below 0
        ("xx", 6, 2),
        ("x.x", 4, None),  # 3, 1, 4
        ("x.x.x", 5, 5),  # 3, 1, 4, 2, 5: reaching the threshold is enough
        ("..xx...", 0, 4),  # an alarm stays, also where the value falls again
    ],
)
def test_the_value_by_hand(stream: str, value: float, alarm_at: int | None):
    state = BY_HAND.update(errors(stream))
    assert state == CusumState(value, len(stream), alarm_at)


@given(st.lists(st.booleans(), max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_labels_may_come_in_any_parts(stream: list[bool], cuts: list[int]):
    whole = BY_HAND.update(np.array(stream, dtype=bool))
    state, start = CusumState(), 0
    for end in [*sorted(cut for cut in cuts if cut <= len(stream)), len(stream)]:
        part = np.array(stream[start:end], dtype=bool)
        state, start = BY_HAND.update(part, state), end
    assert state == whole


def test_a_state_does_not_change():
    state = BY_HAND.update(errors("x"))
    BY_HAND.update(errors("x"), state)
    assert state.value == 3
    with pytest.raises(FrozenInstanceError):
        state.value = 0  # type: ignore[misc]


# --- run lengths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "up", "down", "threshold", "expected"),
    [
        (0.5, 1, 1, 1, 2),  # the first error
        (0.25, 7, 2, 5, 4),
        # two errors with no right answer between them: E0 = 1 + E1 p + E0 q and E1 = 1 + E0 q
        (0.5, 1, 1, 2, 6),
        (0.1, 1, 1, 2, 110),  # (1 + p) / p^2
        # states 0, 1, 2 of up 2, down 1, threshold 3: E1 = 1 + q E0, E2 = 1 + q E1, E0 = 1 + p E2 + q E0
        (0.5, 2, 1, 3, 14 / 3),  # E0 = 2 + E2, E2 = 1.5 + E0 / 4
    ],
)
def test_the_run_length_by_hand(rate: float, up: int, down: int, threshold: int, expected: float):
    assert run_length(rate, up, down, threshold) == pytest.approx(expected)


@pytest.mark.parametrize(("rate", "up", "down", "threshold"), [(0.2, 7, 3, 25), (0.4, 5, 4, 12), (0.05, 9, 1, 20)])
def test_the_run_length_is_that_of_simulated_streams(rate: float, up: int, down: int, threshold: int):
    cusum = ErrorCusum(rate, 1, up, down, threshold, 0, 0)
    chance = np.random.default_rng(0)
    expected = run_length(rate, up, down, threshold)
    found = [cusum.update(chance.random(int(20 * expected)) < rate).alarm_at for _ in range(300)]
    lengths = np.array([length for length in found if length is not None])
    assert len(lengths) == 300
    assert abs(lengths.mean() - expected) < 4 * lengths.std() / math.sqrt(300)


@pytest.mark.parametrize(
    ("rate", "rise", "per_1000"),
    [(0.05, 0.05, 0.1), (0.3, 0.05, 0.1), (0.01, 0.02, 1), (0.5, 0.1, 5), (0.001, 0.05, 0.1)],
)
def test_a_design_has_the_smallest_threshold_with_so_few_false_alarms(rate: float, rise: float, per_1000: float):
    cusum = ErrorCusum.design(rate, rise, false_alarms_per_1000=per_1000)
    assert cusum.images_between_false_alarms >= 1000 / per_1000
    assert run_length(rate, cusum.up, cusum.down, cusum.threshold - 1) < 1000 / per_1000
    assert cusum.images_until_seen < cusum.images_between_false_alarms / 3
    # the steps stand in the proportion of the two log likelihood ratios
    error, right = math.log(cusum.raised_rate / rate), math.log((1 - rate) / (1 - cusum.raised_rate))
    assert cusum.up / cusum.down == pytest.approx(error / right, rel=0.03)


def test_a_larger_rise_is_seen_sooner_and_fewer_false_alarms_cost_delay():
    delays = [ErrorCusum.design(0.1, rise).images_until_seen for rise in (0.03, 0.05, 0.1, 0.2)]
    assert delays == sorted(delays, reverse=True)
    rare = ErrorCusum.design(0.1, 0.05, false_alarms_per_1000=0.01)
    assert rare.images_until_seen > ErrorCusum.design(0.1, 0.05).images_until_seen


@pytest.mark.parametrize(
    ("rate", "rise", "per_1000", "told"),
    [
        (0, 0.05, 0.1, "error_rate is 0"),
        (0.5, 0.5, 0.1, "sum below 1"),
        (0.5, 0, 0.1, "rise 0"),
        (0.5, 0.1, 0, "false_alarms_per_1000 is 0"),
        (0.5, 0.1, 1000, "false_alarms_per_1000 is 1000"),
        (0.5, 1e-5, 0.1, "too close"),
        (0.3, 0.002, 1e-6, "more than 20000 steps"),
    ],
)
def test_impossible_designs_are_errors(rate: float, rise: float, per_1000: float, told: str):
    with pytest.raises(ConfigError, match=told):
        ErrorCusum.design(rate, rise, false_alarms_per_1000=per_1000)


# --- the error rate ----------------------------------------------------------------------------------------------


def test_the_upper_limit_of_a_rate_by_hand():
    # without an error among 22 images, a rate r is refuted where (1 - r)^22 < 0.1
    assert safe_error_rate(np.zeros(22, dtype=bool)) == pytest.approx(1 - 0.1 ** (1 / 22))
    assert safe_error_rate(np.ones(3, dtype=bool)) == 1
    with pytest.raises(ConfigError, match="no labelled images"):
        safe_error_rate(np.zeros(0, dtype=bool))


def test_the_limit_lies_above_the_true_rate_as_often_as_stated():
    drawn = np.random.default_rng(0).random((2000, 150)) < 0.1
    covered = np.mean([safe_error_rate(row) >= 0.1 for row in drawn])
    assert 0.88 < covered < 0.96
