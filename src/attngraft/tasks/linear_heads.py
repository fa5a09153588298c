"""Linear heads solved on features: logistic regression and ridge regression, with the strength of L2 chosen by the data.

Features are rotated onto their principal axes, which changes neither the model nor the penalty, leaves as many axes as
images can span, and makes the curvature nearly diagonal: few iterations suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..data.loader import one_thread

Folds = NDArray[np.int64]
Loss = Callable[[Tensor, Tensor], Tensor]  # outputs (n, K) and targets -> losses (n,) or (n, K)

STRENGTHS = tuple(10.0**exponent for exponent in np.arange(1, -6.25, -0.5))  # strong to weak, for features of unit size
MOST_ITERATIONS = 100
MOST_CHOSEN_ON = 10_000  # images on which the strength is chosen; more hardly change it
NEGLIGIBLE = 1e-10  # of the largest variance of an axis
WORTH_THREADS = 1e9  # multiplications of one evaluation of the loss
MOST_WORK = 4e9  # multiplications of one evaluation of the loss on all folds; fewer folds are used beyond


@dataclass(frozen=True)
class LinearHead:
    """A solved linear layer.

    Attributes:
        weight: (K, D).
        bias: (K,).
        strengths: (K,) of the L2 penalty, relative to the mean loss on features of unit size.
    """

    weight: Tensor
    bias: Tensor
    strengths: tuple[float, ...]


@dataclass(frozen=True)
class _Axes:
    """Features centred, scaled to a mean square norm of D, and rotated onto their principal axes.

    Attributes:
        scores: (N, R).
        variances: (R,) of the scores.
        back: (D, R), from weights on the axes to weights on the features.
        mean: (D,) of the features.
    """

    scores: Tensor
    variances: Tensor
    back: Tensor
    mean: Tensor

    @classmethod
    def of(cls, features: Tensor) -> _Axes:
        mean = features.mean(0)
        centred = features - mean
        size = centred.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        centred /= size
        count, width = centred.shape
        gram = centred @ centred.T if count < width else centred.T @ centred
        variances, vectors = torch.linalg.eigh(gram.double() / count)
        kept = variances > NEGLIGIBLE * variances[-1].clamp_min(1e-30)
        variances, vectors = variances[kept].flip(0), vectors[:, kept].flip(1)
        if count < width:
            vectors = centred.T.double() @ vectors / (count * variances).sqrt()
        rotation = vectors.float()
        return cls(centred @ rotation, variances.float(), rotation / size, mean)

    def head(self, weight: Tensor, bias: Tensor, strengths: Tensor) -> LinearHead:
        """The layer on the features themselves, from weights (R, K) on the axes."""
        found = (self.back.double() @ weight.double()).T
        shift = bias.double() - found @ self.mean.double()
        return LinearHead(found.float(), shift.float(), tuple(map(float, strengths)))


def logistic_head(features: Tensor, targets: Tensor, *, outputs: int, left_out: Folds, weights: Tensor) -> LinearHead:
    """Logistic regression: multinomial for classes, one for each label where there are any number of them.

    Args:
        features: (N, D) float32.
        targets: (N,) int64 classes, or (N, K) of 0 and 1.
        outputs: K.
        left_out: (N,) number of the part that an image is left out with.
        weights: of the losses: (1,) for all alike, (N,) of images, or (N, K) of images and labels.

    Returns:
        the layer with the lowest mean log loss on the images left out, by the strength of L2, for each label its own.
    """
    loss = _multinomial if targets.ndim == 1 else _binary
    part = torch.arange(len(features))
    if len(features) > MOST_CHOSEN_ON:
        part = torch.linspace(0, len(features) - 1, MOST_CHOSEN_ON).long()
    # SciPy's threads and PyTorch's wait for each other's cores at every step
    with one_thread() if features.numel() * outputs < WORTH_THREADS else nullcontext():
        chosen = _choose(features[part], targets[part], outputs, left_out[part.numpy()], _rows(weights, part), loss)
        chosen = chosen * (len(part) / len(features))  # the same prior, against more images
        axes = _Axes.of(features)
        weight, bias = _solve(axes, targets, outputs, weights, loss, chosen)
    return axes.head(weight, bias, chosen)


def ridge_head(features: Tensor, targets: Tensor) -> LinearHead:
    """Ridge regression of (N, K) targets on (N, D) features.

    The strength of L2 is chosen for each target by the mean squared error on images left out one by one, in closed form
    (PRESS; Allen, Technometrics 16, 1974).
    """
    axes = _Axes.of(features)
    wanted, scores, variances = targets.double(), axes.scores.double(), axes.variances.double()
    count, bias = len(features), wanted.mean(0)
    products = scores.T @ (wanted - bias) / count
    along = scores.square() / (count * variances)  # leverage of each image along each axis, without a penalty
    # what no axis explains; differences of nearly equal numbers would be noise where the axes explain everything
    beyond = (1 - 1 / count - along.sum(1)).clamp_min(0)
    unexplained = wanted - bias - scores @ (products / variances[:, None])
    if len(variances) >= count - 1:
        beyond, unexplained = torch.zeros_like(beyond), torch.zeros_like(unexplained)
    errors, solutions = [], []
    for strength in STRENGTHS:
        shrunk = strength / (variances + strength)
        residual = unexplained + scores @ (shrunk[:, None] * products / variances[:, None])
        errors.append((residual / (beyond + along @ shrunk).clamp_min(1e-12)[:, None]).square().mean(0))
        solutions.append(products / (variances + strength)[:, None])
    best = torch.stack(errors).argmin(0)
    weight = torch.stack(solutions)[best, :, torch.arange(wanted.shape[1])].T
    return axes.head(weight, bias, torch.tensor(STRENGTHS)[best])


def _choose(features: Tensor, targets: Tensor, outputs: int, left_out: Folds, weights: Tensor, loss: Loss) -> Tensor:
    """(K,) strengths with the lowest mean loss on images left out."""
    total: list[Tensor] = []
    left = torch.from_numpy(left_out)
    parts = [(torch.nonzero(left != fold)[:, 0], torch.nonzero(left == fold)[:, 0]) for fold in np.unique(left_out)]
    if len(parts) < 2:
        return torch.ones(outputs)
    parts = parts[: max(1, int(MOST_WORK / (features.numel() * outputs)))]
    axes = [_Axes.of(features[kept]) for kept, _ in parts]
    unseen = [(features[out] - one.mean) @ one.back for one, (_, out) in zip(axes, parts, strict=True)]
    starts: list[tuple[Tensor, Tensor] | None] = [None] * len(parts)
    for strength in STRENGTHS:
        lost = torch.zeros(outputs, dtype=torch.float64)
        for number, (kept, out) in enumerate(parts):
            strengths = torch.full((outputs,), strength)
            found = _solve(axes[number], targets[kept], outputs, _rows(weights, kept), loss, strengths, starts[number])
            starts[number] = found
            losses = loss(unseen[number] @ found[0] + found[1], targets[out]).double() * _rows(weights, out)
            lost += losses.sum(0) / (1 if losses.ndim == 2 else outputs)
        total.append(lost)
        if len(total) > 1 and bool((total[-1] >= total[-2]).all()):  # weaker ones fit the images left out worse still
            break
    return torch.tensor(STRENGTHS, dtype=torch.float32)[torch.stack(total).argmin(0)]


def _solve(
    axes: _Axes,
    targets: Tensor,
    outputs: int,
    weights: Tensor,
    loss: Loss,
    strengths: Tensor,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Weights (R, K) on the axes and biases (K,) with the lowest mean loss plus half the penalty, by L-BFGS."""
    from scipy.optimize import minimize  # half a second, which only those pay who solve a head

    count, rank = axes.scores.shape
    # what the curvature is about, from the middle of the logistic curve; the variables are scaled to make it 1
    steepness = 1 / (4 if targets.ndim == 2 else max(outputs, 2))
    scale = (steepness * axes.variances[:, None] + strengths[None]).rsqrt()
    bias_scale = math.sqrt(1 / steepness)

    def parts_of(values: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        found = torch.from_numpy(values.astype(np.float32)).view(rank + 1, outputs)
        return found[:rank] * scale, found[rank] * bias_scale

    def objective(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight, bias = parts_of(values)
        slope, slope_of_bias, value = strengths * weight, torch.zeros(outputs), 0.0
        for rows in torch.arange(count).split(max(1, 4_000_000 // outputs)):
            scores = axes.scores[rows[0] : rows[-1] + 1]
            out = (scores @ weight + bias).requires_grad_()
            with torch.enable_grad():
                mean = (loss(out, targets[rows]) * _rows(weights, rows)).sum(dtype=torch.float64) / count
            (gradient,) = torch.autograd.grad(mean, out)
            value += float(mean)
            slope += scores.T @ gradient
            slope_of_bias += gradient.sum(0)
        value += 0.5 * float((strengths * weight.square()).sum(dtype=torch.float64))
        gradient = torch.cat([slope * scale, (slope_of_bias * bias_scale)[None]])
        return value, gradient.flatten().double().numpy()

    begin = np.zeros((rank + 1, outputs))
    if start is not None:
        begin[:rank], begin[rank] = (start[0] / scale).numpy(), (start[1] / bias_scale).numpy()
    options = {"maxiter": MOST_ITERATIONS, "ftol": 1e-7, "gtol": 1e-5}
    with torch.no_grad():
        solved = minimize(objective, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
        return parts_of(solved.x)


def _rows(weights: Tensor, rows: Tensor) -> Tensor:
    return weights if len(weights) == 1 else weights[rows]


def _multinomial(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def _binary(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
