"""Predict all images of a split, and compute metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from ..backbones import preprocessing_of
from ..checksums import MOST_NAMES_BYTES, changed, check_seal, write_sealed
from ..config import InputSpec, Preprocessing
from ..data import Batch, ImageSet, Loader, build_transform, make_loader
from ..errors import AttngraftError, DataError, NotFiniteError, RunError
from ..safetensors_files import open_tensors
from ..surgery import check_live
from ..surgery.input_errors import refused_images
from ..surgery.model_output import main_output
from ..tasks import Classification, Rows, Task, describe_task, find_metric, task_from, task_of
from ..tasks.classification import correct
from ..tasks.contract import Forward, Scoring
from .distributed import World
from .oom import Portions, is_out_of_memory
from .precision import Precision

MakeRows = Callable[[Forward, Tensor, Any], Rows]
PREDICTIONS_FILE = "predictions.safetensors"
PREDICTIONS_FORMAT = "2"


def run_on_images(model: nn.Module, images: Tensor, advice: str = "give images of a size that it takes") -> Any:
    """What the model returns for a batch of images (B, C, H, W).

    Raises:
        DataError: it does not take them; in its own words, with what to change.
    """
    try:
        return model(images)
    except AttngraftError:
        raise
    except Exception as error:  # a network's own reasons are of any kind
        if is_out_of_memory(error):
            raise
        _, channels, height, width = images.shape
        raise DataError(refused_images(model, InputSpec(channels, (height, width)), error, advice)) from error


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions for every image of a split.

    Attributes:
        rows: arrays whose first axis counts the images; which they are is up to the task.
        ids: one per image.
        task: what was predicted.
    """

    rows: Rows
    ids: tuple[str, ...]
    task: Task

    @property
    def loss(self) -> float:
        """By which validation decides."""
        return self.task.loss_of(self.rows)

    @property
    def score(self) -> float:
        """The value of the task's primary metric."""
        return self.value()

    def value(self, metric: str | None = None) -> float:
        """The value of a metric, the primary one where none is named."""
        return find_metric(self.task, metric).value(self.rows)

    def scores(self, metric: str | None = None) -> NDArray[np.float64]:
        """(N,) scores of the images whose mean is the value of the metric."""
        return find_metric(self.task, metric).scores(self.rows)

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(N, K) of the classes."""
        return self.rows["probabilities"]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) true classes."""
        return self.rows["labels"]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,), whether the most probable class is the true one."""
        return correct(self.rows)

    def summary(self) -> dict[str, Any]:
        """The numbers for `run.json`."""
        return self.task.summary(self.rows)

    def write(self, path: Path) -> None:
        """Write `predictions.safetensors`."""
        metadata = {"format": PREDICTIONS_FORMAT, "ids": json.dumps(self.ids)}
        record = describe_task(self.task)
        if record is not None:
            metadata["task"] = json.dumps({"outputs": self.task.outputs, **record})
        tensors = {name: np.ascontiguousarray(values) for name, values in self.rows.items()}
        write_sealed(path, lambda temporary, sealed: save_file(tensors, temporary, sealed), metadata)

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Read `predictions.safetensors`; classes are numbered, as the file does not know their names.

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
                rows = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
                found = cls(rows, ids, _task_in(header, rows))
        except RunError:
            raise
        except Exception as error:  # safetensors and NumPy raise many kinds for a damaged file
            raise RunError(f"{path} cannot be read ({error}): train this run again.") from None
        if any(len(values) != len(ids) for values in rows.values()):
            raise RunError(f"{path} has predictions and labels of different lengths: train this run again.")
        return found


def _task_in(header: Mapping[str, str], rows: Rows) -> Task:
    if "task" not in header:
        return Classification(tuple(map(str, range(rows["probabilities"].shape[1] if "labels" in rows else 0))))
    record = json.loads(header["task"])
    return task_from(record, record.pop("outputs"))


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


@dataclass(frozen=True)
class EvaluationContext:
    """How predictions are computed.

    Attributes:
        task: what is predicted.
        preprocessing: how the model wants its images.
        precision: number format and layout.
        device: where to compute; where the model is for None.
        batch_size: images at a time, over all processes.
        workers: processes that prepare images.
        world: the processes that share the images.
    """

    task: Task
    preprocessing: Preprocessing
    precision: Precision = field(default_factory=Precision)
    device: torch.device | None = None
    batch_size: int = 64
    workers: int = 0
    world: World = field(default_factory=World)

    @classmethod
    def of(cls, model: nn.Module, **fields: Any) -> EvaluationContext:
        """What the model itself says of its task and its images."""
        return cls(task_of(model), preprocessing_of(model), **fields)


def evaluate(
    model: nn.Module,
    images: ImageSet,
    context: EvaluationContext,
    *,
    portions: Portions | None = None,
    before_batch: Callable[[], None] | None = None,
) -> Evaluation:
    """Predict every image of a split; the model's modes are as before afterwards.

    Args:
        model: what predicts.
        images: of the split.
        context: of the training.
        portions: how many images at a time memory allows; a batch that does not fit is predicted in parts.
        before_batch: called equally often in all processes; what it raises ends the evaluation.

    Raises:
        GraftError: a graft is not live, so that another model would be measured.
        NotFiniteError: a prediction is not finite.
        TrainingError: memory does not suffice for one image.
    """
    rows = in_order(
        over_images(model, images, context, _rows_of(context.task), portions=portions, before_batch=before_batch),
        len(images),
    )
    for values in rows.values():
        if not np.isfinite(values).all():
            raise NotFiniteError(
                "the model's outputs are not finite, so it has diverged: lower the learning rate (lr_scale)."
            )
    return Evaluation({**rows, **context.task.target_rows(images.targets)}, images.ids, context.task)


def _rows_of(task: Task) -> MakeRows:
    """What is kept of the predictions for a batch; of some tasks only how well they fit the targets."""
    if isinstance(task, Scoring):
        return task.scored_rows
    return lambda model, inputs, _: task.rows(model, inputs)


def over_images(
    model: nn.Module,
    images: ImageSet,
    context: EvaluationContext,
    rows: MakeRows,
    *,
    portions: Portions | None = None,
    before_batch: Callable[[], None] | None = None,
    advance: Callable[[], None] | None = None,
) -> list[tuple[list[int], Rows]]:
    """Run the model in eval mode over images as evaluation reads them; its modes are as before afterwards.

    Args:
        model: what runs.
        images: of a split.
        context: of an evaluation.
        rows: (the model up to its main output, a batch (B, C, H, W), its targets) -> arrays that are joined along their
            first axis.
        portions: how many images at a time memory allows; a batch that does not fit is computed again in parts.
        before_batch: called equally often in all processes; what it raises ends the pass.
        advance: called after every batch of this process.

    Returns:
        for each process the positions of its images and its rows; the same in all processes.

    Raises:
        GraftError: a graft is not live, so that another model would be measured.
        TrainingError: memory does not suffice for one image.
    """
    check_live(model)
    portions, world, batch_size = portions or Portions(), context.world, context.batch_size
    device = context.device or next(model.parameters()).device
    mine = _share(len(images), batch_size, world)
    transform = build_transform("none", context.preprocessing, train=False)
    selected = images.select(mine)
    loader = make_loader(selected, transform, batch_size=batch_size, workers=context.workers) if mine else None
    parts, most = [], -(-len(images) // batch_size)
    autocast = context.precision.autocast(device)
    with torch.no_grad(), in_eval_mode(model), autocast, closing(_batches(loader)) as batches:
        for _ in range(-(-most // world.size)):
            if before_batch is not None:
                before_batch()
            batch = next(batches, None)
            if batch is not None:
                inputs = batch.images.to(device, memory_format=context.precision.memory_format)
                compute = partial(_in_parts, model, inputs, batch.targets, rows)
                parts.append(portions.do(compute, len(inputs), "the evaluation"))
                if advance is not None:
                    advance()
    return world.gather((mine, _joined(parts)))


def _batches(loader: Loader | None) -> Generator[Batch, None, None]:
    if loader is not None:
        yield from loader


def _in_parts(model: nn.Module, images: Tensor, targets: Any, rows: MakeRows, most: int) -> Rows:
    """Rows for a batch, at most so many images at a time."""
    starts = range(0, len(images), most)
    return _joined(
        [rows(lambda part: main_output(model(part)), images[i : i + most], targets[i : i + most]) for i in starts]
    )


def _joined(parts: Sequence[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def in_order(shares: Sequence[tuple[Sequence[int], Rows]], count: int) -> Rows:
    """The rows of all processes, by the positions of their images."""
    joined = _joined([rows for _, rows in shares if rows])
    order = np.empty(count, dtype=np.int64)
    order[[position for positions, _ in shares for position in positions]] = np.arange(count)
    return {name: values[order] for name, values in joined.items()}


def _share(count: int, batch_size: int, world: World) -> list[int]:
    """Indices of this rank: whole batches dealt round-robin, so results do not depend on the number of processes."""
    return [position for position in range(count) if position // batch_size % world.size == world.rank]
