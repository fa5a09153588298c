"""The contract of a task: outputs, loss, rows of predictions, metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..config import from_dict
from ..errors import BackboneError, ConfigError, DataError, counted, nearest
from ..registry import Registry
from ..statistics.groups import group_index
from .linear_heads import Folds, LinearHead

Array = NDArray[Any]
Rows = Mapping[str, Array]  # the first axis of every array counts the images
Floats = NDArray[np.float64]
Capability = Literal[
    "mix",
    "teacher",
    "label-smoothing",
    "class-weights",
    "balanced-sampler",
    "explain",
    "fold",
    "store",
    "solve-head",
    "tta",
    "calibrate",
]


@dataclass(frozen=True)
class Metric:
    """A number that says how good predictions are, and its share per image.

    Attributes:
        name: what users write, for example "top1" or "macro-f1".
        label: what reports write, for example "top-1".
        value: rows -> the number as the field defines it.
        scores: rows -> (N,) per-image scores whose mean is `value`. A metric that is no mean over images gives
            leave-one-out pseudo-values, see `pseudo_values`.
        unit: "points" for fractions, which are shown in percent and compared in points; else a unit such as "nats".
        higher_is_better: which way is good.
        bounds: lowest and highest possible value.
        is_binary: whether an image is right (1) or wrong (0), and nothing else.
        per_output: rows -> (K,) values whose mean over the outputs that occur is `value`, NaN where an output does not
            occur, for metrics that are such a mean; so that leaving images out never changes which outputs count.
        is_mean: whether `value` is the mean over images of `scores`, and no image's score depends on another image.
        reads_probabilities: whether it needs more than what is predicted.
        without_groups: (rows, (N,) group of each image from 0 to C - 1) -> (C,) values when each group is left out, over
            the outputs that occur in all; for metrics that have a faster way than computing each anew.
    """

    name: str
    label: str
    value: Callable[[Rows], float]
    scores: Callable[[Rows], Floats]
    unit: str = "points"
    higher_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    is_binary: bool = False
    per_output: Callable[[Rows], Floats] | None = None
    is_mean: bool = True
    reads_probabilities: bool = False
    without_groups: Callable[[Rows, NDArray[np.int64]], Floats] | None = None

    def scores_of_groups(self, rows: Rows, groups: Array) -> Floats:
        """Pseudo-values of leaving out one group of images at a time, for a metric that is no mean over images.

        Args:
            rows: of N images.
            groups: (N,) the group of each.

        Returns:
            (C,), groups in the order of their names; their mean is `value`.
        """
        index = group_index(groups)
        if self.without_groups is not None:
            return pseudo_values(self.value(rows), self.without_groups(rows, index))
        kept = (index != group for group in range(int(index.max()) + 1))
        without = [self._without({name: array[keep] for name, array in rows.items()}, rows) for keep in kept]
        return pseudo_values(self.value(rows), np.array(without))

    def _without(self, part: Rows, rows: Rows) -> float:
        """The value on a part of the images, over the same outputs as on all; NaN where it is not defined."""
        if self.per_output is None:
            try:
                return self.value(part)
            except ConfigError:
                return math.nan
        whole, left = self.per_output(rows), self.per_output(part)
        return float(np.nanmean(np.where(np.isnan(left), whole, left)[~np.isnan(whole)]))

    @property
    def scale(self) -> float:
        """What a value is multiplied with to be shown: fractions are shown in percent."""
        return 100.0 if self.unit == "points" else 1.0

    def show(self, value: float) -> str:
        """A value with its unit, for people.

        >>> mean_metric("top1", "top-1", lambda rows: rows["right"]).show(0.905)
        '90.5 %'
        """
        if self.unit == "points":
            return f"{100 * value:.1f} %"
        return f"{value:.4g} {self.unit}".rstrip()

    def left(self, value: float) -> float:
        """The largest gain that is possible from this value; infinite where the metric has no bound."""
        low, high = self.bounds
        return max(high - value if self.higher_is_better else value - low, 0.0)

    def show_difference(self, value: float) -> str:
        """A difference with its unit, for people.

        >>> mean_metric("top1", "top-1", lambda rows: rows["right"]).show_difference(0.01)
        '1 points'
        """
        return f"{self.scale * value:.4g} {self.unit}".rstrip()

    def describe(self) -> dict[str, Any]:
        """What records keep of it."""
        return {
            "name": self.name,
            "label": self.label,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
        }


class Task(Protocol):
    """A kind of prediction: its loss, what is kept of its predictions, and its metrics.

    Implementations are frozen dataclasses. Their fields are all that a saved model needs to be used again; they are
    written to `run.json` and to the header of the model.

    Attributes:
        name: key in the registry and in records.
        outputs: what the model's outputs are called: classes, labels or targets.
        reads: which targets it is trained on: "classification" (one class per image), "multilabel" (any number of
            labels) or "regression" (numbers), "segmentation" (masks)
            or "detection" (boxes).
        supports: what can be done besides training, comparing, predicting and reporting.
        metrics: by name; the first is the primary one.
    """

    name: ClassVar[str]
    reads: ClassVar[str]
    supports: ClassVar[frozenset[Capability]]

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def metrics(self) -> Mapping[str, Metric]: ...

    def fitted(self, targets: Any) -> Task:
        """The task with what it needs to know of the training targets, such as their mean and spread.

        Raises:
            DataError: targets that nothing can be learned from.
        """

    def check(self, outputs: Tensor) -> None:
        """Raise BackboneError or DataError where the main output (B, ...) of a model is not what the task needs."""

    def criterion(self, targets: Any, options: LossOptions) -> Criterion:
        """The loss for training on these targets, of which it may use the frequencies.

        Raises:
            ConfigError: an option that this task does not have.
        """

    def rows(self, model: Forward, inputs: Tensor) -> dict[str, Array]:
        """What is kept of the predictions for a batch: arrays on the CPU whose first axis counts the images."""

    def averaged(self, views: Sequence[Rows]) -> dict[str, Array]:
        """The mean prediction of several views of the same images; called where the task supports "tta".

        Args:
            views: what `rows` gives for each.
        """

    def target_rows(self, targets: Any) -> dict[str, Array]:
        """What is kept of the targets of an image set, under names that `rows` does not use."""

    def loss_of(self, rows: Rows) -> float:
        """The loss of kept predictions, by which validation decides: without smoothing and without weights."""

    def summary(self, rows: Rows) -> dict[str, Any]:
        """What `run.json` says of the test images, as JSON values."""

    def tuned(self, validation: Callable[[], Rows] | None) -> Task:
        """The task with what is chosen on validation images after training, such as thresholds.

        Args:
            validation: computes the rows of the validation images, for tasks that have something to choose; None
                where there are no such images.
        """

    def readable(self, rows: Rows, top: int) -> list[dict[str, Any]]:
        """Predictions as people and programs read them, one JSON object per image.

        Args:
            rows: as from `rows`.
            top: how many classes at most, where the task ranks them.
        """

    def caption(self, rows: Rows, position: int) -> tuple[str, str]:
        """Prediction and truth of one image in a few words."""

    def groups(self, rows: Rows) -> Array | None:
        """(N,) the output that each image belongs to, where effects can be shown group by group, as by class."""

    def random_targets(self, batch_size: int) -> Any:
        """Targets of a batch for dry runs, from torch's global generator."""

    def solve_head(self, features: Tensor, targets: Any, left_out: Folds, options: LossOptions) -> LinearHead:
        """The best linear layer from features to the main output; called where the task supports "solve-head".

        Args:
            features: (N, D) float32 on the CPU.
            targets: of the N training images.
            left_out: (N,) the part that an image is left out with where settings are chosen by folds.
            options: of the loss.
        """


