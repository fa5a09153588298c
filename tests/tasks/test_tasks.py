"""The contract of a task, run by every registered one, and what each adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import attngraft as ag
from attngraft.config import to_dict
from attngraft.data.targets import ClassLabels, LabelSets, Values
from attngraft.errors import ConfigError, DataError
from attngraft.tasks import (
    Classification,
    LossOptions,
    MultiLabel,
    Regression,
    Task,
    create_task,
    find_metric,
    note_task_of_,
    require,
    task_from,
    task_of,
)
from attngraft.tasks.multilabel import best_threshold

RNG = np.random.default_rng(0)
TARGETS: dict[str, Any] = {
    "classification": ClassLabels(np.arange(30) % 3),
    "multilabel": LabelSets((RNG.random((30, 3)) < 0.4).astype(np.uint8)),
    "regression": Values(RNG.normal(50, 10, size=(30, 3))),
}
NAMES = ("one", "two", "three")


def made(name: str) -> Task:
    return create_task(name, NAMES).fitted(TARGETS[name])


@pytest.mark.parametrize("name", TARGETS)
def test_it_learns(name: str) -> None:
    task, targets = made(name), TARGETS[name]
    torch.manual_seed(0)
    inputs = torch.randn(30, 12)
    model = nn.Linear(12, 3)
    criterion = task.criterion(targets, LossOptions())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    wanted = targets.collate(range(30))
    losses = []
    for _ in range(60):
        loss, outputs = criterion(model, inputs, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert criterion.running(outputs, wanted) >= 0
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", TARGETS)
def test_rows_have_all_that_metrics_and_records_need(name: str) -> None:
    task, targets = made(name), TARGETS[name]
    torch.manual_seed(0)
    with torch.no_grad():
        rows = {**task.rows(nn.Linear(12, 3), torch.randn(30, 12)), **task.target_rows(targets)}
    assert all(len(values) == 30 for values in rows.values())
    assert all(np.isfinite(metric.value(rows)) for metric in task.metrics.values())
    assert task.summary(rows)["images"] == 30
    assert np.isfinite(task.loss_of(rows))
    assert len(task.readable(rows, 2)) == 30


@pytest.mark.parametrize("name", TARGETS)
def test_a_task_comes_back_from_its_record(name: str) -> None:
    task = made(name)
    fields = to_dict(task)
    assert create_task(name, fields.pop("outputs"), **fields) == task


@pytest.mark.parametrize("name", TARGETS)
def test_random_targets_fit_the_loss(name: str) -> None:
    task = made(name)
    outputs = torch.randn(4, 3, requires_grad=True)
    loss, _ = task.criterion(TARGETS[name], LossOptions())(lambda x: outputs, outputs, task.random_targets(4))
    loss.backward()
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("name", TARGETS)
def test_outputs_of_another_width_are_refused_with_both_numbers(name: str) -> None:
    with pytest.raises(DataError, match=r"5 logits.* 3 "):
        made(name).check(torch.zeros(2, 5))


@pytest.mark.parametrize("name", TARGETS)
def test_an_unknown_loss_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="loss is 'hinge'"):
        made(name).criterion(TARGETS[name], LossOptions(loss="hinge"))


def test_what_a_task_cannot_do_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"explain is not available for regression: it works for classification\."):
        require(made("regression"), "explain", "explain")
    require(made("classification"), "explain", "explain")


def test_parts_of_a_batch_add_up_to_the_batch_with_class_weights() -> None:
    targets = ClassLabels(np.array([0] * 8 + [1] * 2 + [2] * 2))
    criterion = Classification(NAMES).criterion(targets, LossOptions(class_weights="balanced"))
    logits, wanted = torch.randn(12, 3), targets.collate(range(12))
    whole, _ = criterion(lambda x: x, logits, wanted)
    parts = [criterion(lambda x: x, logits[part], wanted[part])[0] for part in (slice(0, 6), slice(6, 12))]
    assert float(whole) == pytest.approx(float(sum(parts)) / 2, rel=1e-5)


def test_regression_is_standardised_inside_and_reported_in_its_own_unit() -> None:
    task = made("regression")
    rows = task.rows(lambda inputs: torch.zeros(2, 3), torch.zeros(2, 3))
    assert rows["predictions"] == pytest.approx(np.tile(task.mean, (2, 1)), rel=1e-5)


def test_a_constant_target_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="'two' is the same"):
        Regression(("one", "two")).fitted(Values(np.array([[1.0, 2.0], [3.0, 2.0]])))


def test_thresholds_come_from_validation_images_and_are_used() -> None:
    probabilities = np.array([[0.9], [0.3], [0.25], [0.1]], dtype=np.float32)
    rows = {"probabilities": probabilities, "targets": np.array([[1], [1], [0], [0]], dtype=np.uint8)}
    task = MultiLabel(("rare",)).tuned(lambda: rows)
    assert task.thresholds == pytest.approx((0.275,))
    logits = torch.logit(torch.from_numpy(probabilities))
    assert task.rows(lambda x: logits, logits)["decisions"][:, 0].tolist() == [1, 1, 0, 0]


def test_equal_probabilities_are_on_one_side_of_the_threshold() -> None:
    threshold = best_threshold(np.array([0.8, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0]))
    assert not 0.5 - 1e-9 < threshold < 0.5 + 1e-9


def test_a_label_without_a_validation_image_keeps_the_usual_threshold() -> None:
    assert best_threshold(np.array([0.3, 0.2]), np.array([0, 0])) == 0.5


def test_without_validation_images_the_usual_threshold_stays() -> None:
    assert MultiLabel(NAMES).tuned(None) == MultiLabel(NAMES)


@pytest.mark.parametrize("name", TARGETS)
def test_a_model_says_what_it_is_for_after_it_was_saved(name: str, tmp_path: Path) -> None:
    task = made(name)
    model = note_task_of_(ag.create_backbone("small-cnn", num_classes=3), task)
    ag.save(model, tmp_path)
    assert task_of(ag.load(tmp_path)) == task


def test_a_task_whose_module_was_not_imported_is_said_to_be_missing():
    with pytest.raises(
        ConfigError, match=r"the task 'ordinal' is not among classification.*import the module that registers"
    ):
        task_from({"name": "ordinal"}, ("a", "b"))


@pytest.mark.parametrize(
    ("classes", "metric", "told"),
    [
        (3, "top5", "the metric 'top5' needs more than 5 classes, and there are 3"),
        (3, "sensitivity@specificity", "needs 2 classes, and there are 3"),
        (6, "sensitivity@specificity=0.9", "needs 2 classes, and there are 6"),
        (2, "top3", "unknown metric 'top3' of classification: did you mean 'top1'"),
    ],
)
def test_a_metric_for_another_number_of_classes_says_so(classes, metric, told):
    with pytest.raises(ConfigError, match=told):
        find_metric(Classification(tuple("abcdef"[:classes])), metric)
