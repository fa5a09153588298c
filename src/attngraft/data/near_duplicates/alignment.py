"""Agreement of two images after shifting and scaling one onto the other.

Inverse compositional image alignment (Baker and Matthews, IJCV 56, 2004) with four numbers, shift and scale of each
side, in batches of pairs; the images are sketches, small and square, so a crop of any shape is a shift and a scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_COARSE_STEPS, _FINE_STEPS = 4, 6
_WORTH_A_CLOSER_LOOK = 0.85  # correlation of sketches of half the size, after the coarse steps
_SCALES = (0.74, 1.35)  # a tenth cropped off each side is 0.8 or 1.25
_CENTRES = (0.36, 0.64)
_LARGEST_STEP = 0.06  # part of a side
_BATCH = 512
_SKETCH = 24

Place = tuple[Tensor, Tensor]
"""(K, 2) each: log of the scale, and shift of the centre, of x and y."""


@dataclass(frozen=True)
class Agreement:
    """Of K pairs of sketches, where they overlap, all (K,) float64.

    Attributes:
        correlation: of their values about the mean of each channel; -1 for pairs that are not worth a closer look.
        residual: root mean square of the difference that is left in the plainer one, in grey levels.
        contrast: standard deviation of the plainer one over that of the other.
    """

    correlation: NDArray[np.float64]
    residual: NDArray[np.float64]
    contrast: NDArray[np.float64]


def agreement(some: NDArray[np.uint8], others: NDArray[np.uint8]) -> Agreement:
    """Compare sketches pair by pair; symmetric in the two.

    Args:
        some, others: (K, S, S, 3), S even.
    """
    found = np.full((3, len(some)), -1.0)
    for start in range(0, len(some), _BATCH):
        batch = slice(start, start + _BATCH)
        one, other = (torch.from_numpy(part[batch]).permute(0, 3, 1, 2).float() for part in (some, others))
        half, other_half = (torch.nn.functional.avg_pool2d(part, 2) for part in (one, other))
        coarse = torch.maximum(*(_fit(*pair, _COARSE_STEPS)[0][0] for pair in ((half, other_half), (other_half, half))))
        chosen = (coarse > _WORTH_A_CLOSER_LOOK).nonzero().squeeze(1)
        there, back = (
            _fit(*pair, _FINE_STEPS)[0] for pair in ((one[chosen], other[chosen]), (other[chosen], one[chosen]))
        )
        best = torch.where(there[0] >= back[0], there, back).double()
        correlation, detail, contrast = best[0].clamp(-1, 1), best[1], best[2]
        values = torch.stack([correlation, detail * (1 - correlation**2).sqrt(), contrast])
        found[:, start + chosen.numpy()] = values.numpy()
    return Agreement(*found)


def laid_onto_each_other(some: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of images at their best: the one, the other resampled onto it, and where that can be seen (1) or not (0).

    Args:
        some, others: (K, C, S, S), S even; either may be the one that is moved.
    """
    sketched = [torch.nn.functional.interpolate(part, (_SKETCH, _SKETCH), mode="area") for part in (some, others)]
    ways = []
    for still, moved, small, other in ((some, others, *sketched), (others, some, *sketched[::-1])):
        best, place = _fit(still, moved, _FINE_STEPS, _fit(small, other, _FINE_STEPS)[1])
        unit = (torch.arange(still.shape[-1]) + 0.5) / still.shape[-1]
        ways.append((best[0], still, *_seen_at(moved, place, unit)))
    there, back = ways
    is_there = (there[0] >= back[0])[:, None, None, None]
    still, moved, seen = (torch.where(is_there, one, other) for one, other in zip(there[1:], back[1:], strict=True))
    return still, moved, seen


def _seen_at(moved: Tensor, place: Place, unit: Tensor) -> tuple[Tensor, Tensor]:
    """(K, C, S, S) resampled at a place, and (K, 1, S, S) where it exists."""
    (across, seen_x), (down, seen_y) = (_resampling(place[0][:, k].exp(), place[1][:, k], unit) for k in (0, 1))
    seen = (seen_y[:, :, None] * seen_x[:, None, :])[:, None]
    return (down[:, None] @ moved) @ across[:, None].transpose(2, 3), seen


