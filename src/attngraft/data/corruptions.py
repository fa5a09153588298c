"""Eight common image corruptions in five severities, as in ImageNet-C."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError
from ..registry import Registry
from .dataset import ImageSet
from .pixel_store import PixelStore, pixel_hash
from .splits import hash64

SEVERITIES = (1, 2, 3, 4, 5)
SMALL_SIDE = 64

Pixels8 = NDArray[np.uint8]
# (H, W, 3) float64 in 0..1, the parameter, and where chance comes from -> the same shape, clipped by the caller
Apply = Callable[[NDArray[np.float64], Any, np.random.Generator], NDArray[np.float64]]


@dataclass(frozen=True)
class Corruption:
    """One kind of damage.

    Attributes:
        description: one line.
        apply: makes it.
        small: its parameter for severities 1 to 5 where the short side is at most 64 px (CIFAR-10-C).
        large: the same for larger images (ImageNet-C).
    """

    description: str
    apply: Apply
    small: tuple[float, ...] | tuple[tuple[float, float], ...]
    large: tuple[float, ...] | tuple[tuple[float, float], ...]


CORRUPTIONS: Registry[Corruption] = Registry("corruption")


def corrupt(image: Pixels8, name: str, severity: int, *, seed: int) -> Pixels8:
    """Damage one image.

    These are images made anew with the published parameters, not the published files: the generator of chance, the
    JPEG encoder and the rounding (to the nearest value here) differ, so errors on them are not to be compared with
    errors on CIFAR-10-C or ImageNet-C.

    Args:
        image: (H, W, 3) or (3, H, W) uint8; read as (H, W, 3) where both fit. It is not changed.
        name: one of `CORRUPTIONS`: gaussian-noise, shot-noise, impulse-noise, defocus-blur, contrast, brightness,
            pixelate, jpeg.
        severity: 1 to 5.
        seed: decides the noise; the same at every severity, so that damage grows with it in each image.

    Returns:
        uint8 of the same shape.

    Raises:
        ConfigError: unknown name, severity out of range, or not an image of that kind.

    Source: Hendrycks and Dietterich, arXiv:1903.12261.
    """
    corruption = CORRUPTIONS[name]
    _check_severity(severity)
    channels_first = _channels_first(image)
    pixels = np.moveaxis(image, 0, -1) if channels_first else image
    values = corruption.small if min(pixels.shape[:2]) <= SMALL_SIDE else corruption.large
    damaged = corruption.apply(pixels / 255.0, values[int(severity) - 1], np.random.default_rng(seed))
    rounded = np.rint(np.clip(damaged, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(rounded, -1, 0) if channels_first else rounded)


def corrupted(images: ImageSet, name: str, severity: int, *, seed: int = 0) -> ImageSet:
    """Every image of a set damaged, in memory.

    The noise of an image is a function of (seed, name, its pixel hash), so neither the order nor the other images
    matter. Images get hashes of their own and ids such as "jpeg-5/test/ants/1.jpg"; targets and boxes stay.

    Args:
        images: what to damage; unchanged.
        name, severity: as for `corrupt`.
        seed: decides the noise.

    Raises:
        ConfigError: unknown name or severity out of range.
    """
    _ = CORRUPTIONS[name]
    _check_severity(severity)
    damaged = [
        corrupt(images.image(i).permute(1, 2, 0).numpy(), name, severity, seed=hash64(seed, name, digest))
        for i, digest in enumerate(images.pixel_hashes)
    ]
    flat = np.concatenate([pixels.reshape(-1) for pixels in damaged]) if damaged else np.empty(0, dtype=np.uint8)
    return ImageSet(
        ids=tuple(f"{name}-{severity}/{image_id}" for image_id in images.ids),
        targets=images.targets,
        pixel_hashes=tuple(pixel_hash(pixels) for pixels in damaged),
        store=PixelStore(np.array([pixels.shape[:2] for pixels in damaged]), torch.from_numpy(flat)),
        rows=np.arange(len(damaged)),
        boxes=None if images.boxes is None else images.boxes.copy(),
    )


def _check_severity(severity: int) -> None:
    if severity not in SEVERITIES:
        raise ConfigError(f"severity is {severity}: expected 1 (light) to 5 (heavy).")


def _channels_first(image: Pixels8) -> bool:
    shape = image.shape
    if image.dtype != np.uint8 or image.ndim != 3 or 3 not in (shape[0], shape[2]) or 0 in shape:
        raise ConfigError(
            f"got an image of shape {tuple(shape)} and type {image.dtype}: expected (H, W, 3) or (3, H, W) uint8."
        )
    return shape[2] != 3


# --- the eight ---------------------------------------------------------------------------------------------------


def _gaussian_noise(image: NDArray[np.float64], scale: float, chance: np.random.Generator) -> NDArray[np.float64]:
    return image + scale * chance.standard_normal(image.shape)


def _shot_noise(image: NDArray[np.float64], photons: float, chance: np.random.Generator) -> NDArray[np.float64]:
    return chance.poisson(image * photons) / photons


def _impulse_noise(image: NDArray[np.float64], amount: float, chance: np.random.Generator) -> NDArray[np.float64]:
    """Salt and pepper in equal parts, in each channel by itself."""
    drawn = chance.random(image.shape)
    return np.where(drawn < amount / 2, 0.0, np.where(drawn > 1 - amount / 2, 1.0, image))


def _defocus_blur(
    image: NDArray[np.float64], shape: tuple[float, float], chance: np.random.Generator
) -> NDArray[np.float64]:
    from scipy.ndimage import convolve
    from scipy.signal import fftconvolve

    kernel = _disk(*shape)
    reach = kernel.shape[0] // 2
    if reach <= 2 or reach >= min(image.shape[:2]):  # few taps are quicker by themselves than by a Fourier transform
        return convolve(image, kernel[:, :, None], mode="mirror")
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return fftconvolve(padded, kernel[:, :, None], mode="valid", axes=(0, 1))


def _disk(radius: float, softness: float) -> NDArray[np.float64]:
    """A disk of that radius whose edge is softened by a Gaussian; sums to 1."""
    half = int(radius)
    taps = 1 if radius <= 8 else 2  # of the Gaussian, to each side
    place = np.arange(-half - taps, half + taps + 1)
    disk = ((place[:, None] ** 2 + place**2) <= radius**2).astype(np.float64)
    weights = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * softness**2))
    weights /= weights.sum()
    soft = np.apply_along_axis(np.convolve, 0, disk / disk.sum(), weights, mode="same")
    return np.apply_along_axis(np.convolve, 1, soft, weights, mode="same")


def _contrast(image: NDArray[np.float64], factor: float, chance: np.random.Generator) -> NDArray[np.float64]:
    means = image.mean(axis=(0, 1), keepdims=True)
    return (image - means) * factor + means


def _brightness(image: NDArray[np.float64], added: float, chance: np.random.Generator) -> NDArray[np.float64]:
    """More of V in HSV at the same hue and saturation: all channels are scaled alike; black becomes grey."""
    value = image.max(axis=2, keepdims=True)
    raised = np.minimum(value + added, 1)
    return np.where(value > 0, image * (raised / np.where(value > 0, value, 1)), raised)


def _pixelate(image: NDArray[np.float64], factor: float, chance: np.random.Generator) -> NDArray[np.float64]:
    height, width = image.shape[:2]
    original = Image.fromarray(np.rint(image * 255).astype(np.uint8))
    small = original.resize((max(1, int(width * factor)), max(1, int(height * factor))), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255.0


def _jpeg(image: NDArray[np.float64], quality: float, chance: np.random.Generator) -> NDArray[np.float64]:
    file = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(file, "JPEG", quality=int(quality))
    with Image.open(file) as compressed:
        return np.asarray(compressed) / 255.0


def _register() -> None:
    for name, corruption in {
        "gaussian-noise": Corruption(
            "normal noise of a constant spread, as in the dark",
            _gaussian_noise,
            (0.04, 0.06, 0.08, 0.09, 0.10),
            (0.08, 0.12, 0.18, 0.26, 0.38),
        ),
        "shot-noise": Corruption(
            "Poisson noise, from few photons", _shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)
        ),
        "impulse-noise": Corruption(
            "single values set to black or white, as by broken pixels",
            _impulse_noise,
            (0.01, 0.02, 0.03, 0.05, 0.07),
            (0.03, 0.06, 0.09, 0.17, 0.27),
        ),
        "defocus-blur": Corruption(
            "out of focus",
            _defocus_blur,
            ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        ),
        "contrast": Corruption("less contrast", _contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
        "brightness": Corruption("lighter", _brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
        "pixelate": Corruption(
            "enlarged from fewer pixels", _pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)
        ),
        "jpeg": Corruption("compressed as JPEG", _jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
    }.items():
        CORRUPTIONS.register(name, corruption)


_register()
