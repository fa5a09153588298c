"""The test images with the largest losses, kept as thumbnails in the run folder, for its page."""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..checksums import read_sealed_json, write_sealed_json
from ..config import Preprocessing, from_dict, to_dict
from ..data import ImageSet, rgb_preview
from ..data.overlays import drawn_boxes, painted_masks
from ..errors import ConfigError, RunError
from ..tasks.contract import BoxPicturing, Picturing
from .evaluate import Evaluation

TOP_LOSSES_FILE = "top_losses.json"
MOST = 12
SIDE = 144  # pixels of the longer side: about 5 KB each as JPEG
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TopLoss:
    """A test image, and how wrong the model is about it.

    Attributes:
        id: of the image.
        loss: of the task, as validation counts it.
        true, predicted: in words.
        probability: of what is predicted; None for tasks without classes.
        image: a small JPEG in base64.
    """

    id: str
    loss: float
    true: str
    predicted: str
    probability: float | None
    image: str


@dataclass(frozen=True)
class TopLosses:
    """The content of `top_losses.json`, largest first."""

    images: tuple[TopLoss, ...]
    kind: str = "top losses"


def write_top_losses(folder: Path, images: ImageSet, evaluation: Evaluation, preprocessing: Preprocessing) -> None:
    """Keep the images with the largest losses; where the disk is full, the run does without them.

    Args:
        folder: of the run.
        images: of the evaluation, in its order.
        evaluation: predictions for them.
        preprocessing: of the network.
    """
    try:
        write_sealed_json(
            folder / TOP_LOSSES_FILE, to_dict(top_losses(images, evaluation, preprocessing=preprocessing))
        )
    except RunError as error:
        log.warning("the images with the largest losses were not kept: %s", error)


def top_losses(
    images: ImageSet, evaluation: Evaluation, most: int = MOST, *, preprocessing: Preprocessing | None = None
) -> TopLosses:
    """The images with the largest losses, the first of equal ones first.

    Args:
        images: of the evaluation, in its order.
        evaluation: predictions for them.
        most: how many at most.
        preprocessing: of the network, for predictions that are painted over the image: truth, then prediction.
    """
    rows, task = evaluation.rows, evaluation.task
    losses = [task.loss_of({name: part[i : i + 1] for name, part in rows.items()}) for i in range(len(evaluation.ids))]
    worst = np.argsort(-np.asarray(losses), kind="stable")[:most]
    has_classes = {"probabilities", "labels"} <= set(rows)
    found = []
    for position in map(int, worst):
        predicted, true = task.caption(rows, position)
        probability = float(rows["probabilities"][position].max()) if has_classes else None
        image = _small(images.image(position))
        if isinstance(task, Picturing) and preprocessing is not None:
            image = painted_masks(images.image(position), task.pictures(rows, position), preprocessing, SIDE)
        elif isinstance(task, BoxPicturing) and preprocessing is not None:
            image = drawn_boxes(images.image(position), task.pictured_boxes(rows, position), preprocessing, SIDE)
        found.append(
            TopLoss(evaluation.ids[position], losses[position], true, predicted, probability, _in_base64(image))
        )
    return TopLosses(tuple(found))


def read_top_losses(folder: Path) -> tuple[TopLoss, ...]:
    """What was kept; nothing where the file is missing, damaged or of another kind."""
    try:
        document, is_sealed = read_sealed_json(folder / TOP_LOSSES_FILE)
        return from_dict(TopLosses, document, where=TOP_LOSSES_FILE).images if is_sealed else ()
    except (RunError, ConfigError, OSError):
        return ()


def _small(image: Tensor) -> Image.Image:
    """A stored image (C, H, W) as a thumbnail."""
    small = Image.fromarray(rgb_preview(image).permute(1, 2, 0).contiguous().numpy())
    small.thumbnail((SIDE, SIDE))
    return small


def _in_base64(picture: Image.Image) -> str:
    """A picture as JPEG in base64."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
