"""Intervals of mean IoU and AP hold the true difference as often as they say: simulations with known truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cases import few_of
from scipy.special import expit

from attngraft.statistics.effects import crossed_effect
from attngraft.tasks import Metric, Rows, Segmentation
from attngraft.tasks.average_precision import average_precision_metrics

LITTLE, MUCH = 0.05, 0.5  # noise of a training, class by class, on the logit scale
GAIN = 0.15  # of the second arm
CELLS = [(n, s, noise, k) for n in (50, 150, 500) for s in (3, 5, 10) for noise in (LITTLE, MUCH) for k in (3, 12)]
QUICK = {("mean IoU", 50, 3, MUCH, 3), ("mean IoU", 150, 5, LITTLE, 12)}
Draw = Callable[[np.random.Generator, int, int, np.ndarray], list[Rows]]


def masks(rng: np.random.Generator, images: int, classes: int, skill: np.ndarray) -> list[Rows]:
    """Rows of segmentation of the same images by trainings of skill (T, K): some classes in each image, some of it hard."""
    present = rng.random((images, classes)) < 2.5 / classes
    present[np.arange(images), rng.integers(classes, size=images)] = True
    pixels = (rng.gamma(1.0, 1.0, (images, classes)) * present * 400).astype(np.int64) + present
    hardness = rng.normal(0, 0.8, (images, 1)) + rng.normal(0, 0.5, (images, classes))
    found = []
    for of_class in skill:
        recall = expit(1.0 + of_class - hardness + rng.normal(0, 0.3, (images, classes)))
        hits = rng.binomial(pixels, recall)
        lost = pixels - hits
        to = rng.integers(classes, size=(images, classes))
        wrong = np.zeros_like(pixels)
        np.add.at(wrong, (np.arange(images)[:, None], to), lost)
        found.append({"hits": hits, "truth": pixels, "predicted": hits + wrong})
    return found


def boxes(rng: np.random.Generator, images: int, classes: int, skill: np.ndarray) -> list[Rows]:
    """Rows of detection of the same images by trainings of skill (T, K): one to six objects, two false ones in the mean."""
    most = 6
    count = rng.integers(1, most + 1, size=images)
    labels = np.where(np.arange(most) < count[:, None], rng.integers(classes, size=(images, most)), -1)
    hardness = rng.normal(0, 0.8, (images, 1)) + rng.normal(0, 0.5, (images, most))
    found = []
    for of_class in skill:
        quality = 1.2 + of_class[labels] - hardness + rng.normal(0, 0.4, (images, most))
        overlap = 0.3 + 0.68 * expit(quality)
        bits = (overlap[..., None] >= np.linspace(0.5, 0.95, 10)) @ (1 << np.arange(10))
        false = np.arange(4) < rng.binomial(4, 0.5, size=images)[:, None]
        own = np.concatenate([labels, np.where(false, rng.integers(classes, size=(images, 4)), -1)], axis=1)
        sure = np.concatenate([expit(quality), rng.beta(2, 4, size=(images, 4))], axis=1)
        hits = np.concatenate([np.where(labels >= 0, bits, 0), np.zeros((images, 4), dtype=np.int64)], axis=1)
        rows: Rows = {
            "labels": own,
            "scores": sure.astype(np.float32),
            "hits": np.repeat(hits[..., None], 4, 2).astype(np.int16),
            "ignored": np.zeros((*own.shape, 4), dtype=np.int16),
            "truth_labels": labels,
            "truth_ranges": (labels >= 0).astype(np.uint8),
        }
        found.append(rows)
    return found


KINDS: dict[str, tuple[Callable[[int], Metric], Draw]] = {
    "mean IoU": (lambda k: Segmentation(tuple(map(str, range(k)))).metrics["miou"], masks),
    "AP": (lambda k: average_precision_metrics(k)["ap"], boxes),
}


def skills(rng: np.random.Generator, seeds: int, noise: float, classes: int) -> np.ndarray:
    """(2 S, K): the trainings of both arms; half of a training's noise is the same for all classes."""
    shared = rng.normal(0, noise * np.sqrt(0.5), (2 * seeds, 1))
    return (
        shared
        + rng.normal(0, noise * np.sqrt(0.5), (2 * seeds, classes))
        + GAIN * (np.arange(2 * seeds) >= seeds)[:, None]
    )


def difference_of_all(rng: np.random.Generator, metric: Metric, draw: Draw, noise: float, classes: int) -> float:
    """The difference over many trainings and images; each draw of a training comes with its opposite."""
    gain, found = GAIN * (np.arange(8) >= 4)[:, None], []
    for _ in range(10):
        moved = skills(rng, 4, noise, classes) - gain
        for side in (1, -1):
            values = [metric.value(rows) for rows in draw(rng, 1500, classes, side * moved + gain)]
            found.append(np.mean(values[4:]) - np.mean(values[:4]))
    return float(np.mean(found))


def coverage(kind: str, images: int, seeds: int, noise: float, classes: int, experiments: int) -> float:
    """Part of comparisons whose interval holds the difference over all trainings and images."""
    metric_of, draw = KINDS[kind]
    metric = metric_of(classes)
    rng = np.random.default_rng([images, seeds, int(100 * noise), classes])
    truth = difference_of_all(rng, metric, draw, noise, classes)
    held = 0
    for _ in range(experiments):
        scores = np.stack(
            [metric.scores(rows) for rows in draw(rng, images, classes, skills(rng, seeds, noise, classes))]
        )
        effect = crossed_effect(scores[seeds:] - scores[:seeds], limit=1.0)
        held += effect.low <= truth <= effect.high
    return held / experiments


CASES = [(kind, *cell) for kind in KINDS for cell in CELLS]


@pytest.mark.parametrize(("kind", "images", "seeds", "noise", "classes"), few_of(CASES, QUICK))
def test_intervals_hold_the_truth(kind: str, images: int, seeds: int, noise: float, classes: int) -> None:
    is_quick = (kind, images, seeds, noise, classes) in QUICK
    found = coverage(kind, images, seeds, noise, classes, 150 if is_quick else 500)
    assert found >= (0.88 if is_quick else 0.92)
