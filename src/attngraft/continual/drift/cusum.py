"""CUSUM: a sequential test for a higher error rate, from labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError

_MOST_STEPS = 400  # per error, which keeps the chain small
_MOST_LEVELS = 20_000


@dataclass(frozen=True)
class CusumState:
    """State of the test.

    Attributes:
        value: evidence for the higher error rate, in steps; a whole number.
        images: labelled images so far.
        alarm_at: number of the first image at which the value reached the threshold, counted from 1; None without one.
    """

    value: float = 0.0
    images: int = 0
    alarm_at: int | None = None

    @property
    def alarm(self) -> bool:
        """Whether the value has reached the threshold."""
        return self.alarm_at is not None


@dataclass(frozen=True)
class ErrorCusum:
    """One-sided CUSUM of log likelihood ratios for errors.

    After every labelled image the value rises by `up` steps for an error or falls by `down` steps for a correct prediction,
    but never below 0; at `threshold` it raises an alarm. The steps stand in the proportion of the two log likelihood
    ratios, rounded to whole numbers, so that the run lengths can be computed exactly.

    Attributes:
        error_rate: p0, the usual one of the model.
        raised_rate: p1, which the test is designed to detect soonest.
        up, down, threshold: steps.
        images_between_false_alarms: expected number of images until an alarm at error rate p0, from value 0.
        images_until_seen: the same at p1.

    Source: Page, Biometrika 41 (1954), 100-115; that no test with as few false alarms sees the change sooner in the
    worst case is Moustakides, Annals of Statistics 14 (1986), 1379-1387; the chain on whole steps is Reynolds and
    Stoumbos, Journal of Quality Technology 31 (1999), 87-108.
    """

    error_rate: float
    raised_rate: float
    up: int
    down: int
    threshold: int
    images_between_false_alarms: float
    images_until_seen: float

    @staticmethod
    def design(error_rate: float, rise: float = 0.05, *, false_alarms_per_1000: float = 0.1) -> ErrorCusum:
        """The smallest threshold that keeps false alarms as rare as stated.

        Args:
            error_rate: the usual one of the model. An estimate that is too low makes false alarms frequent: for
                a rate measured on few images take an upper limit, see `safe_error_rate`.
            rise: increase to be detected; 0.05 is 5 points of accuracy.
            false_alarms_per_1000: expected alarms per 1,000 labelled images at the usual error rate; 0.1 is one in 10,000.

        Raises:
            ConfigError: rates that are no rates, or too close together for so few false alarms.
        """
        if not 0 < error_rate < 1 or not 0 < rise < 1 - error_rate:
            raise ConfigError(
                f"error_rate is {error_rate} and rise {rise}: expected both above 0 and their sum below 1."
            )
        if not 0 < false_alarms_per_1000 < 1000:
            raise ConfigError(f"false_alarms_per_1000 is {false_alarms_per_1000}: expected above 0 and below 1000.")
        raised = error_rate + rise
        up, down = _steps(error_rate, raised)
        wanted = 1000 / false_alarms_per_1000
        threshold = _least_threshold(error_rate, up, down, wanted)
        return ErrorCusum(
            error_rate=error_rate,
            raised_rate=raised,
            up=up,
            down=down,
            threshold=threshold,
            images_between_false_alarms=run_length(error_rate, up, down, threshold),
            images_until_seen=run_length(raised, up, down, threshold),
        )

    def update(self, errors: NDArray[np.bool_], state: CusumState | None = None) -> CusumState:
        """The state after more labelled images; an alarm stays.

        Args:
            errors: (n,) bool, True where the prediction was wrong, in the order of the stream.
            state: before them; by default the start.
        """
        state = CusumState() if state is None else state
        value, alarm_at = state.value, state.alarm_at
        for number, wrong in enumerate(np.asarray(errors, dtype=bool).tolist(), start=state.images + 1):
            value = value + self.up if wrong else max(0.0, value - self.down)
            if alarm_at is None and value >= self.threshold:
                alarm_at = number
        return CusumState(float(value), state.images + len(errors), alarm_at)


def safe_error_rate(errors: NDArray[np.bool_], confidence: float = 0.9) -> float:
    """An upper limit of the error rate, exact for a binomial count: never 0, and 1 only if every prediction is wrong.

    Args:
        errors: (N,) bool of held-out images.
        confidence: how often such limits lie above the true rate.

    Raises:
        ConfigError: no images.

    Source: Clopper and Pearson, Biometrika 26 (1934), 404-413.
    """
    from scipy.stats import beta

    wrong, images = int(np.sum(errors)), len(errors)
    if not images:
        raise ConfigError("there are no labelled images to measure the error rate on: give some.")
    return 1.0 if wrong == images else float(beta.ppf(confidence, wrong + 1, images - wrong))


def run_length(rate: float, up: int, down: int, threshold: int) -> float:
    """Expected number of images until the value reaches the threshold, from 0, at this error rate; exact.

    The values below the threshold are the states of a Markov chain: from s it goes to s + up with chance `rate` and to
    max(0, s - down) otherwise. The expected times until it leaves solve a banded system of linear equations.
    """
    from scipy.linalg import solve_banded

    states = np.arange(threshold)
    reach_up, reach_down = min(up, threshold - 1), min(down, threshold - 1)
    bands = np.zeros((reach_up + reach_down + 1, threshold))  # bands[reach_up + row - column, column] is (row, column)
    bands[reach_up] = 1
    rising = states[states + up < threshold]
    bands[reach_up - min(up, reach_up), rising + up] -= rate
    fallen = np.maximum(0, states - down)
    bands[reach_up + states - fallen, fallen] -= 1 - rate
    return float(solve_banded((reach_down, reach_up), bands, np.ones(threshold))[0])


def _steps(usual: float, raised: float) -> tuple[int, int]:
    """Steps up for an error and down for a correct prediction, in the proportion of their log likelihood ratios."""
    error, right = math.log(raised / usual), math.log((1 - usual) / (1 - raised))
    # between the two rates: at this rate the value would neither rise nor fall
    level = right / (error + right)
    rounded = Fraction(level).limit_denominator(_MOST_STEPS)
    if not usual < rounded < raised:
        raise ConfigError(
            f"an error rate of {usual:.4g} and one of {raised:.4g} are too close to be told apart: take a larger rise."
        )
    return rounded.denominator - rounded.numerator, rounded.numerator


def _least_threshold(rate: float, up: int, down: int, images: float) -> int:
    """The smallest threshold whose run length at this rate is at least this number of images."""
    low, high = 0, up
    while run_length(rate, up, down, high) < images:
        low, high = high, 2 * high
        if high > _MOST_LEVELS:
            raise ConfigError(
                f"false alarms this rare at an error rate of {rate:.4g} need more than {_MOST_LEVELS} steps: "
                "allow more of them or take a larger rise."
            )
    while high - low > 1:
        middle = (low + high) // 2
        if run_length(rate, up, down, middle) < images:
            low = middle
        else:
            high = middle
    return high
