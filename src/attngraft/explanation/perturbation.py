"""Probabilities while pixels are deleted, inserted or imputed in the order of a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from ..training import Progress, Silent
from .image_source import BATCH, predict_probabilities

Floats = NDArray[np.float32]
BLUR = 1 / 12  # standard deviation of the blur, in sides of the image
ROAD_FRACTIONS = (0.3, 0.7)
IMAGES_AT_ONCE = 8
CPU_BATCH = 16  # whose feature maps stay in the cache
NOISE = 0.01  # standard deviation, in units of the normalised input, as in the authors' code
ITERATIONS = 20
SMALLEST = 4  # side below which the start is the mean of what is known


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
    progress: Progress | None = None,
) -> dict[str, Curves]:
    """Delete, insert and impute pixels in the order of each map.

    Args:
        inputs: (N, C, H, W).
        maps: name -> (N, H, W), large where important; equal values are ordered by chance.
        targets: (N,), the class whose probability counts.
        fractions: (F,), of the pixels, from 0 to 1.
        seed: of that chance, and of the noise of the imputation.
        progress: where to show progress.

    Raises:
        ConfigError: a map of another shape, or one that is not finite.
    """
    shown = progress or Silent()
    check_maps(maps, (len(inputs), *inputs.shape[2:]))
    device = next((parameter.device for parameter in model.parameters()), inputs.device)
    parts: dict[str, list[Curves]] = {name: [] for name in maps}
    shown.start("perturbing images", len(maps) * len(inputs))
    for start in range(0, len(inputs), IMAGES_AT_ONCE):
        chosen = slice(start, start + IMAGES_AT_ONCE)
        images, goals = inputs[chosen].to(device, torch.float32), targets[chosen]
        blurred = blur(images)
        ends = _target_probabilities(model, torch.stack([images, blurred]), goals)  # shared by all maps
        for name, found in maps.items():
            ranks = importance_ranks(found[chosen], seed=seed + start).to(device)
            parts[name].append(_one_map(model, images, blurred, ranks, goals, ends, fractions, seed + start))
            shown.advance(len(images))
    shown.stop()
    return {name: _joined(pieces) for name, pieces in parts.items()}


def check_maps(maps: Mapping[str, Floats], expected: tuple[int, ...]) -> None:
    """Raise ConfigError for a map of another shape, or one that is not finite."""
    for name, found in maps.items():
        if found.shape != expected or not np.isfinite(found).all():
            raise ConfigError(f"map '{name}' is {found.shape}: expected finite numbers of the shape {expected}.")


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
    found = _target_probabilities(
        model, torch.cat([deleted, inserted, impute(images, _road_masks(ranks), seed=seed)]), targets
    )
    steps, pairs = len(deleted), len(ROAD_FRACTIONS)
    least, most = found[2 * steps : 2 * steps + pairs], found[2 * steps + pairs :]
    whole, gone = ends[:1], ends[1:]
    return Curves(
        deletion=np.concatenate([whole, found[:steps], gone]).T,
        insertion=np.concatenate([gone, found[steps : 2 * steps], whole]).T,
        road=(least - most).mean(0) / 2,
    )


def _road_masks(ranks: Tensor) -> Tensor:
    """(4, B, H, W) what stays known: without the least important pixels, then without the most important ones."""
    without_least = [ranks < 1 - fraction for fraction in ROAD_FRACTIONS]
    return torch.stack(without_least + [ranks >= fraction for fraction in ROAD_FRACTIONS])


def _target_probabilities(model: nn.Module, variants: Tensor, targets: NDArray[np.int64]) -> Floats:
    """(V, B, C, H, W) -> probabilities (V, B) of each image's target."""
    inputs = variants.flatten(0, 1)
    size = BATCH
    if inputs.device.type == "cpu":  # half the time of whole batches with channels first
        inputs, size = inputs.contiguous(memory_format=torch.channels_last), CPU_BATCH
    found = predict_probabilities(model, inputs, size=size).reshape(*variants.shape[:2], -1)
    return np.take_along_axis(found, targets[None, :, None], 2)[..., 0]


