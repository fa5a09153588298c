"""Find objects in images of any size with a trained detector: boxes in pixels of each image."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backbones import stated_preprocessing
from ..config import Preprocessing
from ..data.geometry import framing
from ..data.model_inputs import Images, InputReader
from ..errors import ConfigError
from ..settings import MachineSettings
from ..surgery import check_live, load, main_output
from ..tasks import task_of
from ..training import parse_precision
from ..training.evaluate import in_eval_mode, run_on_images
from .predict import precision_of, read_images

COLUMNS = ("image", "class", "score", "x0", "y0", "x1", "y1")


class DetectedObjects(NamedTuple):
    """The objects of an image, best score first: `boxes` (n, 4) x0 y0 x1 y1 in pixels of the image, `scores`, `classes`."""

    name: str
    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    classes: tuple[str, ...]


def detect(
    run_or_model: str | Path | nn.Module,
    images: Images,
    *,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    least_score: float = 0.05,
    batch_size: int = 8,
    skip_broken: bool = False,
    skipped: list[tuple[str, str]] | None = None,
    device: str = "cpu",
    precision: str = "auto",
) -> Iterator[DetectedObjects]:
    """Find objects in images one after the other, at most 100 in each.

    Args:
        run_or_model: a run folder, a saved model, or a model, trained for detection.
        images: as for `predict`.
        preprocessing: as for `predict`.
        least_score: leave out objects with a lower score.
        batch_size: images per forward pass.
        skip_broken: leave out files that cannot be read.
        skipped: gets (name, reason) of these.
        device, precision: as for `predict`.

    Raises:
        ConfigError: the model is for another task, or a score outside of 0 to 1.
        DataError: an image that cannot be read.
    """
    if not 0 <= least_score <= 1:
        raise ConfigError(f"least_score is {least_score}: expected 0 to 1.")
    chosen, where = parse_precision(precision), MachineSettings(device=device).resolve_device()
    model = run_or_model if isinstance(run_or_model, nn.Module) else load(run_or_model)
    check_live(model)
    task = task_of(model)
    if task.reads != "detection":
        raise ConfigError(
            f"the model is trained for {task.name}: expected one for detection; predict has no boxes here."
        )
    if chosen is None:
        path = Path() if isinstance(run_or_model, nn.Module) else Path(run_or_model).expanduser()
        chosen = precision_of(path, where)
    model = model.to(where).to(memory_format=chosen.memory_format)  # type: ignore[call-overload]
    reader = InputReader(stated_preprocessing(model, preprocessing), whole=True)
    left_out: list[tuple[str, str]] = [] if skipped is None else skipped
    read = (_prepared(reader, *one) for one in read_images(reader, images, skip_broken, left_out))
    while batch := list(islice(read, batch_size)):
        inputs = reader.batch([one.input for one in batch]).to(where, memory_format=chosen.memory_format)
        with torch.no_grad(), in_eval_mode(model), chosen.autocast(where):
            outputs = main_output(run_on_images(model, inputs))
        task.check(outputs)
        for one, found in zip(batch, outputs.float().cpu().numpy().astype(np.float64), strict=True):
            found = found[(found[:, 5] >= 0) & (found[:, 4] >= least_score)]
            boxes = _in_image(found[:, :4], one, reader.preprocessing)
            names = tuple(task.outputs[int(label)] for label in found[:, 5])
            yield DetectedObjects(one.name, boxes, found[:, 4].astype(np.float32), names)


class _Image(NamedTuple):
    """An image at the size of the input, with its height and width before and as a data set stores it."""

    name: str
    input: Tensor
    size: tuple[int, int]
    stored: tuple[int, int]


def _prepared(reader: InputReader, name: str, pixels: NDArray[Any]) -> _Image:
    stored = reader.shrunk(pixels)
    arranged = reader.transform.arrange(stored)
    return _Image(name, arranged, (pixels.shape[0], pixels.shape[1]), (stored.shape[1], stored.shape[2]))


def _in_image(boxes: NDArray[np.float64], image: _Image, preprocessing: Preprocessing) -> NDArray[np.float64]:
    """Boxes (n, 4) in pixels of the input, in pixels of the image, cut at its border."""
    (height, width), frame = image.size, framing(*image.stored, preprocessing)
    across = frame.first.width / frame.width * width / image.stored[1]
    down = frame.first.height / frame.height * height / image.stored[0]
    corner = np.array([frame.second.left, frame.second.top] * 2)
    start = np.array([frame.first.left * width / image.stored[1], frame.first.top * height / image.stored[0]] * 2)
    moved = (boxes + corner) * np.array([across, down] * 2) + start
    return np.clip(moved, 0, np.array([width, height] * 2))


def to_coco(found: Iterable[DetectedObjects], classes: Sequence[str]) -> str:
    """Objects in COCO's format of results, a JSON list.

    `image_id` is the number that a file is called, as COCO's are, else its name; `category_id` is the position of the
    class, which `category` names; `bbox` is x0, y0, width and height.
    """
    entries = []
    for image in found:
        stem = Path(image.name).stem
        for box, score, name in zip(image.boxes, image.scores, image.classes, strict=True):
            x0, y0, x1, y1 = (float(value) for value in box)
            entries.append(
                {
                    "image_id": int(stem) if stem.isdecimal() else image.name,
                    "category_id": classes.index(name),
                    "category": name,
                    "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
                    "score": round(float(score), 6),
                }
            )
    return json.dumps(entries, indent=1)


def to_csv(found: Iterable[DetectedObjects]) -> str:
    """A line for each object: image, class, score and the corners of its box in pixels of the image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for image in found:
        for box, score, name in zip(image.boxes, image.scores, image.classes, strict=True):
            writer.writerow([image.name, name, f"{score:.6f}", *(f"{value:.2f}" for value in box)])
    return text.getvalue()
