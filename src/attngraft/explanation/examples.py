"""Example images with predictions, and saliency maps laid over them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ..config import Preprocessing
from ..data import UNLABELLED
from ..files import write_atomically
from ..surgery import grafts, uncompiled
from .explanation_record import Example, ExampleFiles, Prediction
from .image_source import Floats, View, inputs_of, predict_probabilities
from .saliency_maps import cam_maps, combined_gate_map, gate_maps, scaled_to

_NAME = re.compile(r"example-\d{2,}(-gate|-cam|-plain-cam|-site-\d+)?\.png")
Pixels = NDArray[np.uint8]
LEGIBLE = 160  # pixels: smaller images are enlarged, by whole factors
OPACITY = 0.5
ABOUT_ONE = 0.01


def choose_examples(
    probabilities: Floats, labels: NDArray[np.int64], count: int, *, plain: Floats | None = None
) -> list[int]:
    """Positions of images that are worth showing, the same at every call.

    In turns: one that the model gets right and the plain network does not (largest gain of the true class first), one
    that it gets wrong (surest first), and one that it gets right as surely as it usually does; each of another
    class while there are some. Without labels they are evenly spread.

    Args:
        probabilities: (N, K), of the model.
        labels: (N,), -1 where unknown.
        count: how many; fewer where there are fewer images.
        plain: (N, K), of the plain network.
    """
    total = len(probabilities)
    if (labels == UNLABELLED).any():
        return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist() if count else []
    everyone = np.arange(total)
    true, right = probabilities[everyone, labels], probabilities.argmax(1) == labels
    surest = probabilities.max(1)
    usual = np.median(surest[right]) if right.any() else 0.0
    queues = [
        _sorted(everyone[~right], -surest, labels),
        _sorted(everyone[right], np.abs(surest - usual), labels),
    ]
    if plain is not None:
        gained = right & (plain.argmax(1) != labels)
        queues.insert(0, _sorted(everyone[gained], plain[everyone, labels] - true, labels))
    return _in_turns(queues, min(count, total))


def examples(
    model: nn.Module,
    plain: nn.Module | None,
    view: View,
    positions: list[int],
    folder: Path,
    *,
    with_cam: bool = True,
) -> tuple[Example, ...]:
    """Draw images with their maps; files of an earlier call are removed from the folder."""
    for old in folder.iterdir() if folder.is_dir() else ():
        if _NAME.fullmatch(old.name):
            old.unlink()
    if not positions:
        return ()
    chosen = view.select(positions)
    inputs = inputs_of(model, chosen)
    sites = gate_maps(model, inputs) if grafts(uncompiled(model)) else {}
    drawn: dict[str, Floats | None] = {}
    drawn["cam"] = cam_maps(model, inputs) if with_cam else None
    drawn["plain-cam"] = cam_maps(plain, inputs) if with_cam and plain is not None else None
    predicted = predict_probabilities(model, inputs)
    plainly = None if plain is None else predict_probabilities(plain, inputs)
    found = []
    for row, image_id in enumerate(chosen.ids):
        label = int(chosen.labels[row])
        found.append(
            Example(
                id=image_id,
                label=None if label == UNLABELLED else _class_name(view.classes, label),
                prediction=_prediction(predicted[row], view.classes),
                plain_prediction=None if plainly is None else _prediction(plainly[row], view.classes),
                files=_draw(row, inputs[row], chosen, drawn, sites, folder),
            )
        )
    return tuple(found)


def _draw(
    row: int,
    image: torch.Tensor,
    view: View,
    drawn: Mapping[str, Floats | None],
    sites: Mapping[str, Floats],
    folder: Path,
) -> ExampleFiles:
    """Files are numbered: an id may hold anything that a file name must not."""
    shown, stem = displayed(image, view.preprocessing), f"example-{row:02d}"
    mine = {path: maps[row : row + 1] for path, maps in sites.items()}
    moving = {path: found for path, found in mine.items() if not is_about_one(found)}
    height, width = image.shape[-2:]
    maps = {"gate": combined_gate_map(moving, (height, width))}
    maps |= {kind: None if found is None else found[row : row + 1] for kind, found in drawn.items()}

    def written(kind: str, found: Floats | None) -> str | None:
        return None if found is None else write_image(folder / f"{stem}-{kind}.png", overlay(shown, found[0]))

    ranges = {kind: found for kind, found in {**maps, **mine}.items() if found is not None}
    return ExampleFiles(
        image=write_image(folder / f"{stem}.png", enlarged(shown)),
        gate=written("gate", maps["gate"]),
        cam=written("cam", maps["cam"]),
        plain_cam=written("plain-cam", maps["plain-cam"]),
        sites={path: str(written(f"site-{number}", mine[path])) for number, path in enumerate(mine) if path in moving},
        ranges={kind: (float(found.min()), float(found.max())) for kind, found in ranges.items()},
    )


def is_about_one(gate: Floats) -> bool:
    """Whether a gate is within 1 % of 1 everywhere: a picture of it would show differences that there are not."""
    return bool((np.abs(gate - 1) <= ABOUT_ONE).all())


def _prediction(probabilities: Floats, classes: tuple[str, ...]) -> Prediction:
    best = int(probabilities.argmax())
    return Prediction(_class_name(classes, best), float(probabilities[best]))


def _class_name(classes: tuple[str, ...], index: int) -> str:
    return classes[index] if index < len(classes) else str(index)


def _sorted(positions: NDArray[np.int64], keys: NDArray[Any], labels: NDArray[np.int64]) -> list[int]:
    """By their keys, but the first of every class before the second of any."""
    seen: Counter[int] = Counter()
    turns = {}
    for position in positions[np.argsort(keys[positions], kind="stable")].tolist():
        turns[position] = seen[int(labels[position])]
        seen[int(labels[position])] += 1
    return sorted(turns, key=turns.__getitem__)


def _in_turns(queues: list[list[int]], count: int) -> list[int]:
    """One of each queue in turn, until there are enough; none twice."""
    found: list[int] = []
    while len(found) < count and any(queues):
        for queue in queues:
            while queue and queue[0] in found:
                queue.pop(0)
            if queue:
                found.append(queue.pop(0))
    return found[:count]


def displayed(image: Tensor, preprocessing: Preprocessing) -> Pixels:
    """An input (C, H, W) as people see it: (H, W, 3), its normalisation taken back.

    Inputs without three channels become grey, from the smallest value to the largest.
    """
    values = image.detach().float().cpu()
    if len(values) == 3:
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (preprocessing.mean, preprocessing.std))
        rgb = values * std + mean
    else:
        rgb = torch.from_numpy(_unit(values.mean(0).numpy())).expand(3, -1, -1)
    scaled = rgb.nan_to_num(0.0).clamp(0, 1).mul(255).round()
    return np.ascontiguousarray(scaled.permute(1, 2, 0).numpy().astype(np.uint8))


def enlarged(image: Pixels) -> Pixels:
    """(H, W, 3), each pixel repeated until the image is legible."""
    factor = enlargement(image.shape[0], image.shape[1])
    return np.asarray(image.repeat(factor, 0).repeat(factor, 1))


def enlargement(height: int, width: int) -> int:
    """By what whole factor an image of this size is shown."""
    return max(1, -(-LEGIBLE // min(height, width)))


def overlay(image: Pixels, importance: ArrayLike, *, opacity: float = OPACITY) -> Pixels:
    """Lay a map over an image, from dark (its smallest value) to bright (its largest).

    Args:
        image: (H, W, 3) uint8.
        importance: (h, w), of any size and scale; scaled to the image bilinearly. A constant map is dark.
        opacity: of the colours, 0 to 1.

    Returns:
        uint8, (H, W, 3) times a whole factor that makes small images legible.
    """
    from matplotlib import colormaps

    large = enlarged(image)
    height, width = large.shape[:2]
    smooth = scaled_to(np.asarray(importance, dtype=np.float32)[None], (height, width))[0]
    colours = colormaps["inferno"](_unit(smooth))[..., :3] * 255
    # Grey below the colours: the image's own colours must not be taken for those of the map.
    grey = large.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    mixed = (1 - opacity) * grey[..., None] + opacity * colours
    return np.asarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def write_image(path: Path, pixels: Pixels) -> str:
    """Write a PNG atomically; its name is returned."""
    from PIL import Image

    write_atomically(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))
    return path.name


def _unit(values: NDArray[Any]) -> NDArray[np.float32]:
    """From 0 for the smallest to 1 for the largest; 0 where all are equal."""
    finite = np.nan_to_num(values.astype(np.float32))
    low, high = float(finite.min()), float(finite.max())
    return np.asarray((finite - low) / (high - low) if high > low else np.zeros_like(finite), dtype=np.float32)
