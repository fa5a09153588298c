"""Test whether a window of images differs from the reference, and whether label shift alone explains it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...settings.serving import LEAST_WINDOW, REFERENCE_WINDOWS, DriftPolicy
from .drift_reference import Columns, Reference, check_predictions
from .ks_test import Grid, Stack, distances, p_values

_REFERENCES, _WINDOWS, _ALARMS = 200, 4000, 10  # simulated in a calibration; false alarms among them at least
_STEPS = 100
_LEAST = 1e-12


@dataclass(frozen=True)
class WindowTest:
    """The result of one window.

    Attributes:
        drift: whether it differs from the reference.
        p_value: the smallest of all tests, corrected for their number (Bonferroni).
        threshold: drift is a p-value below it.
        reasons: the significant tests, the largest distance first: "class 'cat' (higher)", "input sharpness (lower)",
            "confidence (lower)"; before them "other proportions of the classes (...)" where these explain all.
        images: in the window.
        only_proportions: whether the same classes in other proportions would look like this window.
    """

    drift: bool
    p_value: float
    threshold: float
    reasons: tuple[str, ...]
    images: int
    only_proportions: bool = False


@dataclass(frozen=True, eq=False)
class Detector:
    """Tests windows against one reference.

    Attributes:
        threshold: of the corrected p-value.
    """

    reference: Reference
    policy: DriftPolicy
    threshold: float

    def test(self, probabilities: NDArray[np.float32], inputs: NDArray[np.float32]) -> WindowTest:
        """Two-sample Kolmogorov-Smirnov tests of all columns against the reference.

        Args:
            probabilities: (n, K) of the same model for the images of the window.
            inputs: (n, F) from `input_statistics`.

        Raises:
            ConfigError: fewer images than 50 or more than a window, or another number of classes or statistics.
        """
        self._check(probabilities, inputs)
        images = len(probabilities)
        codes = self._grid.codes(self._columns.of(probabilities, inputs))
        window = self._grid.curves(codes)
        found = distances(window, self._usual)
        p_value = float(self._corrected(found.max(keepdims=True), images, len(self.reference))[0])
        if p_value >= self.threshold:
            return WindowTest(False, p_value, self.threshold, (), images)
        shifted = self._proportions(probabilities, window)
        fired = self._reasons(self._corrected(found, images, len(self.reference)), window)
        reasons = fired if shifted is None else (shifted, *fired)
        return WindowTest(True, p_value, self.threshold, reasons, images, shifted is not None)

    @cached_property
    def _columns(self) -> Columns:
        return Columns.choose(self.reference, self.policy.most_classes)

    @cached_property
    def _values(self) -> NDArray[np.float64]:
        return self._columns.of(self.reference.probabilities, self.reference.inputs)

    @cached_property
    def _grid(self) -> Grid:
        return Grid.of(self._values)

    @cached_property
    def _codes(self) -> NDArray[np.int64]:
        return self._grid.codes(self._values)

    @cached_property
    def _usual(self) -> NDArray[np.float32]:
        return self._grid.curves(self._codes)

    def _corrected(self, found: NDArray[np.float32], images: float, reference: float) -> NDArray[np.float64]:
        return np.minimum(1, len(self._columns.names) * p_values(found, images, reference))

    def _reasons(self, corrected: NDArray[np.float64], window: NDArray[np.float32]) -> tuple[str, ...]:
        """The significant tests by distance, because the smallest p-values are all 0."""
        gaps = window - self._usual
        at = np.abs(gaps).argmax(axis=1)
        gap = gaps[np.arange(len(gaps)), at]  # a distribution function that is higher means values that are lower
        fired = [j for j in np.argsort(-np.abs(gap), kind="stable") if corrected[j] < self.threshold]
        return tuple(f"{self._columns.names[j]} ({'lower' if gap[j] > 0 else 'higher'})" for j in fired)

    def _proportions(self, probabilities: NDArray[np.float32], window: NDArray[np.float32]) -> str | None:
        """The new class proportions, where a reference that is weighted to have them does not differ from the window."""
        usual = self.reference.probabilities.mean(axis=0, dtype=np.float64)
        found = class_proportions(probabilities, usual)
        weights = image_weights(self.reference.probabilities, usual, found)
        size = effective_size(weights)
        if size < LEAST_WINDOW:
            return None
        weighted = self._grid.curves(self._codes, weights)
        largest = distances(window, weighted).max(keepdims=True)
        if self._corrected(largest, len(probabilities), size)[0] < self.policy.false_alarms:
            return None
        most = np.argsort(-np.abs(found - usual), kind="stable")[:3]
        shown = ", ".join(f"{self._columns.class_name(k)} {usual[k]:.0%} to {found[k]:.0%}" for k in most)
        return f"other proportions of the classes ({shown})"

    def _check(self, probabilities: NDArray[np.float32], inputs: NDArray[np.float32]) -> None:
        check_predictions(probabilities, inputs)
        images, reference = len(probabilities), self.reference
        if not LEAST_WINDOW <= images <= self.policy.window:
            raise ConfigError(
                f"the window has {images} images: expected {LEAST_WINDOW} to {self.policy.window}; "
                "wait for more, or test it in parts."
            )
        for name, found, known in (
            ("classes", probabilities, reference.probabilities),
            ("input statistics", inputs, reference.inputs),
        ):
            if found.shape[1] != known.shape[1]:
                raise ConfigError(
                    f"the window has {found.shape[1]} {name} and the reference {known.shape[1]}: "
                    "make a reference with the same model."
                )


def calibrate(reference: Reference, policy: DriftPolicy | None = None, *, seed: int = 0) -> Detector:
    """A detector whose rate of false alarms holds for this reference, not only on average over references.

    All windows are compared with one reference: if it has few images, the usual p-values alarm too often for every
    second reference, permanently. So the rate is simulated given the reference:
    200 references and 4,000 windows (more for rates below 0.25 %) are drawn from the images at hand, with replacement; for each reference the
    threshold is the quantile that leaves `false_alarms` of the windows, and the threshold that is taken suffices for
    `confidence` of the references. It is never above the one of Bonferroni's correction. Thresholds are p-values, so
    they hold for smaller windows too, in which the reference matters less.

    Args:
        reference: a clean stream of the model, labelled or not, held out from training.
        policy: by default windows of 500 images with 1 % of false alarms.
        seed: of the simulation.

    Raises:
        ConfigError: the reference has fewer images than two windows.

    Source: tests of the softmax outputs one by one as in Lipton et al., arXiv:1802.03916, and Rabanser et al.,
    arXiv:1810.11953.
    """
    policy = DriftPolicy() if policy is None else policy
    if len(reference) < policy.reference:
        smaller = len(reference) // REFERENCE_WINDOWS
        instead = f", or take windows of at most {smaller} images" if smaller >= LEAST_WINDOW else ""
        raise ConfigError(
            f"the reference has {len(reference)} images: windows of {policy.window} need at least {policy.reference}; "
            f"give more held-out images{instead}."
        )
    columns = Columns.choose(reference, policy.most_classes).of(reference.probabilities, reference.inputs)
    grid = Grid.of(columns)
    codes = grid.codes(columns)
    chance = np.random.default_rng(seed)

    def drawn(images: int) -> NDArray[np.float32]:
        return grid.curves(codes[chance.integers(0, len(codes), images)])

    count = max(_WINDOWS, int(np.ceil(_ALARMS / policy.false_alarms)))
    windows = Stack([drawn(policy.window) for _ in range(count)])
    needed = np.sort([_quantile(windows.largest(drawn(len(codes))), policy) for _ in range(_REFERENCES)])
    distance = needed[min(_REFERENCES - 1, int(np.ceil(policy.confidence * _REFERENCES)) - 1)]
    simulated = len(columns.T) * float(p_values(distance, policy.window, len(reference)))
    return Detector(reference, policy, min(policy.false_alarms, simulated))


def _quantile(found: NDArray[np.float64], policy: DriftPolicy) -> float:
    """The largest distance of a window that all but `false_alarms` of the windows stay at or below."""
    return float(np.sort(found)[len(found) - 1 - int(policy.false_alarms * len(found))])


def class_proportions(probabilities: NDArray[np.float32], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maximum likelihood estimate of the class proportions, if only these have changed.

    Args:
        probabilities: (n, K), the model's predictions.
        usual: (K,) proportions that the predictions assume.

    Returns:
        (K,) float64, sums to 1.

    Source: expectation maximisation of Saerens, Latinne and Decaestecker, Neural Computation 14(1), 2002.
    """
    relative = probabilities / np.maximum(usual, _LEAST)
    found = usual / usual.sum()
    for _ in range(_STEPS):
        joint = relative * found
        found = (joint / np.maximum(joint.sum(axis=1, keepdims=True), _LEAST)).mean(axis=0)
        found /= found.sum()
    return found


def image_weights(
    probabilities: NDArray[np.float32], usual: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Importance weight of each image for the wanted class proportions: (N, K) -> (N,)."""
    return np.asarray(probabilities @ (wanted / np.maximum(usual, _LEAST)), dtype=np.float64)


def effective_size(weights: NDArray[np.float64]) -> float:
    """Effective sample size of a weighted mean (Kish, Survey Sampling, 1965)."""
    total = float(weights.sum())
    return total**2 / float((weights**2).sum()) if total > 0 else 0.0
