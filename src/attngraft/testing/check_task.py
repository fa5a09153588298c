"""Check a task against the contract."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..config import from_dict, to_dict
from ..data.targets import Targets
from ..errors import AttngraftError
from ..surgery.model_output import main_output
from ..tasks import LossOptions, Rows, Task, primary
from ..tasks.contract import Forward, LossInModel, Scoring
from .expect import expect

FEATURES = 16


def check_task(
    kind: type[Task], outputs: Sequence[str], targets: Targets, *, model: nn.Module | None = None, seed: int = 0
) -> None:
    """Run the contract of a task, `attngraft.tasks.contract.Task`, on a class.

    Args:
        kind: a frozen dataclass that implements the contract.
        outputs: names of the model's outputs.
        targets: of at least 8 images, as the data of this task bring them; boxes in images of 64 x 64.
        model: for tasks whose models compute their loss themselves, one that takes images (B, 3, 64, 64).
        seed: of the network and the images that are predicted.

    Raises:
        AssertionError: names the clause that does not hold, with what was got.
    """
    parameters = getattr(kind, "__dataclass_params__", None)
    expect(parameters is not None and parameters.frozen, f"{kind.__name__} is no frozen dataclass")
    expect("outputs" in getattr(kind, "__dataclass_fields__", ()), f"{kind.__name__} has no field 'outputs'")
    expect(
        isinstance(kind.name, str) and isinstance(kind.supports, frozenset), "name is no text or supports no frozenset"
    )
    expect(kind.reads == targets.task, f"reads is {kind.reads!r}, but the targets are those of {targets.task!r}")
    expect(len(targets) >= 8, f"got {len(targets)} targets: the contract needs at least 8")
    task = from_dict(kind, {"outputs": tuple(outputs)}).fitted(targets)
    expect(from_dict(kind, to_dict(task)) == task, "the task does not come back from its JSON values")
    expect(bool(task.metrics), "the task has no metric")
    for key, metric in task.metrics.items():
        expect(metric.name == key, f"the metric under '{key}' calls itself '{metric.name}'")
    generator = torch.Generator().manual_seed(seed)
    if isinstance(task, LossInModel):
        expect(model is not None, f"{kind.__name__} learns from what its model returns: give a model")
        shape: tuple[int, ...] = (3, 64, 64)
    else:
        sides = targets.collate(range(len(targets))).shape[1:] if isinstance(task, Scoring) else ()
        shape = (FEATURES, *sides)
    images = torch.randn(len(targets), *shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model is None:
            model = nn.Conv2d(FEATURES, len(outputs), 1) if len(shape) > 1 else nn.Linear(FEATURES, len(outputs))
        _check_loss(task, model.train(), images, targets)
        forward = _main(model.eval())
        rows = _check_rows(task, forward, images, targets)
    _check_metrics(task, rows)
    _check_words(task, rows, _predicted(task, forward, images))
    _check_refusals(task, forward, images)
    for tuned in (task.tuned(None), task.tuned(lambda: rows)):
        expect(type(tuned) is type(task), f"tuned returns a {type(tuned).__name__}")


def _main(model: nn.Module) -> Forward:
    return lambda images: main_output(model(images))


def _check_loss(task: Task, model: nn.Module, images: Tensor, targets: Targets) -> None:
    criterion, count = task.criterion(targets, LossOptions()), len(targets)
    wanted = targets.collate(range(count))
    loss, outputs = criterion(model, images, wanted)
    expect(loss.ndim == 0 and bool(torch.isfinite(loss)), f"the loss is {loss}: expected one finite number")
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    expect(all(g is not None and bool(torch.isfinite(g).all()) for g in gradients), "the loss has no finite gradient")
    halves = (slice(0, count // 2), slice(count // 2, count))
    parts = [criterion(model, images[h], wanted[h])[0].item() * len(images[h]) / count for h in halves]
    is_mean = isinstance(task, LossInModel) or np.isclose(sum(parts), loss.item(), rtol=0.0001)
    expect(bool(is_mean), "the loss of a batch is not the mean over its images")
    random = task.random_targets(count)
    expect(bool(torch.isfinite(criterion(model, images, random)[0])), "random_targets do not fit the loss")
    if criterion.is_scored:
        rows = {**_rows(task, _main(model), images, targets), **task.target_rows(targets)}
        mean = criterion.running(outputs.detach(), wanted) / count
        value = primary(task).value(rows)
        expect(
            np.isclose(mean, value, rtol=0.001, atol=1e-05), f"running gives {mean}, {primary(task).name} is {value}"
        )


def _check_rows(task: Task, model: Forward, images: Tensor, targets: Targets) -> Rows:
    predicted, known = _rows(task, model, images, targets), task.target_rows(targets)
    expect(not predicted.keys() & known.keys(), f"rows and target_rows both have {predicted.keys() & known.keys()}")
    rows = {**predicted, **known}
    for name, values in rows.items():
        expect(isinstance(values, np.ndarray), f"the row '{name}' is a {type(values).__name__}: expected an array")
        expect(len(values) == len(images), f"the row '{name}' has {len(values)} entries for {len(images)} images")
    expect(np.isfinite(task.loss_of(rows)), "loss_of is not finite")
    return rows


def _rows(task: Task, model: Forward, images: Tensor, targets: Targets) -> Rows:
    """What evaluation keeps."""
    if not isinstance(task, Scoring):
        return _predicted(task, model, images)
    with torch.no_grad():
        return task.scored_rows(model, images, targets.collate(range(len(targets))))


def _predicted(task: Task, model: Forward, images: Tensor) -> Rows:
    with torch.no_grad():
        return task.rows(model, images)


def _check_metrics(task: Task, rows: Rows) -> None:
    count = len(next(iter(rows.values())))
    for name, metric in task.metrics.items():
        value, scores = metric.value(rows), metric.scores(rows)
        low, high = metric.bounds
        expect(low <= value <= high, f"{name} is {value}, outside of its bounds {metric.bounds}")
        expect(scores.shape == (count,), f"the scores of {name} have shape {scores.shape}: expected ({count},)")
        expect(
            np.isclose(scores.mean(), value, rtol=1e-06, atol=1e-09), f"the scores of {name} have another mean than it"
        )


def _check_words(task: Task, rows: Rows, predicted: Rows) -> None:
    count = len(next(iter(rows.values())))
    summary = json.loads(json.dumps(task.summary(rows), allow_nan=False))
    expect(summary.get("images") == count, f"summary says {summary.get('images')} images: expected {count}")
    readable = json.loads(json.dumps(task.readable(predicted, 2), allow_nan=False))
    expect(len(readable) == count, f"readable has {len(readable)} entries for {count} images")
    prediction, truth = task.caption(rows, 0)
    expect(isinstance(prediction, str) and isinstance(truth, str), "caption gives no texts")
    groups = task.groups(rows)
    expect(groups is None or groups.shape == (count,), "groups are no entry per image")


def _check_refusals(task: Task, model: Forward, images: Tensor) -> None:
    task.check(model(images[:2]))
    try:
        task.check(torch.zeros(2, len(task.outputs) + 1))
    except AttngraftError:
        return
    raise AssertionError("check takes outputs of another width without a word")