@runtime_checkable
class Calibrating(Protocol):
    """A task that supports "calibrate"."""

    def calibrated(self, validation: Rows) -> Task:
        """The task with probabilities that fit the validation images, whose rows it made itself."""


@runtime_checkable
class LossInModel(Protocol):
    """A task whose models compute the loss themselves, as detectors do: in train mode they take images and targets."""

    def random_targets(self, batch_size: int) -> Any: ...

    def model_targets(self, targets: Any) -> Any:
        """What a model takes beside the images, from the targets of a batch."""


@runtime_checkable
class Scoring(Protocol):
    """A task whose predictions are too large to keep: how well they fit their targets is kept instead."""

    def scored_rows(self, model: Forward, inputs: Tensor, targets: Any) -> dict[str, Array]:
        """What is kept of a batch (B, C, H, W) with its targets: arrays on the CPU whose first axis counts the images."""


@runtime_checkable
class BoxPicturing(Protocol):
    """A task whose predictions are boxes in pictures."""

    def pictured_boxes(self, rows: Rows, position: int) -> tuple[Array, Array]:
        """Truth and prediction of an image: each (n, 5) x0 y0 x1 y1 in pixels of the input and the class."""


@runtime_checkable
class Picturing(Protocol):
    """A task whose predictions are pictures."""

    def pictures(self, rows: Rows, position: int) -> tuple[Array, Array]:
        """Truth and prediction of an image as small masks (h, w) uint8, of the whole input."""


Forward = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> the main output of the model (B, ...)


