from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from attngraft.continual.stream.arrivals import find_loss


def results(*rows: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(class, images, right) -> right, labels."""
    right = np.concatenate([np.arange(images) < correct for _, images, correct in rows])
    return right, np.concatenate([np.full(images, label) for label, images, _ in rows])


def test_expected_accuracy_and_p_value_by_hand():
    known = results((0, 98, 89), (1, 48, 24))  # (89 + 1) / 100 = 0.9 and (24 + 1) / 50 = 0.5
    found = find_loss(*results((0, 30, 24), (1, 10, 4)), *known)
    assert found.expected == pytest.approx(0.75 * 0.9 + 0.25 * 0.5)
    assert found.observed == pytest.approx(28 / 40)
    variance = 0.09 * (0.75 / 40 + 0.75**2 / 98) + 0.25 * (0.25 / 40 + 0.25**2 / 48)
    assert found.p_value == pytest.approx(norm.cdf((0.7 - 0.8) / np.sqrt(variance)))


def test_hard_classes_alone_are_no_loss_and_easy_ones_hide_none():
    known = results((0, 500, 480), (1, 500, 250))
    assert not find_loss(*results((1, 300, 150)), *known).is_lost
    assert find_loss(*results((0, 300, 240)), *known).is_lost  # 80 % is more than both together, and a loss


def test_a_class_that_is_not_known_is_taken_as_all_together_and_hardly_counts():
    known = results((0, 100, 80), (1, 100, 60))
    found = find_loss(*results((2, 100, 30)), *known)
    assert found.expected == pytest.approx(0.7)
    assert not found.is_lost


@pytest.mark.parametrize("proportions", [(0.5, 0.5), (0.95, 0.05)])
def test_false_losses_are_as_rare_as_promised(proportions: tuple[float, float]):
    rng, accuracy, lost = np.random.default_rng(0), np.array([0.9, 0.6]), 0
    for _ in range(1000):
        known, labels = rng.integers(0, 2, 400), rng.choice(2, 300, p=proportions)
        lost += find_loss(rng.random(300) < accuracy[labels], labels, rng.random(400) < accuracy[known], known).is_lost
    assert 20 <= lost <= 75  # of 1000 at 5 %
