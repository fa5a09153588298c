"""Cross-validation of real, if simple, learners: how often folds claim a difference that is not there."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from attngraft.data.splits import deal
from attngraft.errors import ConfigError
from attngraft.statistics.resampling import cross_validated_effect

Floats = NDArray[np.float64]
FEATURES = 6  # that each of the two learners sees


def right(train: Floats, labels: NDArray[np.int64], test: Floats) -> NDArray[np.int64]:
    """The class of the nearer mean of the training images."""
    means = np.stack([train[labels == c].mean(0) for c in (0, 1)])
    return np.square(test[:, None] - means).sum(2).argmin(1)


def fold_differences(rng: np.random.Generator, images: int, folds: int, repeats: int, gain: float = 0.0) -> Floats:
    """(J,) differences in accuracy of two learners that see other features, of which the first's are better by `gain`."""
    labels = np.arange(images) % 2
    centre = np.where(labels[:, None] == 1, 0.3, -0.3)
    first, second = (centre * (1 + more) + rng.standard_normal((images, FEATURES)) for more in (gain, 0.0))
    found = []
    for repetition in range(repeats):
        fold = deal(labels, [f"{repetition} {i}" for i in range(images)], folds=folds, seed=int(rng.integers(1 << 30)))
        for number in range(folds):
            test = fold == number
            hits = [right(x[~test], labels[~test], x[test]) == labels[test] for x in (first, second)]
            found.append(hits[0].mean() - hits[1].mean())
    return np.array(found)


def claims(images: int, folds: int, repeats: int, experiments: int, gain: float = 0.0) -> tuple[float, float]:
    """Rates at which the corrected interval, and the usual t interval of the folds, exclude 0."""
    rng, corrected, usual = np.random.default_rng(images + folds + repeats), 0, 0
    for _ in range(experiments):
        differences = fold_differences(rng, images, folds, repeats, gain)
        effect = cross_validated_effect(differences, test_share=1 / folds)
        corrected += effect.p_value <= 0.05
        naive = cross_validated_effect(differences, test_share=1e-9)
        usual += naive.p_value <= 0.05
    return corrected / experiments, usual / experiments


def test_folds_without_the_correction_claim_too_much_and_with_it_do_not() -> None:
    corrected, usual = claims(60, 5, 3, 150)
    assert corrected <= 0.05 + 0.05
    assert usual > 2 * corrected


@pytest.mark.slow
@pytest.mark.parametrize(("images", "folds", "repeats"), [(60, 5, 1), (60, 5, 3), (60, 10, 3), (200, 5, 3)])
def test_folds_claim_a_difference_that_is_not_there_in_at_most_7_percent(images: int, folds: int, repeats: int) -> None:
    corrected, _ = claims(images, folds, repeats, 1000)
    assert corrected <= 0.07


@pytest.mark.parametrize(("values", "share"), [([0.1], 0.2), ([], 0.2), ([0.1, 0.2], 0.0), ([0.1, 0.2], 1.0)])
def test_too_few_folds_or_no_share_are_refused(values: list[float], share: float) -> None:
    with pytest.raises(ConfigError, match="expected at least two"):
        cross_validated_effect(values, test_share=share)


def test_the_correction_is_that_of_nadeau_and_bengio() -> None:
    effect = cross_validated_effect([0.0, 0.1, 0.2, 0.3, 0.4], test_share=0.2)
    assert effect.mean == pytest.approx(0.2)
    assert effect.standard_error == pytest.approx((0.025 * (1 / 5 + 1 / 4)) ** 0.5)
    assert (effect.degrees_of_freedom, effect.method) == (4, "folds")
