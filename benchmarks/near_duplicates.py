"""Different objects on one background are not copies: python benchmarks/near_duplicates.py RESULT.json [IMAGES [COPIES]]

Photographs of single objects on one table look alike as a whole. IMAGES of them are drawn, no two of one object, so every
pair that is found is a false one. COPIES of them are then saved again in every way of `leaks.py` and looked for. Counted
are the pairs whose small versions are alike, and those of them that are alike in detail too, which is what is reported.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from leaks import CHANGES, SIZE, Change, rate
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from attngraft.data import ImageSet, load_data
from attngraft.data.near_duplicates.search import copies, near_pairs, sketches
from attngraft.environment import hardware, versions
from attngraft.files import write_json

WIDTH, HEIGHT = 160, 120
DOWN, ACROSS = np.mgrid[0:HEIGHT, 0:WIDTH] / np.array([HEIGHT, WIDTH])[:, None, None]
Floats = NDArray[np.float64]


def main(result: Path, images: int = 1000, looked_for: int = 100) -> None:
    torch.set_num_threads(1)
    photos = [photo(seed) for seed in range(images)]
    gallery = as_images(photos)
    began = time.process_time()
    small = sketches(gallery)
    alike, same = near_pairs(small), copies(gallery, small)
    document = {
        "images": images,
        "as_they_are": {"alike_when_small": unordered(alike), "alike_in_detail": unordered(same)},
        "found": {name: found(change, photos, gallery, small, looked_for) for name, change in CHANGES.items()},
        "search_cpu_s": time.process_time() - began,
    }
    write_json(result, {**document, "hardware": hardware(), "versions": versions()})


def found(
    change: Change, photos: list[Image.Image], gallery: ImageSet, small: NDArray[np.uint8], count: int
) -> dict[str, Any]:
    """How many changed images lead back to the one that they were made of, and how many pairs are false."""
    rng = np.random.default_rng(3)
    chosen = np.sort(rng.permutation(len(photos))[:count])
    changed = as_images([change(photos[i], rng) for i in chosen])
    pairs = copies(gallery, small, changed, sketches(changed))
    is_right = pairs[:, 0] == chosen[pairs[:, 1]]
    return {**rate(len(np.unique(pairs[is_right, 1])), count), "others": int((~is_right).sum())}


def unordered(pairs: NDArray[np.int64]) -> int:
    return int((pairs[:, 0] < pairs[:, 1]).sum())


def as_images(photos: list[Image.Image]) -> ImageSet:
    labelled = [(image, number % 2) for number, image in enumerate(photos)]
    return load_data((labelled, labelled[:2]), image_size=SIZE).train


def photo(seed: int) -> Image.Image:
    """One object, somewhere near the middle, with its shadow and the noise of a camera."""
    rng = np.random.default_rng(seed)
    outline, colour, contrast = SHAPES[rng.integers(len(SHAPES))](rng)
    sharp = outline.filter(ImageFilter.GaussianBlur(1.2)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    inside = np.asarray(sharp, float)[..., None] / 255
    shadow = np.asarray(outline.filter(ImageFilter.GaussianBlur(14)).resize((WIDTH, HEIGHT)), float)[..., None] / 255
    texture = contrast * fractal(rng, 0.6)[..., None] + 8 * (0.5 - DOWN)[..., None]
    seen = (TABLE[..., None] * np.array([1, 0.99, 0.97]) - 18 * shadow) * (1 - inside) + (colour + texture) * inside
    seen = seen * rng.normal(1, 0.02) + rng.normal(0, 2.5, seen.shape)
    return Image.fromarray(seen.clip(0, 255).astype(np.uint8))


def fractal(rng: np.random.Generator, power: float) -> Floats:
    """(HEIGHT, WIDTH): noise at five scales, with a standard deviation of 1."""
    total = np.zeros((HEIGHT, WIDTH))
    for cells in (3, 6, 12, 24, 48):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        total += (np.asarray(noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), float) - 128) / cells**power
    return total / total.std()


def blank(rng: np.random.Generator) -> tuple[Image.Image, ImageDraw.ImageDraw, float, float]:
    """A mask of twice the size, to draw on it, and the middle of the object."""
    outline = Image.new("L", (2 * WIDTH, 2 * HEIGHT), 0)
    return outline, ImageDraw.Draw(outline), WIDTH + rng.normal(0, 10), HEIGHT + rng.normal(0, 8)


def paper(rng: np.random.Generator) -> tuple[Image.Image, Floats, float]:
    """Crumpled."""
    outline, draw, x, y = blank(rng)
    angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 14)), rng.uniform(60, 85, 14)
    corners = np.stack([x + 1.25 * radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    draw.polygon([(a, b) for a, b in corners.tolist()], fill=255)
    return outline, np.array([225, 225, 220.0]) + rng.normal(0, 6, 3), 16


def cardboard(rng: np.random.Generator) -> tuple[Image.Image, Floats, float]:
    outline, draw, x, y = blank(rng)
    width, height, turn = rng.uniform(85, 115), rng.uniform(60, 85), rng.normal(0, 0.12)
    corners = np.array([(-width, -height), (width, -height), (width, height), (-width, height)])
    turned = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + (x, y)
    draw.polygon([(a, b) for a, b in turned.tolist()], fill=255)
    return outline, np.array([170, 135, 100.0]) + rng.normal(0, 8, 3), 9


def bottle(rng: np.random.Generator) -> tuple[Image.Image, Floats, float]:
    """Lying."""
    outline, draw, x, y = blank(rng)
    half = rng.uniform(26, 34)
    draw.rounded_rectangle((x - 100, y - half, x + 50, y + half), 20, fill=255)
    draw.rectangle((x + 45, y - half * 0.4, x + 100, y + half * 0.4), fill=255)
    colour = np.array([[120, 150, 120.0], [150, 160, 165.0], [120, 80, 50.0]][rng.integers(3)])
    return outline, colour + rng.normal(0, 8, 3), 14


def can(rng: np.random.Generator) -> tuple[Image.Image, Floats, float]:
    outline, draw, x, y = blank(rng)
    width, height = rng.uniform(38, 44), rng.uniform(70, 80)
    draw.rounded_rectangle((x - width, y - height, x + width, y + height), 10, fill=255)
    colour = np.array([[180, 30, 40.0], [160, 165, 170.0], [30, 60, 150.0]][rng.integers(3)])
    return outline, colour + rng.normal(0, 8, 3), 22


SHAPES = (paper, cardboard, bottle, can)
TABLE = 205 + 25 * (0.5 - np.hypot(ACROSS - 0.45, DOWN - 0.4)) + 3 * fractal(np.random.default_rng(12345), 0.3)

if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