class Criterion(Protocol):
    """The loss of a batch in training."""

    def __call__(self, model: Forward, inputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
        """The mean loss over the images, differentiable, and the main output that it comes from.

        A model that is called with targets too returns what it makes of both, whatever that is: detectors compute their
        losses themselves, and then the loss stands for the main output.
        """

    @property
    def is_scored(self) -> bool:
        """Whether the primary metric is a mean over images, so that it can be followed in training."""

    def running(self, outputs: Tensor, targets: Any) -> float:
        """The primary metric's scores summed over the batch; 0 where it is no mean over images."""


@dataclass(frozen=True)
class LossOptions:
    """The fields of a recipe that concern losses.

    Attributes:
        loss: name of the loss, "auto" for the task's usual one.
        label_smoothing: 0 to below 1.
        class_weights: "balanced" weighs classes, or the positives of labels, by the inverse of their frequency.
    """

    loss: str = "auto"
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"


@dataclass(frozen=True)
class OutputLoss:
    """A criterion that is a function of the main output and the targets.

    Attributes:
        loss: (outputs (B, ...) float32, targets) -> the mean loss over the images.
        scores: (outputs, targets) -> (B,) scores of the primary metric, where that is a mean over images.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    scores: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, model: Forward, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        outputs = model(inputs)
        return self.loss(outputs.float(), targets), outputs

    @property
    def is_scored(self) -> bool:
        return self.scores is not None

    def running(self, outputs: Tensor, targets: Tensor) -> float:
        return 0.0 if self.scores is None else float(self.scores(outputs.detach().float(), targets).sum())


TASKS: Registry[type[Task]] = Registry("task")


def create_task(name: str, outputs: Sequence[str], **fields: Any) -> Task:
    """Create a registered task.

    Args:
        name: for example "classification".
        outputs: what the model's outputs are called.
        **fields: of the task.

    Raises:
        ConfigError: no such task or field.
    """
    if name not in TASKS:
        raise ConfigError(f"unknown task '{name}': {nearest(name, list(TASKS))}")
    return from_dict(TASKS[name], {"outputs": tuple(outputs), **fields}, where=f"task '{name}'")


def primary(task: Task) -> Metric:
    """The metric that a task is judged by where nothing else is asked for."""
    return next(iter(task.metrics.values()))


def find_metric(task: Task, name: str | None) -> Metric:
    """A metric of a task by name, its primary one for None.

    Raises:
        ConfigError: no such metric; the nearest is named.
    """
    if name is None:
        return primary(task)
    if name not in task.metrics:
        reason = getattr(task, "undefined_metrics", {}).get(name)
        if reason is not None:
            raise ConfigError(f"the metric '{name}' {reason}: choose another.")
        raise ConfigError(f"unknown metric '{name}' of {task.name}: {nearest(name, list(task.metrics))}")
    return task.metrics[name]


def require(task: Task, capability: Capability, what: str, advice: str = "") -> None:
    """Raise ConfigError in one sentence where a task cannot do something yet.

    Args:
        task: what the model was or will be trained for.
        capability: one of `Task.supports`.
        what: the subject of the sentence, for example "explain".
        advice: what to do instead.
    """
    if capability not in task.supports:
        able = sorted(name for name, kind in TASKS.items() if capability in kind.supports)
        works = f"it works for {', '.join(able) or 'no task yet'}"
        raise ConfigError(f"{what} is not available for {task.name}: {works}{f'; {advice}' if advice else ''}.")


def mean_metric(name: str, label: str, scores: Callable[[Rows], Array], **fields: Any) -> Metric:
    """A metric that is the mean of per-image scores; `fields` are those of `Metric`."""

    def doubles(rows: Rows) -> Floats:
        return np.asarray(scores(rows), dtype=np.float64)

    return Metric(name, label, lambda rows: float(doubles(rows).mean()), doubles, **fields)


def left_out_metric(
    name: str, label: str, value: Callable[[Rows], float], without: Callable[[Rows], Floats], **fields: Any
) -> Metric:
    """A metric that is no mean over images; `without` gives (N,) its values when each image is left out."""
    return Metric(name, label, value, lambda rows: pseudo_values(value(rows), without(rows)), is_mean=False, **fields)


def mean_of_views(views: Sequence[Rows], name: str) -> Array:
    """The mean of the rows called `name`, in their own type."""
    values = [view[name] for view in views]
    return np.mean(values, axis=0, dtype=np.float64).astype(values[0].dtype)


def check_matrix(outputs: Tensor, what: str) -> None:
    """Raise BackboneError where the main output is not a matrix; `what` says what its columns are."""
    if outputs.ndim != 2:
        raise BackboneError(
            f"the model returns a tensor of shape {tuple(outputs.shape)}: expected (images, {what}); add a head."
        )


def check_width(outputs: Tensor, names: Sequence[str], what: str) -> None:
    """Raise where the main output is not (B, one number per name).

    Args:
        outputs: of the model.
        names: what the outputs are called.
        what: in the plural: "classes", "labels" or "targets".
    """
    check_matrix(outputs, what)
    if outputs.shape[1] != len(names):
        logits = counted(outputs.shape[1], "logit")
        raise DataError(
            f"the model has {logits} and the data have {len(names)} {what}: create it with num_classes={len(names)}."
        )


def pseudo_values(value: float, without: Floats) -> Floats:
    """Leave-one-out pseudo-values, shifted so that their mean is the value itself.

    Args:
        value: of the metric on all N images.
        without: (N,), its values when one image is left out; NaN where it is not defined then, which counts as
            no influence.

    Source: Quenouille 1956; for plug-in centring see docs/compare.md.
    """
    count = len(without)
    filled = np.where(np.isfinite(without), without, value)
    pseudo = count * value - (count - 1) * filled
    return np.asarray(pseudo - pseudo.mean() + value, dtype=np.float64)
