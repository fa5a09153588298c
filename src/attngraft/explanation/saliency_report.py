"""Report of saliency: maps, faithfulness, pointing game."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..costs import count_macs
from ..data import evenly_spread
from ..data.boxes import Boxes, input_boxes, own_boxes, read_boxes
from ..errors import ConfigError, DataError, GraftError, counted
from ..statistics.groups import effect_by_group
from ..training import Progress
from .examples import choose_examples, examples
from .explanation_record import Example, Faithfulness, Saliency
from .image_source import Floats, Groups, Subject, View, inputs_of, predict_probabilities
from .perturbation import ROAD_FRACTIONS
from .saliency_maps import cam_maps, combined_gate_map, gate_maps
from .saliency_measures import faithfulness, pointing, summary

MOST_IMAGES = 200
FEWEST_IMAGES = 24
MOST_PIXELS = 20_000_000  # of all inputs together: they and their maps stay in memory
MOST_MACS = 1.6e12  # of the perturbed images together: about half a minute on two cores
STEPS = 8
GATE, CAM, PLAIN_CAM = "spatial gate", "grad-cam", "plain grad-cam"


def saliency_report(
    subject: Subject,
    folder: Path,
    *,
    boxes: str | Path | None = None,
    examples: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Saliency:
    """Maps of the model and of the plain network, measured and drawn.

    At most 200 images are measured, evenly spread over those with boxes where boxes are known. Faithfulness is
    measured on fewer where the network is large: at least 24.

    Args:
        subject: the model, the plain network, the images.
        folder: where the images go.
        boxes: CSV file (see `read_boxes`); the data set's own boxes where not given.
        examples: images to draw.
        seed: of random maps and noise.
        progress: where to show progress.

    Raises:
        DataError: the boxes cannot be read, or are about other images.
    """
    view, model = subject.view, subject.model
    known = known_boxes(view, boxes)
    if view.tensor is not None and view.tensor.dim() != 4:
        note = f"The inputs are {tuple(view.tensor.shape)}, not images, so nothing is said about where the model looks."
        return Saliency((note,))
    chosen = _spread(view, known)
    inputs = inputs_of(model, view.select(chosen))
    notes: list[str] = []
    maps, plain_maps = _maps(subject, inputs, notes)
    groups = None if view.groups is None else view.groups[chosen]
    faithful = _faithfulness(subject, inputs, maps, plain_maps, seed, groups, progress)
    pointed = None
    if known is not None:
        pointed = pointing(maps | plain_maps, tuple(known[i] for i in chosen), seed=seed, groups=groups)
    if pointed is None:
        notes.append("Nothing is said about whether the maps point at the object: no boxes are known.")
    if faithful is not None and view.is_labelled:
        faithful = _doubted(faithful, predict_probabilities(model, inputs), view.labels[chosen], groups)
    drawn = _examples(subject, folder, examples, has_cam=CAM in maps)
    return Saliency(tuple(notes), faithful, pointed, drawn)


def known_boxes(view: View, csv: str | Path | None) -> Boxes | None:
    """For each image its boxes in pixels of the input; None where there are none at all.

    Raises:
        DataError: the file cannot be read, or boxes are given for inputs that are no image files.
    """
    if view.images is None:
        if csv is not None:
            raise DataError("boxes belong to image files, and the images are a tensor: give a folder of images.")
        return None
    found = own_boxes(view.images) if csv is None else read_boxes(csv, view.images, view.root)
    return None if found is None else input_boxes(found, view.images, view.preprocessing)


def _spread(view: View, known: Boxes | None) -> list[int]:
    """Positions to measure, evenly spread, of the images with boxes where there are some."""
    pool = np.arange(len(view))
    if known is not None and any(len(mine) for mine in known):
        pool = np.flatnonzero([len(mine) > 0 for mine in known])
    pixels = view.input(0)[0].numel()
    count = min(len(pool), MOST_IMAGES, max(1, MOST_PIXELS // pixels))
    return pool[evenly_spread(len(pool), count)].tolist()


def _maps(subject: Subject, inputs: Tensor, notes: list[str]) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Those of the model, and those of the plain network."""
    maps: dict[str, Floats] = {}
    gate = combined_gate_map(gate_maps(subject.model, inputs), (int(inputs.shape[2]), int(inputs.shape[3])))
    if gate is not None:
        maps[GATE] = gate
    try:
        maps[CAM] = cam_maps(subject.model, inputs)
        plain = {} if subject.plain is None else {PLAIN_CAM: cam_maps(subject.plain, inputs)}
    except (ConfigError, GraftError) as error:
        maps.pop(CAM, None)
        notes.append(f"There is no Grad-CAM: {error}")
        plain = {}
    return maps, plain