def _fit(still: Tensor, moved: Tensor, steps: int, start: Place | None = None) -> tuple[Tensor, Place]:
    """Way of `moved` onto `still`, (K, C, S, S) each.

    Returns:
        (3, K): highest correlation, detail and contrast there; and that place.
    """
    count, channels, side, _ = still.shape
    unit = (torch.arange(side) + 0.5) / side
    push = _steepest_steps(still, unit)
    place = start or (torch.zeros(count, 2), torch.zeros(count, 2))
    best, best_place = torch.full((3, count), -1.0), place
    for step in range(steps + 1):
        resampled, seen = _seen_at(moved, place, unit)
        here = _centred(resampled, seen)
        there = _centred(still, seen)
        here_norm, there_norm = (part.flatten(1).norm(dim=1).clamp_min(1e-3) for part in (here, there))
        correlation = (here * there).flatten(1).sum(1) / (here_norm * there_norm)
        plainer, richer = torch.minimum(here_norm, there_norm), torch.maximum(here_norm, there_norm)
        detail = plainer / (seen.flatten(1).sum(1) * channels).sqrt()
        is_better = correlation > best[0]
        best = torch.where(is_better, torch.stack([correlation, detail, plainer / richer]), best)
        best_place = _where(is_better[:, None], place, best_place)
        if step < steps:
            wrong = here.flatten(1) / here_norm[:, None] - there.flatten(1) / there_norm[:, None]
            place = _composed(place, (push @ wrong[:, :, None]).squeeze(2))
    return best, best_place


def _where(condition: Tensor, one: Place, other: Place) -> Place:
    return torch.where(condition, one[0], other[0]), torch.where(condition, one[1], other[1])


def _steepest_steps(still: Tensor, unit: Tensor) -> Tensor:
    """(K, 4, C*S*S): turns a difference into the shift and scale of x, then of y, that explain it best."""
    flat = still - still.mean((2, 3), keepdim=True)
    flat = flat / flat.flatten(1).norm(dim=1).clamp_min(1e-3).view(-1, 1, 1, 1)
    across, down = (torch.gradient(flat, dim=dim)[0] * len(unit) for dim in (3, 2))
    slopes = torch.stack([across, across * (unit - 0.5), down, down * (unit - 0.5)[:, None]], 1)
    slopes = (slopes - slopes.mean((3, 4), keepdim=True)).flatten(2)
    curvature = slopes @ slopes.transpose(1, 2)
    damping = 1e-3 * curvature.diagonal(dim1=1, dim2=2).mean(1) + 1e-6
    return torch.linalg.solve(curvature + damping[:, None, None] * torch.eye(4), slopes)


def _resampling(scale: Tensor, shift: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """(K, S, S) matrices that sample a side at other places, bilinear; and (K, S) where these places exist."""
    side = len(unit)
    places = (0.5 + shift[:, None] + scale[:, None] * (unit - 0.5)) * side - 0.5
    distance = (places.clamp(0, side - 1)[:, :, None] - torch.arange(side)).abs()
    return (1 - distance).clamp_min(0), ((places > -0.75) & (places < side - 0.25)).float()


def _centred(images: Tensor, seen: Tensor) -> Tensor:
    """Without the mean of each channel over what is seen, and 0 elsewhere."""
    mean = (images * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True)
    return (images - mean) * seen


def _composed(place: Place, step: Tensor) -> Place:
    """The place with the step taken back from it."""
    step = step.clamp(-_LARGEST_STEP, _LARGEST_STEP)
    shift, stretch = step[:, 0::2], step[:, 1::2]
    scale = place[0].exp() / (1 + stretch)
    low, high = (bound - 0.5 for bound in _CENTRES)
    return scale.clamp(*_SCALES).log(), (place[1] - scale * shift).clamp(low, high)
