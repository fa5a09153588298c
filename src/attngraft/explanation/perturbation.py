"""Probabilities while pixels are deleted or inserted in the order of a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from .imputation import impute
from .model_outputs import predict_probabilities

Floats = NDArray[np.float32]
BLUR = 1 / 12  # standard deviation of the blur, in sides of the image
ROAD_FRACTIONS = (0.3, 0.7)
IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class Curves:
    """How one map did.

    Attributes:
        deletion: (N, F) probability of the target class with the most important pixels blurred.
        insertion: (N, F) the same with only the most important pixels sharp.
        road: (N,) mean over fractions of (probability with the least important pixels imputed - probability with
            the most important pixels imputed) / 2.
    """

    deletion: Floats
    insertion: Floats
    road: Floats


def perturb(
    model: nn.Module,
    inputs: Tensor,
    maps: Mapping[str, Floats],
    targets: NDArray[np.int64],
    fractions: NDArray[np.float64],
    *,
    seed: int,
) -> dict[str, Curves]:
    """Delete, insert and impute pixels in the order of each map.

    Args:
        inputs: (N, C, H, W).
        maps: name -> (N, H, W), large where important; equal values are ordered by chance.
        targets: (N,), the class whose probability counts.
        fractions: (F,), of the pixels, from 0 to 1.
        seed: of that chance, and of the noise of the imputation.

    Raises:
        ConfigError: a map of another shape, or one that is not finite.
    """
    expected = (len(inputs), *inputs.shape[2:])
    for name, found in maps.items():
        if found.shape != expected or not np.isfinite(found).all():
            raise ConfigError(f"map '{name}' is {found.shape}: expected finite numbers of the shape {expected}.")
    device = next((parameter.device for parameter in model.parameters()), inputs.device)
    parts: dict[str, list[Curves]] = {name: [] for name in maps}
    for start in range(0, len(inputs), IMAGES_AT_ONCE):
        chosen = slice(start, start + IMAGES_AT_ONCE)
        images, goals = inputs[chosen].to(device, torch.float32), targets[chosen]
        blurred = blur(images)
        ends = _target_probabilities(model, torch.stack([images, blurred]), goals)  # shared by all maps
        for name, found in maps.items():
            ranks = importance_ranks(found[chosen], seed=seed + start).to(device)
            parts[name].append(_one_map(model, images, blurred, ranks, goals, ends, fractions, seed + start))
    return {name: _joined(pieces) for name, pieces in parts.items()}


def importance_ranks(maps: Floats, *, seed: int) -> Tensor:
    """(B, H, W) -> the place of each pixel, 0 for the most important, over the number of pixels; ties by chance."""
    count = maps[0].size
    shuffled = np.random.default_rng(seed).permuted(np.tile(np.arange(count), (len(maps), 1)), axis=1)
    values = np.take_along_axis(maps.reshape(len(maps), -1), shuffled, 1)
    order = np.take_along_axis(shuffled, np.argsort(-values, axis=1, kind="stable"), 1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(count)[None], 1)
    return torch.from_numpy((ranks / count).astype(np.float32)).view(maps.shape)


def blur(images: Tensor) -> Tensor:
    """(B, C, H, W) with a Gaussian of a twelfth of the longer side, reflected at the border."""
    sigma = max(images.shape[-2:]) * BLUR
    for axis in (-1, -2):
        reach = min(round(3 * sigma), images.shape[axis] - 1)
        offsets = torch.arange(-reach, reach + 1.0, device=images.device)
        weights = torch.exp(-offsets.square() / (2 * sigma**2))
        kernel = (weights / weights.sum()).view(1, 1, 1, -1)
        padding = (reach, reach, 0, 0)
        if axis == -2:
            kernel, padding = kernel.transpose(2, 3), (0, 0, reach, reach)
        rows = F.conv2d(F.pad(images, padding, mode="reflect").flatten(0, 1)[:, None], kernel)
        images = rows[:, 0].unflatten(0, images.shape[:2])
    return images


def _one_map(
    model: nn.Module,
    images: Tensor,
    blurred: Tensor,
    ranks: Tensor,
    targets: NDArray[np.int64],
    ends: Floats,
    fractions: NDArray[np.float64],
    seed: int,
) -> Curves:
    inner = torch.from_numpy(fractions[1:-1].astype(np.float32)).to(ranks.device).view(-1, 1, 1, 1, 1)
    important = ranks[:, None] < inner  # (F - 2, B, 1, H, W)
    deleted = torch.where(important, blurred, images)
    inserted = torch.where(important, images, blurred)
    imputed = torch.stack([impute(images, known, seed=seed) for known in _road_masks(ranks)])
    found = _target_probabilities(model, torch.cat([deleted, inserted, imputed]), targets)
    steps, pairs = len(deleted), len(ROAD_FRACTIONS)
    least, most = found[2 * steps : 2 * steps + pairs], found[2 * steps + pairs :]
    whole, gone = ends[:1], ends[1:]
    return Curves(
        deletion=np.concatenate([whole, found[:steps], gone]).T,
        insertion=np.concatenate([gone, found[steps : 2 * steps], whole]).T,
        road=(least - most).mean(0) / 2,
    )


def _road_masks(ranks: Tensor) -> list[Tensor]:
    """What stays known: without the least important pixels, then without the most important ones."""
    without_least = [ranks < 1 - fraction for fraction in ROAD_FRACTIONS]
    return without_least + [ranks >= fraction for fraction in ROAD_FRACTIONS]


def _target_probabilities(model: nn.Module, variants: Tensor, targets: NDArray[np.int64]) -> Floats:
    """(V, B, C, H, W) -> probabilities (V, B) of each image's target."""
    found = predict_probabilities(model, variants.flatten(0, 1)).reshape(*variants.shape[:2], -1)
    return np.take_along_axis(found, targets[None, :, None], 2)[..., 0]


def _joined(pieces: list[Curves]) -> Curves:
    return Curves(
        np.concatenate([piece.deletion for piece in pieces]),
        np.concatenate([piece.insertion for piece in pieces]),
        np.concatenate([piece.road for piece in pieces]),
    )
