"""Run a classifier over images and measure it."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from ..config import Preprocessing
from ..data import Batch, ImageSet, Loader, build_transform, make_loader
from ..errors import NotFiniteError, RunError
from ..sealing import MOST_NAMES_BYTES, changed, check_seal, write_sealed
from ..surgery import check_live
from ..untrusted import open_tensors
from .distributed import World
from .oom import Portions
from .precision import Precision

PREDICTIONS_FILE = "predictions.safetensors"
PREDICTIONS_FORMAT = "2"


@dataclass(frozen=True)
class Evaluation:
    """Predictions for every image of a split.

    Attributes:
        probabilities: (N, K) float32.
        labels: (N,) int64.
        ids: one per image.
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,), whether the most probable class is the true one."""
        return np.asarray(self.probabilities.argmax(1) == self.labels)

    @property
    def top1(self) -> float:
        return float(self.correct.mean())

    @property
    def loss(self) -> float:
        """Mean negative log likelihood in nats."""
        true = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.clip(true, 1e-12, None)).mean())

    def top(self, k: int) -> float:
        """Part of the images whose true class is among the k most probable."""
        best = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return float((best == self.labels[:, None]).any(1).mean())

    def calibration_error(self, bins: int = 15) -> float:
        """Expected calibration error with bins of equal width (Guo et al., arXiv:1706.04599)."""
        confidence = self.probabilities.max(1)
        which = np.minimum((confidence * bins).astype(int), bins - 1)
        gaps = [abs(self.correct[which == b].mean() - confidence[which == b].mean()) for b in np.unique(which)]
        return float(np.dot(gaps, [np.mean(which == b) for b in np.unique(which)]))

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """The numbers for `run.json`."""
        per_class = []
        for index, name in enumerate(classes):
            mine = self.labels == index
            top1 = float(self.correct[mine].mean()) if mine.any() else None
            per_class.append({"class": name, "top1": top1, "images": int(mine.sum())})
        return {
            "images": len(self.labels),
            "top1": self.top1,
            "top5": self.top(5) if len(classes) > 5 else None,
            "loss": self.loss,
            "ece": self.calibration_error(),
            "per_class": per_class,
        }

    def write(self, path: Path) -> None:
        """Write `predictions.safetensors`."""
        tensors: dict[str, NDArray[Any]] = {"probabilities": self.probabilities, "labels": self.labels}
        metadata = {"format": PREDICTIONS_FORMAT, "ids": json.dumps(self.ids)}
        write_sealed(path, lambda temporary, sealed: save_file(tensors, temporary, sealed), metadata)

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Read `predictions.safetensors`.

        Raises:
            RunError: missing or damaged.
        """
        try:
            sealed = check_seal(path, MOST_NAMES_BYTES)
            with open_tensors(path, "np", MOST_NAMES_BYTES) as tensors:
                header = tensors.metadata() or {}
                if not sealed and "format" in header:  # the first files had neither
                    raise changed(path)
                ids = tuple(json.loads(header["ids"]))
                found = cls(tensors.get_tensor("probabilities"), tensors.get_tensor("labels"), ids)
        except RunError:
            raise
        except Exception as error:  # safetensors and NumPy raise many kinds for a damaged file
            raise RunError(f"{path} cannot be read ({error}): train this run again.") from None
        if not len(found.probabilities) == len(found.labels) == len(ids):
            raise RunError(f"{path} has predictions and labels of different lengths: train this run again.")
        return found


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own mode as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def evaluate(
    model: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 64,
    precision: Precision | None = None,
    device: torch.device | None = None,
    workers: int = 0,
    world: World | None = None,
    portions: Portions | None = None,
    before_batch: Callable[[], None] | None = None,
) -> Evaluation:
    """Predict every image of a split; the model's modes are as before afterwards.

    Where memory does not suffice for a batch, it is predicted in parts. `before_batch` is called equally often in all
    processes; what it raises ends the evaluation.

    Raises:
        GraftError: a graft is not live, so that another model would be measured.
        NotFiniteError: an answer is not finite.
        TrainingError: memory does not suffice for one image.
    """
    check_live(model)
    world, precision, portions = world or World(), precision or Precision(), portions or Portions()
    device = device or next(model.parameters()).device
    mine = _share(len(images), batch_size, world)
    transform = build_transform("none", preprocessing, train=False)
    loader = make_loader(images.select(mine), transform, batch_size=batch_size, workers=workers) if mine else None
    parts, most = [], -(-len(images) // batch_size)
    with torch.no_grad(), in_eval_mode(model), precision.autocast(device), closing(_batches(loader)) as batches:
        for _ in range(-(-most // world.size)):
            if before_batch is not None:
                before_batch()
            batch = next(batches, None)
            if batch is not None:
                inputs = batch.images.to(device, memory_format=precision.memory_format)
                parts.append(portions.do(partial(_predict, model, inputs), len(inputs), "the evaluation"))
    rows: dict[int, NDArray[np.float32]] = {}
    for positions, found in world.gather((mine, np.concatenate(parts) if parts else ())):
        rows.update(zip(positions, found, strict=True))
    probabilities = np.stack([rows[position] for position in range(len(images))])
    if not np.isfinite(probabilities).all():
        raise NotFiniteError(
            "the model's answers are not finite, so it has diverged: lower the learning rate (lr_scale)."
        )
    return Evaluation(probabilities, np.asarray(images.labels, dtype=np.int64), images.ids)


def _batches(loader: Loader | None) -> Generator[Batch, None, None]:
    if loader is not None:
        yield from loader


def _predict(model: nn.Module, images: Tensor, most: int) -> NDArray[np.float32]:
    """(N, K) probabilities, at most so many images at a time."""
    return np.concatenate([model(part).float().softmax(1).cpu().numpy() for part in images.split(most)])


def _share(count: int, batch_size: int, world: World) -> list[int]:
    """This process's images: every so-manieth whole batch, so that a prediction does not depend on the processes."""
    return [position for position in range(count) if position // batch_size % world.size == world.rank]
