"""Classify images with a run, or with any classifier."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..backbones import preprocessing_of
from ..config import Preprocessing
from ..data import UnreadableImageError, build_transform, list_images, read_image
from ..errors import DataError
from ..files import to_json
from ..surgery import check_live, classes_of, load
from ..training import MachineSettings


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of some images.

    Attributes:
        ids: path of every image.
        classes: names in the order of the columns; numbers where the model does not know names.
        probabilities: (N, K) float32.
        skipped: (path, reason) of every file that could not be read.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    skipped: tuple[tuple[str, str], ...] = ()

    def top(self, k: int = 1) -> list[list[tuple[str, float]]]:
        """For every image its k most probable classes with their probabilities."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.classes[c], float(row[c])) for c in best]
            for row, best in zip(self.probabilities, order, strict=True)
        ]

    def to_csv(self, k: int = 1) -> str:
        """One line per image: path, then class and probability k times."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        k = min(k, len(self.classes))
        writer.writerow(["image", *(f"{word}{n}" for n in range(1, k + 1) for word in ("class_", "probability_"))])
        for name, best in zip(self.ids, self.top(k), strict=True):
            writer.writerow([name, *(v for c, p in best for v in (c, f"{p:.6f}"))])
        return text.getvalue()

    def to_json(self, k: int = 1) -> str:
        """A list of objects with the image's path and its k best classes."""
        rows = [
            {"image": name, "top": [{"class": c, "probability": round(p, 6)} for c, p in best]}
            for name, best in zip(self.ids, self.top(k), strict=True)
        ]
        return to_json(rows).rstrip("\n")


def predict(
    run_or_model: str | Path | nn.Module,
    images: str | Path | Iterable[str | Path],
    *,
    batch_size: int = 32,
    skip_broken: bool = False,
    device: str = "cpu",
) -> Predictions:
    """Classify image files.

    Args:
        run_or_model: a run folder, a saved model, or a classifier.
        images: a file, a folder (searched through), or several of them.
        batch_size: images per forward pass.
        skip_broken: leave out files that cannot be read, and report them, instead of stopping.
        device: where to compute: "auto", "cpu", "cuda", "mps".

    Raises:
        DataError: no images, or one that cannot be read; or the model has another number of logits than of classes.
        RunError: as for `load`.
    """
    where = MachineSettings(device=device).resolve_device()
    model, classes, preprocessing = _open(run_or_model)
    check_live(model)
    paths = list_images([images] if isinstance(images, (str, Path)) else images)
    model = model.to(where).eval()
    names: list[str] = []
    rows: list[NDArray[np.float32]] = []
    skipped: list[tuple[str, str]] = []
    for batch in _batches(_read(paths, preprocessing, skip_broken, skipped), batch_size):
        names += [name for name, _ in batch]
        with torch.no_grad():
            logits = model(torch.stack([image for _, image in batch]).to(where))
        rows.append(logits.float().softmax(1).cpu().numpy())
    if not rows:
        raise DataError("none of the images can be read: give at least one image file.")
    probabilities = np.concatenate(rows)
    classes = classes or tuple(str(number) for number in range(probabilities.shape[1]))
    if len(classes) != probabilities.shape[1]:
        raise DataError(
            f"the model has {probabilities.shape[1]} logits and {len(classes)} names for them: name each "
            "(attngraft.surgery.note_classes_)."
        )
    return Predictions(tuple(names), classes, probabilities, tuple(skipped))


def _open(run_or_model: str | Path | nn.Module) -> tuple[nn.Module, tuple[str, ...], Preprocessing]:
    """Model, class names and preprocessing; a trained model knows the size that it was trained at."""
    model = run_or_model if isinstance(run_or_model, nn.Module) else load(run_or_model)
    return model, classes_of(model), preprocessing_of(model)


def _read(
    paths: Sequence[Path], preprocessing: Preprocessing, skip_broken: bool, skipped: list[tuple[str, str]]
) -> Iterator[tuple[str, torch.Tensor]]:
    transform = build_transform("none", preprocessing, train=False)
    for path in paths:
        try:
            pixels = read_image(path)
        except UnreadableImageError as error:
            if not skip_broken:
                raise
            skipped.append((str(path), error.reason))
            continue
        yield str(path), transform(torch.from_numpy(pixels).permute(2, 0, 1))


def _batches(items: Iterator[tuple[str, torch.Tensor]], size: int) -> Iterator[list[tuple[str, torch.Tensor]]]:
    while batch := list(islice(items, size)):
        yield batch
