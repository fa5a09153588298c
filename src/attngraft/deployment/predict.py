"""Predict images with a run, or with any model."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backbones import preprocessing_of
from ..config import Preprocessing
from ..data import UnreadableImageError, as_tensor, build_transform, list_images, read_image
from ..errors import DataError
from ..files import to_json
from ..settings import MachineSettings
from ..surgery import check_live, load
from ..surgery.model_output import main_output
from ..tasks import Rows, Task, task_of


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for some images.

    Attributes:
        ids: path of every image.
        rows: arrays whose first axis counts the images; which they are is up to the task.
        task: what was predicted.
        skipped: (path, reason) of every file that could not be read.
    """

    ids: tuple[str, ...]
    rows: Rows
    task: Task
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, labels or targets; numbers where the model does not know names."""
        return self.task.outputs

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(N, K) of classes or labels."""
        return self.rows["probabilities"]

    def top(self, k: int = 1) -> list[list[tuple[str, float]]]:
        """The k most probable classes of each image with their probabilities."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.classes[c], float(row[c])) for c in best]
            for row, best in zip(self.probabilities, order, strict=True)
        ]

    def to_csv(self, k: int = 1) -> str:
        """A line per image: its path, then class and probability k times, or what else the task predicts."""
        text = io.StringIO()
        cells = [{"image": name, **_flat(entry)} for name, entry in self._entries(k)]
        writer = csv.DictWriter(text, list(cells[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)
        return text.getvalue()

    def to_json(self, k: int = 1) -> str:
        """A list of objects with the image's path and what is predicted for it, at most k classes."""
        return to_json([{"image": name, **entry} for name, entry in self._entries(k)]).rstrip("\n")

    def _entries(self, k: int) -> Iterator[tuple[str, dict[str, Any]]]:
        return zip(self.ids, self.task.readable(self.rows, min(k, len(self.classes))), strict=True)


def predict(
    run_or_model: str | Path | nn.Module,
    images: str | Path | Iterable[str | Path],
    *,
    batch_size: int = 32,
    skip_broken: bool = False,
    device: str = "cpu",
) -> Predictions:
    """Predict image files.

    Args:
        run_or_model: a run folder, a saved model, or a model, which is taken for a classifier where it does not say.
        images: a file, a folder (searched through), or several of them.
        batch_size: images per forward pass.
        skip_broken: leave out files that cannot be read, and report them, instead of stopping.
        device: where to compute: "auto", "cpu", "cuda", "mps".

    Raises:
        DataError: no images, or one that cannot be read; or the model has another number of outputs than of names.
        RunError: as for `load`.
    """
    where = MachineSettings(device=device).resolve_device()
    model = run_or_model if isinstance(run_or_model, nn.Module) else load(run_or_model)
    check_live(model)
    task, preprocessing = task_of(model), preprocessing_of(model)
    paths = list_images([images] if isinstance(images, (str, Path)) else images, preprocessing.channels)
    model = model.to(where).eval()
    forward = _forward(model, task)
    names: list[str] = []
    parts: list[Rows] = []
    skipped: list[tuple[str, str]] = []
    read = _read(paths, preprocessing, skip_broken, skipped)
    while batch := list(islice(read, batch_size)):
        names += [name for name, _ in batch]
        with torch.no_grad():
            parts.append(task.rows(forward, torch.stack([image for _, image in batch]).to(where)))
    if not parts:
        raise DataError("none of the images can be read: give at least one image file.")
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not task.outputs:
        task = replace(task, outputs=tuple(map(str, range(rows["probabilities"].shape[1]))))  # type: ignore[type-var]
    return Predictions(tuple(names), rows, task, tuple(skipped))


def _forward(model: nn.Module, task: Task) -> Callable[[Tensor], Tensor]:
    """Images to the main output, which must have as many columns as the task has names."""

    def forward(images: Tensor) -> Tensor:
        outputs = main_output(model(images))
        if task.outputs and outputs.shape[1] != len(task.outputs):
            raise DataError(
                f"the model has {outputs.shape[1]} logits and {len(task.outputs)} names for them: name each "
                "(attngraft.surgery.note_classes_)."
            )
        return outputs

    return forward


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a CSV line: ranked classes numbered from 1, names joined, a column for each named number."""
    cells: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "top":
            for rank, best in enumerate(value, start=1):
                cells |= {f"class_{rank}": best["class"], f"probability_{rank}": f"{best['probability']:.6f}"}
        elif isinstance(value, Mapping):
            cells |= value
        else:
            cells[key] = "|".join(value) if isinstance(value, list) else value
    return cells


def _read(
    paths: Sequence[Path], preprocessing: Preprocessing, skip_broken: bool, skipped: list[tuple[str, str]]
) -> Iterator[tuple[str, torch.Tensor]]:
    transform = build_transform("none", preprocessing, train=False)
    for path in paths:
        try:
            pixels = read_image(path, channels=preprocessing.channels)
        except UnreadableImageError as error:
            if not skip_broken:
                raise
            skipped.append((str(path), error.reason))
            continue
        yield str(path), transform(as_tensor(pixels).permute(2, 0, 1))
