"""Generative models of comparisons, to try statistics on: seeds x images of differences of correctness."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from attngraft.statistics.effects import error_of_mean, mean_squares

Floats = NDArray[np.float64]
IMAGE_SD, PAIR_SD, RUN_SD = 1.2, 0.4, 0.7  # of the latent score: shared by both variants, per variant, per answer
LITTLE, SOME, MUCH = 0.03, 0.1, 0.3  # noise between seeds


def probit(rng, experiments, seeds, images, noise, shift=0.0) -> tuple[Floats, float]:
    """(E, S, N) differences of correctness from a latent probit model, and the true effect."""

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    shared = 1.0 + np.float32(IMAGE_SD) * normal(experiments, 1, images)

    def correct(mean):
        score = shared + np.float32(mean) + np.float32(noise) * normal(experiments, seeds, 1)
        score = score + np.float32(PAIR_SD) * normal(experiments, 1, images)
        return score + np.float32(RUN_SD) * normal(experiments, seeds, images) > 0

    total = math.sqrt(IMAGE_SD**2 + PAIR_SD**2 + RUN_SD**2 + noise**2)
    truth = ndtr((1 + shift) / total) - ndtr(1 / total)
    return correct(shift).astype(np.float64) - correct(0.0).astype(np.float64), float(truth)


def rare_losses(rng, experiments, seeds, images, share) -> Floats:
    """(E, S, N): the variant is wrong on a small share of the images in every seed, and nothing else differs."""
    lost = -(rng.random((experiments, 1, images)) < share).astype(np.float64)
    return np.broadcast_to(lost, (experiments, seeds, images)).copy()


def grouped_differences(rng, experiments, seeds, groups, size, icc=0.9, noise=0.0) -> tuple[Floats, NDArray[np.int64]]:
    """(E, S, groups x size) differences without an effect, alike within groups, and the group of each image."""
    between = rng.standard_normal((experiments, 1, groups, 1)) * math.sqrt(icc)
    within = rng.standard_normal((experiments, 1, groups, size)) * math.sqrt(1 - icc)
    run = 0.5 * rng.standard_normal((experiments, seeds, groups, size))
    score = between + within + run + noise * rng.standard_normal((experiments, seeds, 1, 1))
    difference = (score > 1.0).astype(np.float64) - (score < -1.0)
    return difference.reshape(experiments, seeds, groups * size), np.repeat(np.arange(groups), size)


def crossed(matrix: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, standard error and degrees of freedom of many experiments at once."""
    seeds, images = matrix.shape[-2:]
    error, df = error_of_mean(*mean_squares(matrix), seeds, images)
    return matrix.mean((-2, -1)), error, df
