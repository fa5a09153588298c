"""Predict images with a run, or with any model."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backbones import assumed_preprocessing, stated_preprocessing
from ..config import Preprocessing
from ..data import Dataset, Images, InputReader, UnreadableImageError, printable
from ..data.labelled_images import check_labels, labels_of
from ..data.model_inputs import check_there
from ..data.sources import mirrorable
from ..data.targets import ClassLabels
from ..data_frames import data_frame
from ..errors import ConfigError, DataError, counted
from ..files import to_json
from ..settings import MachineSettings
from ..surgery import check_live, load
from ..surgery.model_output import main_output
from ..tasks import Rows, Task, primary, require, task_of
from ..tasks.contract import check_matrix
from ..training import RunFolder
from ..training.evaluate import in_eval_mode, run_on_images
from ..training.precision import Precision, parse_precision


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for some images.

    Attributes:
        ids: path of every image; its position for one without a path.
        rows: arrays whose first axis counts the images; which they are is up to the task.
        task: what was predicted.
        notes: sentences on what was noticed.
        skipped: (path or position, reason) of every image that could not be read.
        labels: the true class of every image where labels were given, "" for one without.
    """

    ids: tuple[str, ...]
    rows: Rows
    task: Task
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def labelled(self) -> int:
        """How many images have a label."""
        return sum(map(bool, self.labels))

    @property
    def score(self) -> float:
        """The task's primary metric, accuracy for classification, on the images that have a label.

        Raises:
            DataError: there are no labels.
        """
        return primary(self.task).value(self._labelled_rows())

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

    def to_frame(self, k: int = 1) -> Any:
        """The lines of `to_csv` as a pandas.DataFrame, numbers as numbers.

        Raises:
            ConfigError: pandas is not installed.
        """
        return data_frame({"image": name, **_flat(entry, digits=None)} for name, entry in self._entries(k))

    def to_json(self, k: int = 1) -> str:
        """A list of objects with the image's path and what is predicted for it, at most k classes."""
        return to_json([{"image": name, **entry} for name, entry in self._entries(k)]).rstrip("\n")

    def _entries(self, k: int) -> Iterator[tuple[str, dict[str, Any]]]:
        entries = self.task.readable(self.rows, min(k, len(self.classes)))
        if self.labels:
            entries = [{**entry, "label": label} for entry, label in zip(entries, self.labels, strict=True)]
        return zip(self.ids, entries, strict=True)

    def _labelled_rows(self) -> Rows:
        kept = [position for position, label in enumerate(self.labels) if label]
        if not kept:
            raise DataError("no image has a label: give labels, a folder of class folders or a CSV with path,label.")
        targets = ClassLabels.named([self.labels[position] for position in kept], self.classes)
        return {name: array[kept] for name, array in self.rows.items()} | self.task.target_rows(targets)


def predict(
    run_or_model: str | Path | nn.Module,
    images: Images,
    *,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    labels: str | Path | None = None,
    batch_size: int = 32,
    skip_broken: bool = False,
    device: str = "cpu",
    precision: str = "auto",
    tta: bool = False,
) -> Predictions:
    """Predict images, as evaluation does: the test images of a run have the predictions that the run has kept.

    Args:
        run_or_model: a run folder, a saved model, or a model, which is taken for a classifier where it does not say.
        images: one image or several, not normalised: a path, the bytes of a file, an open file, a PIL image, an array
            (H, W, C) or a tensor (C, H, W) of uint8, or of floats of 0 to 1; a folder (searched through); a CSV file
            of paths; a batch (N, H, W, C) or (N, C, H, W); or a `Dataset` (its test images).
        labels: where the true classes of image files are: a folder of class folders, or a CSV file with path,label.
        preprocessing: how the model wants its images, where it does not say: a `Preprocessing` or some of its fields, for
            example {"image_size": 64, "mean": 0.5, "std": 0.5}. What is assumed without it stands in `notes`.
        batch_size: images per forward pass.
        skip_broken: leave out files that cannot be read, and report them, instead of stopping.
        device: where to compute: "auto", "cpu", "cuda", "mps".
        precision: "auto" for that of the run (fp32 where there is none, or it was trained on another kind of
            device in bf16), or as in training: "fp32", "bf16", "fp32+contiguous", ...
        tta: predict the mean over views of each image: as evaluation sees it, where that crops the four corners too, and
            their mirror images, but for data in which these are known to mean something else: digits.

    Raises:
        DataError: no images, or one that cannot be read; or the model has another number of outputs than of names; or
            none of the images has a label, or one that the model does not know.
        RunError: as for `load`.
        ConfigError: an unknown precision or device.
    """
    chosen, where = parse_precision(precision), MachineSettings(device=device).resolve_device()
    check_there(images)
    if labels is not None:
        check_labels(labels)
    model = run_or_model if isinstance(run_or_model, nn.Module) else load(run_or_model)
    check_live(model)
    if chosen is None:
        chosen = (
            Precision() if isinstance(run_or_model, nn.Module) else precision_of(Path(run_or_model).expanduser(), where)
        )
    task = task_of(model)
    if task.reads == "detection":
        raise ConfigError("the model finds boxes: ask for them (--boxes FILE, in Python attngraft.detect).")
    if tta:
        require(task, "tta", "tta")
    is_mirrored = tta and _may_mirror(run_or_model, images)
    reader = InputReader(stated_preprocessing(model, preprocessing), views=tta)
    assumed = assumed_preprocessing(model) if preprocessing is None else None
    true = None if labels is None else _true_classes(labels, task, reader)
    model = model.to(where)
    if chosen.layout != "contiguous":
        model = model.to(memory_format=chosen.memory_format)  # type: ignore[call-overload]
    forward = _forward(model, task)
    names: list[str] = []
    parts: list[Rows] = []
    skipped: list[tuple[str, str]] = []
    read = read_images(reader, images, skip_broken, skipped)
    with torch.no_grad(), in_eval_mode(model), chosen.autocast(where):
        while batch := list(islice(read, batch_size)):
            names += [name for name, _ in batch]
            inputs = reader.batch([image for _, image in batch])
            predicted = [
                task.rows(forward, view.to(where, memory_format=chosen.memory_format))
                for view in (_views(inputs, is_mirrored) if tta else (inputs,))
            ]
            parts.append(task.averaged(predicted) if tta else predicted[0])
    if not parts:
        raise DataError("none of the images can be read: give at least one image file.")
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not task.outputs:
        task = replace(task, outputs=tuple(map(str, range(rows["probabilities"].shape[1]))))  # type: ignore[type-var]
    told = () if true is None else _labels_of(names, true)
    return Predictions(tuple(names), rows, task, tuple(skipped), _notes(reader, len(names), assumed), told)


