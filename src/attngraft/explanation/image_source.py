"""Batches of images as the model sees them, repeatable any number of times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backbones import preprocessing_of
from ..config import ImageSize, Preprocessing
from ..data import UNLABELLED, Dataset, ImageSet, build_transform, evenly_spread, load_images, make_loader, relabelled
from ..errors import ConfigError, DataError, GraftError
from ..surgery import check_live, classes_of, grafts, uncompiled
from ..tasks import Capability, require, task_of

BATCH = 64
Source = str | Path | Iterable[str | Path] | Dataset | ImageSet | Tensor


@dataclass(frozen=True, eq=False)
class View:
    """Images and their labels.

    Attributes:
        ids: one name per image.
        labels: (N,) int64, index into the classes; -1 where unknown.
        classes: of the model, in the order of its logits.
        images: the stored images; None where the view was made of a tensor.
        tensor: (N, C, H, W), images that were prepared already; None elsewhere.
        preprocessing: how stored images become inputs.
        root: folder that the ids are relative to; None where they are paths, or names of images without files.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    images: ImageSet | None = None
    tensor: Tensor | None = None
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_labelled(self) -> bool:
        return bool((self.labels != UNLABELLED).all())

    def batches(self, device: torch.device, *, size: int = BATCH) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Inputs (B, C, H, W) on the device, and the positions (B,) of these images; in order, the last may be short."""
        if self.tensor is not None:
            for start in range(0, len(self), size):
                part = self.tensor[start : start + size]
                yield part.to(device), np.arange(start, start + len(part))
            return
        assert self.images is not None
        transform = build_transform("none", self.preprocessing, train=False)
        for batch in make_loader(self.images, transform, batch_size=size):
            yield batch.images.to(device), batch.indices.numpy()

    def inputs(self, model: nn.Module, *, size: int = BATCH) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """As `batches`, on the model's device and in the type of its weights."""
        weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        for images, positions in self.batches(weight.device, size=size):
            yield images.to(weight.dtype), positions

    def select(self, positions: Iterable[int] | NDArray[np.int64]) -> View:
        """The images at these positions, in this order."""
        chosen = np.asarray(list(positions), dtype=np.int64)
        return View(
            tuple(self.ids[i] for i in chosen),
            self.labels[chosen],
            self.classes,
            self.preprocessing,
            None if self.images is None else self.images.select(chosen),
            None if self.tensor is None else self.tensor[torch.from_numpy(chosen)],
            self.root,
        )

    def some(self, count: int) -> View:
        """At most `count` images, evenly spread.

        Raises:
            ConfigError: count < 1.
        """
        if count < 1:
            raise ConfigError(f"the number of images is {count}: expected at least 1.")
        return self if count >= len(self) else self.select(evenly_spread(len(self), count))

    def input(self, position: int) -> Tensor:
        """One image as the model sees it: (C, H, W) on the CPU."""
        return next(self.select([position]).batches(torch.device("cpu")))[0][0]

    def require_labels(self, purpose: str) -> None:
        """Raise DataError unless every image has a label."""
        if not self.is_labelled:
            raise DataError(
                f"{purpose} needs labels, and these images have none: give a folder of class folders or a data set."
            )


def view_of(model: nn.Module, source: Source, *, image_size: ImageSize | None = None, **options: Any) -> View:
    """Open images for a model.

    Args:
        model: a classifier that attngraft trained, or any other one.
        source: see `load_images`; or a data set (its test images), one split, or prepared inputs (N, C, H, W).
        image_size: side of the input in pixels; that of the model's training where not given.
        **options: of `load_images`.

    Raises:
        DataError: no images, one that cannot be read, or classes that the model does not know.
    """
    preprocessing, classes = preprocessing_of(model, image_size), classes_of(model)
    if isinstance(source, Tensor):
        if source.dim() < 3 or not len(source) or not source.is_floating_point():
            raise DataError(
                f"got a tensor {tuple(source.shape)} of {source.dtype}: expected prepared images (N, C, H, W) of "
                "floating-point numbers."
            )
        labels = np.full(len(source), UNLABELLED, dtype=np.int64)
        return View(tuple(str(i) for i in range(len(source))), labels, classes, preprocessing, tensor=source)
    if isinstance(source, Dataset):
        images = relabelled(source.test, source.classes, classes or source.classes)
        classes = classes or source.classes
    elif isinstance(source, ImageSet):
        images = source
    else:
        images = load_images(source, classes, **preprocessing.read_options, **options)
    labels = np.asarray(images.labels, dtype=np.int64)
    if not len(images) or (classes and labels.max() >= len(classes)):
        got = f"labels up to {labels.max()} for a model of {len(classes)} classes" if len(images) else "no images"
        raise DataError(f"got {got}: give images of the classes that the model knows.")
    return View(images.ids, labels, classes, preprocessing, images=images, root=_root(source))


def _root(source: Source) -> Path | None:
    if isinstance(source, Dataset):
        source = source.origin.source if source.origin else ""
    folder = Path(source) if isinstance(source, (str, Path)) and source != "" else None
    return folder if folder is not None and folder.is_dir() else None


def grafted_view(
    model: nn.Module, source: Source | View, consequence: str, needs: tuple[Capability, str] | None = None
) -> tuple[nn.Module, View]:
    """The model that a compiled one wraps, and the images, for what looks into attention.

    Args:
        model: with live grafts.
        source: as for `view_of`, or a view.
        consequence: the rest of "the model has no grafts, so ...".
        needs: what the model's task must support, and what to call that in an error.

    Raises:
        GraftError: the model has no grafts, or one is not live.
        ConfigError: the task does not support this.
        DataError: the images cannot be had.
    """
    model = uncompiled(model)
    check_live(model)
    if needs is not None:
        require(task_of(model), *needs)
    if not grafts(model):
        raise GraftError(f"the model has no grafts, so {consequence}: graft it first.")
    return model, source if isinstance(source, View) else view_of(model, source)