def _joined(pieces: list[Curves]) -> Curves:
    return Curves(
        np.concatenate([piece.deletion for piece in pieces]),
        np.concatenate([piece.insertion for piece in pieces]),
        np.concatenate([piece.road for piece in pieces]),
    )


def impute(images: Tensor, known: Tensor, *, seed: int, noise: float = NOISE, iterations: int = ITERATIONS) -> Tensor:
    """Images with their unknown pixels filled.

    Args:
        images: (B, C, H, W); the values of unknown pixels do not matter.
        known: (..., B, H, W), bool; at least one pixel of each image. Several choices of pixels are solved together, which
            takes less time than one after another.
        seed: of the noise.
        noise: standard deviation.
        iterations: of conjugate gradients at each resolution.

    Returns:
        (..., B, C, H, W), float32; known pixels as they are.
    """
    mask = known.unsqueeze(-3).expand(*known.shape[:-3], *images.shape)
    values = torch.where(mask, images.float(), 0.0)
    # Positions first: neighbours are then long rows of memory, three times as fast to add.
    solved = _solve(_flat(values), _flat(mask), iterations)
    filled = solved.unflatten(2, mask.shape[:-2]).movedim((0, 1), (-2, -1))
    grain = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images.device)
    return torch.where(mask, values, filled + noise * grain)


def _flat(x: Tensor) -> Tensor:
    """(..., B, C, H, W) -> (H, W, ... * B * C)."""
    return x.movedim((-2, -1), (0, 1)).flatten(2)


def _solve(values: Tensor, known: Tensor, iterations: int) -> Tensor:
    """Conjugate gradients for (degree - neighbours) u = 0 at the unknown pixels, u = values at the known ones."""
    degree = _neighbours(torch.ones_like(values[..., :1]))
    u = torch.where(known, values, _start(values, known, iterations))
    free = (~known).to(u.dtype)
    residual = free * (_neighbours(u) - degree * u)
    preconditioned = residual / degree
    direction = preconditioned.clone()
    old = _inner(residual, preconditioned)
    for _ in range(iterations):
        image = (degree * direction).sub_(_neighbours(direction)).mul_(free)
        step = old / _inner(direction, image).clamp_min_(1e-20)
        u.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        preconditioned = residual / degree
        new = _inner(residual, preconditioned)
        direction.mul_(new / old.clamp_min(1e-20)).add_(preconditioned)
        old = new
    return u


def _start(values: Tensor, known: Tensor, iterations: int) -> Tensor:
    """The solution at half the resolution, scaled up."""
    height, width, _ = values.shape
    weight = known.to(values.dtype)
    if min(height, width) < 2 * SMALLEST:
        return (values.sum((0, 1)) / weight.sum((0, 1)).clamp_min(1)).expand_as(values)
    size = ((height + 1) // 2, (width + 1) // 2)
    share = _resized(weight, size, "area")
    coarse = _resized(values, size, "area") / share.clamp_min(1e-6)
    return _resized(_solve(coarse, share > 0, iterations), (height, width), "bilinear")


def _resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(H, W, M) -> (*size, M)."""
    return F.interpolate(x.permute(2, 0, 1)[None], size, mode=mode)[0].permute(1, 2, 0).contiguous()


def _neighbours(x: Tensor) -> Tensor:
    """Weighted sum of the eight neighbours inside the image: 1/6 beside, 1/12 across the corner.

    The kernel is (1, 2, 1) both ways without its middle.
    """
    rows = 2 * x
    rows[1:] += x[:-1]
    rows[:-1] += x[1:]
    total = 2 * rows
    total[:, 1:] += rows[:, :-1]
    total[:, :-1] += rows[:, 1:]
    return total.sub_(x, alpha=4).div_(12)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((0, 1))