def _may_mirror(run_or_model: str | Path | nn.Module, images: Any) -> bool:
    """Whether mirror images mean the same, as far as images and run tell."""
    if isinstance(images, Dataset) and not images.mirrorable:
        return False
    if isinstance(run_or_model, nn.Module) or (folder := _run_folder(run_or_model)) is None:
        return True
    origin = RunFolder(folder).read().data.origin
    return origin is None or mirrorable(origin.source)


def _views(inputs: Tensor, is_mirrored: bool) -> Iterator[Tensor]:
    """The views (N, C, H, W) of the images (N, V, C, H, W), and their mirror images."""
    for view in inputs.unbind(1):
        yield view
        if is_mirrored:
            yield view.flip(-1)


def _true_classes(labels: str | Path, task: Task, reader: InputReader) -> dict[Path, str]:
    if task.reads != "classification" or not task.outputs:
        what = f"predicts {task.name}" if task.outputs else "does not know the names of its classes"
        raise DataError(f"labels are for models with named classes, and this one {what}: leave them out.")
    return labels_of(labels, task.outputs, reader.preprocessing.channels)


def _labels_of(names: Sequence[str], true: Mapping[Path, str]) -> tuple[str, ...]:
    found = tuple(true.get(Path(name).resolve(), "") for name in names)
    if not any(found):
        example = printable(str(next(iter(true))))
        raise DataError(
            f"none of the images has a label (first image {printable(names[0])}, first label of {example}): give labels of "
            "these files; paths in a CSV file are relative to it."
        )
    return found


def _notes(reader: InputReader, count: int, assumed: str | None) -> tuple[str, ...]:
    notes = () if assumed is None else (f"{assumed}.",)
    if not reader.clipped:
        return notes
    return (
        *notes,
        f"{len(reader.clipped)} of {counted(count, 'image')} have values beyond those that are black and white since training, which "
        f"were clipped (first {printable(reader.clipped[0])}).",
    )


def precision_of(path: Path, device: torch.device) -> Precision:
    """The precision in which a run was evaluated; a file or a store does not say, so it is fp32."""
    folder = _run_folder(path)
    if folder is None:
        return Precision()
    record = RunFolder(folder).read()
    found = record.precision or Precision()
    is_same_kind = (record.hardware.get("gpu") is None) == (device.type == "cpu")
    return found if is_same_kind else Precision("fp32", found.layout)


def _run_folder(path: str | Path) -> Path | None:
    """The folder of the run that a model is read from; None where it is of no run."""
    place = Path(path).expanduser()
    folder = place.parent if place.is_file() else place
    return folder if (folder / "run.json").is_file() else None


def _forward(model: nn.Module, task: Task) -> Callable[[Tensor], Tensor]:
    """Images to the main output, which must have as many columns as the task has names."""

    def forward(images: Tensor) -> Tensor:
        outputs = main_output(run_on_images(model, images))
        if task.reads == "segmentation":
            task.check(outputs)
            return outputs
        check_matrix(outputs, "classes")
        if not task.outputs and outputs.shape[1] == 1:
            raise DataError(
                "the model has a single output, from which no class follows: give it one per class, or say what it "
                "predicts (attngraft.surgery.note_task_)."
            )
        if task.outputs and outputs.shape[1] != len(task.outputs):
            raise DataError(
                f"the model has {outputs.shape[1]} logits and {len(task.outputs)} names for them: name each "
                "(attngraft.surgery.note_classes_)."
            )
        return outputs

    return forward


def _flat(entry: Mapping[str, Any], digits: int | None = 6) -> dict[str, Any]:
    """The cells of a line: ranked classes numbered from 1, names joined, a column for each named number."""
    cells: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "top":
            for rank, best in enumerate(value, start=1):
                (what, number), *_ = ((key, part) for key, part in best.items() if key != "class")
                cells |= {f"class_{rank}": best["class"]}
                cells |= {f"{what}_{rank}": number if digits is None else f"{number:.{digits}f}"}
        elif isinstance(value, Mapping):
            cells |= value
        else:
            cells[key] = "|".join(value) if isinstance(value, list) else value
    return cells


def read_images(
    reader: InputReader, images: Images, skip_broken: bool, skipped: list[tuple[str, str]]
) -> Iterator[tuple[str, Any]]:
    """The name of each image and what the reader makes of it; with `skip_broken`, broken ones go to `skipped` instead."""
    for name, read in reader.named(images):
        try:
            image = read()
        except UnreadableImageError as error:
            if not skip_broken:
                raise
            skipped.append((name, error.reason))
            continue
        yield name, image
