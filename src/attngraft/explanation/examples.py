"""Example images with predictions and saliency maps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..data import UNLABELLED
from ..surgery import grafts, uncompiled
from .explanation_record import Example, ExampleFiles, Prediction
from .image_source import View
from .model_outputs import Floats, inputs_of, predict_probabilities
from .overlays import displayed, enlarged, overlay, write_image
from .saliency_maps import cam_maps, combined_gate_map, gate_maps

_NAME = re.compile(r"example-\d{2,}(-gate|-cam|-plain-cam|-site-\d+)?\.png")


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
    """Draw images with their maps; files of an earlier call are removed from the folder.

    Args:
        model: the model.
        plain: the network beside it, or None.
        view: the images.
        positions: which of them.
        folder: where the PNG files go.
        with_cam: draw Grad-CAM too (see `cam_maps`).
    """
    for old in folder.iterdir() if folder.is_dir() else ():
        if _NAME.fullmatch(old.name):
            old.unlink()
    if not positions:
        return ()
    chosen = view.select(positions)
    inputs = inputs_of(model, chosen)
    size = (int(inputs.shape[2]), int(inputs.shape[3]))
    sites = gate_maps(model, inputs) if grafts(uncompiled(model)) else {}
    drawn: dict[str, Floats | None] = {"gate": combined_gate_map(sites, size)}
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

    def written(kind: str, maps: Floats | None) -> str | None:
        return None if maps is None else write_image(folder / f"{stem}-{kind}.png", overlay(shown, maps[row]))

    return ExampleFiles(
        image=write_image(folder / f"{stem}.png", enlarged(shown)),
        gate=written("gate", drawn["gate"]),
        cam=written("cam", drawn["cam"]),
        plain_cam=written("plain-cam", drawn["plain-cam"]),
        sites={path: str(written(f"site-{number}", maps)) for number, (path, maps) in enumerate(sites.items())},
    )


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
