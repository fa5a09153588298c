"""Fill removed pixels from their neighbours (ROAD's noisy linear imputation).

Noisy linear imputation of ROAD (Rong et al., ICML 2022, arXiv:2202.00449): each missing pixel is the weighted mean of
its eight neighbours, missing or not, plus a little noise. That is one sparse system of equations per image. Here all
images are solved at once by conjugate gradients, which start from the solution at half the resolution.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NOISE = 0.01  # standard deviation, in units of the normalised input, as in the authors' code
ITERATIONS = 20
SMALLEST = 4  # side below which the start is the mean of what is known


def impute(images: Tensor, known: Tensor, *, seed: int, noise: float = NOISE, iterations: int = ITERATIONS) -> Tensor:
    """Images with their unknown pixels filled.

    Args:
        images: (B, C, H, W); the values of unknown pixels do not matter.
        known: (B, H, W), bool; at least one pixel of each image.
        seed: of the noise.
        noise: standard deviation.
        iterations: of conjugate gradients at each resolution.

    Returns:
        (B, C, H, W), float32; known pixels as they are.
    """
    mask = known[:, None].expand(images.shape)
    values = torch.where(mask, images.float(), 0.0)
    # Positions first: neighbours are then long rows of memory, three times as fast to add.
    solved = _solve(_flat(values), _flat(mask), iterations)
    filled = solved.unflatten(2, images.shape[:2]).permute(2, 3, 0, 1)
    grain = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images.device)
    return torch.where(mask, values, filled + noise * grain)


def _flat(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (H, W, B * C)."""
    return x.permute(2, 3, 0, 1).flatten(2)


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
