"""Segment images of any size with a trained network: masks at the size of each image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones import stated_preprocessing
from ..config import Preprocessing
from ..data.geometry import framing
from ..data.masks import IGNORED
from ..data.model_inputs import Images, InputReader
from ..data.pixel_store import as_tensor
from ..data.transforms import ImageTransform, build_transform
from ..errors import ConfigError
from ..settings import MachineSettings
from ..surgery import check_live, load, main_output
from ..tasks import task_of
from ..tasks.segmentation import class_map, class_probabilities
from ..training import Precision, parse_precision
from ..training.evaluate import in_eval_mode, run_on_images
from .predict import read_images

OVERLAP = 0.25  # of a tile's side
SMALLEST_TILE = 16


class SegmentedImage(NamedTuple):
    """A mask (H, W) uint8: the class of each pixel of the image; 255 where the input did not reach."""

    name: str
    mask: NDArray[np.uint8]


def segment(
    run_or_model: str | Path | nn.Module,
    images: Images,
    *,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    tile: int | None = None,
    batch_size: int = 8,
    skip_broken: bool = False,
    skipped: list[tuple[str, str]] | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Iterator[SegmentedImage]:
    """Segment images one after the other; logits are brought to the size of each image before classes are chosen.

    Args:
        run_or_model: a run folder, a saved model, or a model, trained for segmentation.
        images: as for `predict`.
        preprocessing: as for `predict`.
        tile: cut images of which a side is longer than this many pixels into overlapping squares of that side, each of
            which becomes an input; probabilities are averaged where they overlap, the middle of a tile counting most.
        batch_size: inputs per forward pass.
        skip_broken: leave out files that cannot be read.
        skipped: gets (name, reason) of these.
        device, precision: as for `predict`.

    Raises:
        ConfigError: the model is for another task, or a tile of fewer than 16 pixels.
        DataError: an image that cannot be read.
    """
    if tile is not None and tile < SMALLEST_TILE:
        raise ConfigError(f"tile is {tile}: expected at least {SMALLEST_TILE} pixels.")
    where = MachineSettings(device=device).resolve_device()
    model = run_or_model if isinstance(run_or_model, nn.Module) else load(run_or_model)
    check_live(model)
    task = task_of(model)
    if task.reads != "segmentation":
        raise ConfigError(
            f"the model is trained for {task.name}: expected one for segmentation; predict has no masks here."
        )
    reader = InputReader(stated_preprocessing(model, preprocessing), whole=True)
    chosen = parse_precision(precision) or Precision()
    network = _Network(model.to(where), reader, where, chosen, batch_size)
    pictures = read_images(reader, images, skip_broken, [] if skipped is None else skipped)
    return (SegmentedImage(name, network.mask(pixels, tile)) for name, pixels in pictures)


class _Network:
    """Runs the model on inputs of images."""

    def __init__(
        self, model: nn.Module, reader: InputReader, device: torch.device, precision: Precision, batch_size: int
    ) -> None:
        self.model = model
        self.reader = reader
        self.device = device
        self.precision = precision
        self.batch_size = batch_size

    def mask(self, pixels: NDArray[Any], tile: int | None) -> NDArray[np.uint8]:
        """The mask of an image (H, W, C), from tiles where a side is longer than they are."""
        if tile is not None and max(pixels.shape[:2]) > tile:
            return self.in_tiles(pixels, tile)
        return self.whole(pixels)

    def whole(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """The mask of an image (H, W, C) that is one input."""
        stored = self.reader.shrunk(pixels)
        (logits,) = self._logits([stored], self.reader.transform)
        return _unframed(logits, (stored.shape[1], stored.shape[2]), pixels.shape[:2], self.reader.preprocessing)

    def in_tiles(self, pixels: NDArray[Any], tile: int) -> NDArray[np.uint8]:
        """The mask of an image (H, W, C) from overlapping tiles."""
        height, width = pixels.shape[:2]
        padded = replace(self.reader.preprocessing, resize="pad")  # all of a tile is seen
        transform = build_transform("none", padded, train=False)
        image, total = as_tensor(pixels).permute(2, 0, 1), None
        corners = iter([(top, left) for top in starts(height, tile) for left in starts(width, tile)])
        while batch := list(islice(corners, self.batch_size)):
            parts = [image[:, top : top + tile, left : left + tile] for top, left in batch]
            for (top, left), part, logits in zip(batch, parts, self._logits(parts, transform), strict=True):
                rows, columns = part.shape[1:]
                sized = _fitted(logits, (rows, columns), padded)
                weight = torch.outer(_weights(rows), _weights(columns))
                if total is None:
                    total = torch.zeros(len(logits), height, width)
                total[:, top : top + rows, left : left + columns] += weight * class_probabilities(sized)
        assert total is not None
        return class_map(total)

    def _logits(self, images: list[Tensor], transform: ImageTransform) -> Tensor:
        """(N, K, rows, columns) float32 on the CPU, at the size of the input, of images (C, H, W)."""
        arranged = [transform.arrange(image) for image in images]
        inputs = transform.batch(arranged).to(self.device, memory_format=self.precision.memory_format)
        with torch.no_grad(), in_eval_mode(self.model), self.precision.autocast(self.device):
            outputs = main_output(run_on_images(self.model, inputs)).float()
        return F.interpolate(outputs, size=inputs.shape[-2:], mode="bilinear", align_corners=False).cpu()


def starts(length: int, tile: int) -> list[int]:
    """Where tiles begin along a side: they overlap by at least a quarter and end with the side.

    >>> starts(100, 64), starts(64, 64), starts(30, 64)
    ([0, 36], [0], [0])
    """
    if length <= tile:
        return [0]
    count = math.ceil((length - tile) / (tile * (1 - OVERLAP))) + 1
    return [round(number * (length - tile) / (count - 1)) for number in range(count)]


def _weights(length: int) -> Tensor:
    """(length,) from nearly 0 at both ends to 1 in the middle."""
    places = (torch.arange(length) + 0.5) / length
    return torch.minimum(places, 1 - places) * 2


def _unframed(
    logits: Tensor, stored: tuple[int, int], size: tuple[int, ...], preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """The mask of an image of height and width `size`, from logits (K, rows, columns) of its input."""
    frame = framing(*stored, preprocessing)
    top, left = max(0, frame.second.top), max(0, frame.second.left)
    bottom = min(frame.height, frame.second.top + frame.second.height)
    right = min(frame.width, frame.second.left + frame.second.width)
    inside = logits[
        :,
        top - frame.second.top : bottom - frame.second.top,
        left - frame.second.left : right - frame.second.left,
    ]
    down, across = (whole / part for whole, part in zip(size, stored, strict=True))  # from stored pixels to the image's
    rows = [(frame.first.top + edge * frame.first.height / frame.height) * down for edge in (top, bottom)]
    columns = [(frame.first.left + edge * frame.first.width / frame.width) * across for edge in (left, right)]
    (y0, y1), (x0, x1) = (tuple(map(round, ends)) for ends in (rows, columns))
    found = np.full(size, IGNORED, dtype=np.uint8)
    sized = F.interpolate(inside[None], size=(y1 - y0, x1 - x0), mode="bilinear", align_corners=False)
    found[y0:y1, x0:x1] = class_map(sized[0])
    return found


def _fitted(logits: Tensor, size: tuple[int, int], preprocessing: Preprocessing) -> Tensor:
    """Logits (K, rows, columns) of an input in which a tile was padded, at the tile's size."""
    frame = framing(*size, preprocessing)
    top, left = -frame.second.top, -frame.second.left
    inside = logits[:, top : top + frame.height, left : left + frame.width]
    return F.interpolate(inside[None], size=size, mode="bilinear", align_corners=False)[0]
