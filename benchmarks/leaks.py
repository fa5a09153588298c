"""How many pictures that were saved again are found, and at what cost: python benchmarks/leaks.py DATA_FOLDER RESULT.json [SHEET.png]

DATA_FOLDER holds cifar10/{train,test}, grocery/{train,test} and hymenoptera/{train,val}, each with folders of classes.
Every change is made to a sample of the images of a set, and these are searched for among all images of the set. The
pictures that are alike between its two splits as they are come without a truth: they are counted, with how many of them
have two classes, and drawn side by side on the sheet for people to judge, the least alike first.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from attngraft.data import Dataset, ImageSet, joined, load_data
from attngraft.data.leaks import find_leaks
from attngraft.data.near_duplicates.alignment import agreement
from attngraft.data.near_duplicates.search import SIDE, near_pairs, sketches
from attngraft.environment import hardware, versions
from attngraft.files import write_json

SETS = ("cifar10", "grocery", "hymenoptera")
SAMPLE = 1000
SIZE = 224  # of the input that the images are stored for
COLUMNS = 8

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def saved_again(quality: int) -> Change:
    def change(image: Image.Image, _: np.random.Generator) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return change


def resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor, bicubic = float(rng.choice([0.5, 0.75, 1.25, 1.5, 2.0])), rng.random() < 0.5
    size = tuple(max(1, round(side * factor)) for side in image.size)
    return image.resize(size, Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR)


def cut(image: Image.Image, shares: NDArray[np.float64]) -> Image.Image:
    (left, right), (top, bottom) = (np.round(part * side) for part, side in zip(shares, image.size, strict=True))
    return image.crop((int(left), int(top), image.width - int(right), image.height - int(bottom)))


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return cut(image, rng.uniform(0, 0.1, (2, 2)))


def lighter_or_darker(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = 1 + float(rng.choice([-1, 1]) * rng.uniform(0.05, 0.15))
    return Image.fromarray((np.asarray(image) * factor).clip(0, 255).astype(np.uint8))


CHANGES: dict[str, Change] = {
    **{f"jpeg quality {quality}": saved_again(quality) for quality in (90, 70, 50)},
    "resized to 50, 75, 125, 150 or 200 %": resized,
    "up to 10 % cropped off each side": cropped,
    "the same, back to the old size": lambda image, rng: cropped(image, rng).resize(image.size),
    "10 % cropped off each side": lambda image, _: cut(image, np.full((2, 2), 0.1)),
    "5 to 15 % lighter or darker": lighter_or_darker,
    "cropped, lighter, quality 70": lambda image, rng: saved_again(70)(
        lighter_or_darker(cropped(image, rng), rng), rng
    ),
}


def main(data: Path, result: Path, sheet: Path | None) -> None:
    torch.set_num_threads(1)
    document = {"sets": [measured(data / name, sheet if name == SETS[0] else None) for name in SETS]}
    write_json(result, {**document, "hardware": hardware(), "versions": versions()})


def measured(folder: Path, sheet: Path | None) -> dict[str, Any]:
    began = time.process_time()
    dataset = load_data(folder, image_size=SIZE)
    loaded_s = time.process_time() - began
    splits = {"train": dataset.train, "test": dataset.test}
    began = time.process_time()
    find_leaks(splits)
    search_s = time.process_time() - began
    began = time.process_time()
    drawn = {name: sketches(images) for name, images in splits.items()}
    draw_s = time.process_time() - began
    everything = joined([dataset.train, dataset.test])
    gallery = np.concatenate(list(drawn.values()))
    return {
        "name": dataset.name,
        "images": {name: len(images) for name, images in splits.items()},
        "found": {name: found(change, everything, gallery) for name, change in CHANGES.items()},
        "as_they_are": as_they_are(dataset, drawn, sheet),
        "cpu_s": {"reading": loaded_s - search_s, "sketches": draw_s, "search": search_s - draw_s},
    }


def found(change: Change, images: ImageSet, gallery: NDArray[np.uint8]) -> dict[str, Any]:
    """How many changed images lead back to the one that they were made of."""
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(images))[:SAMPLE])
    changed = np.stack([sketched(change(opened(images, int(i)), rng)) for i in chosen])
    pairs = near_pairs(gallery, changed)
    right = np.unique(pairs[pairs[:, 0] == chosen[pairs[:, 1]], 1])
    return {**rate(len(right), len(chosen)), "others": int((pairs[:, 0] != chosen[pairs[:, 1]]).sum())}


def as_they_are(dataset: Dataset, drawn: dict[str, NDArray[np.uint8]], sheet: Path | None) -> dict[str, Any]:
    """What is alike between the splits without anybody's doing."""
    pairs = near_pairs(drawn["train"], drawn["test"])
    flagged = np.unique(pairs[:, 1])
    known = set(dataset.train.pixel_hashes)
    exact = sum(digest in known for digest in dataset.test.pixel_hashes)
    two = dataset.train.labels[pairs[:, 0]] != dataset.test.labels[pairs[:, 1]]
    if sheet is not None:
        draw(sheet, drawn["train"][pairs[:, 0]], drawn["test"][pairs[:, 1]])
    return {**rate(len(flagged), len(dataset.test)), "equal": exact, "of_two_classes": int(two.sum())}


def draw(path: Path, some: NDArray[np.uint8], others: NDArray[np.uint8], side: int = 72) -> None:
    """Pairs side by side, the least alike first."""
    order = np.argsort(agreement(some, others).correlation)
    sheet = Image.new("RGB", (COLUMNS * (2 * side + 8), -(-len(order) // COLUMNS) * (side + 4)), "white")
    for place, pair in enumerate(order.tolist()):
        row, column = divmod(place, COLUMNS)
        for k, picture in enumerate((some[pair], others[pair])):
            sheet.paste(
                Image.fromarray(picture).resize((side, side)), (column * (2 * side + 8) + k * side, row * (side + 4))
            )
    sheet.save(path)


def opened(images: ImageSet, position: int) -> Image.Image:
    return Image.fromarray(images.image(position).permute(1, 2, 0).numpy())


def sketched(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def rate(hits: int, n: int) -> dict[str, Any]:
    """Part and its 95 % interval (Wilson, JASA 22, 1927)."""
    z, p = 1.959964, hits / n
    centre, half = p + z * z / (2 * n), z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    low, high = ((centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return {"hits": hits, "n": n, "rate": p, "wilson95": [round(low, 5), round(high, 5)]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