def _faithfulness(
    subject: Subject,
    inputs: Tensor,
    maps: dict[str, Floats],
    plain_maps: dict[str, Floats],
    seed: int,
    groups: Groups,
    progress: Progress | None,
) -> Faithfulness | None:
    """The plain network's maps are measured on the plain network, against a random map there."""
    if not maps:
        return None
    measured = len(maps) + 2 + (len(plain_maps) + 2 if plain_maps else 0)  # with two baselines for each network
    passes = measured * 2 * (STEPS - 1 + len(ROAD_FRACTIONS))
    chosen = evenly_spread(len(inputs), affordable(subject.model, inputs, passes))
    some = inputs[chosen.tolist()]
    mine = None if groups is None else groups[chosen]
    options: dict[str, Any] = {"steps": STEPS, "seed": seed, "groups": mine, "progress": progress}
    found = faithfulness(subject.model, some, _part(maps, chosen), **options)
    if not plain_maps or subject.plain is None:
        return found
    plainly = faithfulness(subject.plain, some, _part(plain_maps, chosen), **options)
    rows = (*found.maps[: len(maps)], *plainly.maps[: len(plain_maps)], *found.maps[len(maps) :])
    return replace(found, maps=rows, sentence=summary(rows, found.n, found.groups))


def _doubted(found: Faithfulness, probabilities: Floats, labels: NDArray[np.int64], groups: Groups) -> Faithfulness:
    """Call no map faithful where the model knows no more than which class is most frequent.

    A map can mark what such a model's predictions rest on, but then it says nothing about the images' classes.
    """
    correct, largest = probabilities.argmax(1) == labels, float(np.bincount(labels).max() / len(labels))
    chance = largest if largest < 1 else 1 / probabilities.shape[1]  # images of one class: a guess among all classes
    if _is_above(chance, correct, groups):
        return found
    rows = tuple(replace(row, verdict="not shown") if row.verdict == "faithful" else row for row in found.maps)
    sentence = (
        f"No map is called faithful, as the model's predictions are not shown to be better than chance: "
        f"{correct.mean():.0%} of {counted(len(correct), 'image')} are right, and guessing gets {chance:.0%}."
    )
    return replace(found, maps=rows, sentence=sentence)


def _is_above(chance: float, correct: NDArray[np.bool_], groups: Groups) -> bool:
    """Whether more images are right than by chance, at 5 %: exactly, or by groups where there are some."""
    from scipy.stats import binomtest

    if groups is None:
        return bool(binomtest(int(correct.sum()), len(correct), chance, alternative="greater").pvalue < 0.05)
    return effect_by_group(correct[None].astype(np.float64) - chance, groups, confidence=0.9).low > 0


def affordable(model: nn.Module, inputs: Tensor, passes: int) -> int:
    """How many of the inputs can be measured with that many forward passes each; the same on every machine."""
    macs = max(count_macs(model, tuple(inputs.shape[1:])), 1)
    return min(len(inputs), max(FEWEST_IMAGES, int(MOST_MACS / (macs * passes))))


def _part(maps: dict[str, Floats], positions: Any) -> dict[str, Floats]:
    return {name: found[positions] for name, found in maps.items()}


def _examples(subject: Subject, folder: Path, count: int, *, has_cam: bool) -> tuple[Example, ...]:
    """Chosen among at most MOST_IMAGES images."""
    view = subject.view.some(MOST_IMAGES)
    inputs = inputs_of(subject.model, view)
    plainly = None if subject.plain is None else predict_probabilities(subject.plain, inputs)
    positions = choose_examples(predict_probabilities(subject.model, inputs), view.labels, count, plain=plainly)
    return examples(subject.model, subject.plain, view, positions, folder, with_cam=has_cam)
