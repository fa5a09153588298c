"""Metrics of every task: the values of scikit-learn, and per-image scores that are leave-one-out pseudo-values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as sk

from attngraft.errors import ConfigError
from attngraft.tasks import Classification, MultiLabel, Regression, Rows, Task, find_metric, pseudo_values


def class_rows(classes: int, images: int = 60, seed: int = 0, ties: bool = False) -> Rows:
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(classes), np.arange(classes)).tolist()
    labels = np.array(labels + rng.integers(classes, size=images - 2 * classes).tolist())
    logits = rng.normal(size=(images, classes)) + 1.2 * np.eye(classes)[labels]
    if ties:
        logits = logits.round()
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return {"probabilities": probabilities.astype(np.float32), "labels": labels}


def label_rows(task: MultiLabel, images: int = 50, seed: int = 0, ties: bool = False) -> Rows:
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, len(task.outputs))) < [0.5, 0.2, 0.1]).astype(np.uint8)
    targets[:2] = 1
    probabilities = np.clip(0.4 * targets + 0.6 * rng.random(targets.shape), 0, 1)
    probabilities = (probabilities.round(1) if ties else probabilities).astype(np.float32)
    return {"probabilities": probabilities, "decisions": (probabilities >= 0.5).astype(np.uint8), "targets": targets}


def value_rows(targets: int, images: int = 40, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    wanted = rng.normal(5, 3, size=(images, targets))
    return {"predictions": (wanted + rng.normal(size=wanted.shape)).astype(np.float32), "targets": wanted}


LABELS = MultiLabel(("a", "b", "c"))
CASES: list[tuple[Task, Rows]] = [
    (Classification(("cat", "dog")), class_rows(2)),
    (Classification(("cat", "dog")), class_rows(2, ties=True)),
    (Classification(tuple("abcdefg")), class_rows(7)),
    (Classification(tuple("abcd")), class_rows(4, ties=True)),
    (LABELS, label_rows(LABELS)),
    (LABELS, label_rows(LABELS, ties=True)),
    (Regression(("age",)), value_rows(1)),
    (Regression(("age", "height")), value_rows(2)),
]
PAIRS = [
    pytest.param(task, rows, name, id=f"{number}-{task.name}-{name}")
    for number, (task, rows) in enumerate(CASES)
    for name in task.metrics
]


def without(rows: Rows, image: int) -> Rows:
    return {name: np.delete(values, image, axis=0) for name, values in rows.items()}


@pytest.mark.parametrize(("task", "rows", "name"), PAIRS)
def test_the_mean_of_the_scores_is_the_value(task: Task, rows: Rows, name: str) -> None:
    metric = task.metrics[name]
    scores = metric.scores(rows)
    assert scores.shape == (len(next(iter(rows.values()))),)
    assert scores.dtype == np.float64
    assert scores.mean() == pytest.approx(metric.value(rows), abs=1e-9)
    assert metric.bounds[0] <= metric.value(rows) <= metric.bounds[1]


@pytest.mark.parametrize(("task", "rows", "name"), PAIRS)
def test_scores_are_pseudo_values_of_leaving_each_image_out(task: Task, rows: Rows, name: str) -> None:
    metric = task.metrics[name]
    images = len(next(iter(rows.values())))
    left_out = np.array([metric.value(without(rows, image)) for image in range(images)])
    expected = pseudo_values(metric.value(rows), left_out)
    assert metric.scores(rows) == pytest.approx(expected, abs=1e-6)


def binary(function: Callable[..., float]) -> Callable[[Rows], float]:
    return lambda rows: function(rows["labels"], rows["probabilities"][:, 1])


def predicted(function: Callable[..., float], **options: object) -> Callable[[Rows], float]:
    return lambda rows: function(rows["labels"], rows["probabilities"].argmax(1), **options)


def normalised(probabilities: np.ndarray) -> np.ndarray:
    return probabilities.astype(float) / probabilities.astype(float).sum(1, keepdims=True)


OF_SCIKIT_LEARN: list[tuple[int, str, Callable[[Rows], float]]] = [
    (2, "top1", predicted(sk.accuracy_score)),
    (2, "balanced-accuracy", predicted(sk.balanced_accuracy_score)),
    (2, "macro-f1", predicted(sk.f1_score, average="macro")),
    (2, "quadratic-kappa", predicted(sk.cohen_kappa_score, weights="quadratic")),
    (2, "nll", lambda rows: sk.log_loss(rows["labels"], normalised(rows["probabilities"]))),
    (2, "top5", lambda rows: sk.top_k_accuracy_score(rows["labels"], rows["probabilities"], k=5)),
    (2, "auroc", lambda rows: sk.roc_auc_score(np.eye(7)[rows["labels"]], rows["probabilities"], average="macro")),
    (0, "auroc", binary(sk.roc_auc_score)),
    (1, "auroc", binary(sk.roc_auc_score)),
    (4, "map", lambda rows: sk.average_precision_score(rows["targets"], rows["probabilities"], average="macro")),
    (5, "map", lambda rows: sk.average_precision_score(rows["targets"], rows["probabilities"], average="macro")),
    (4, "macro-f1", lambda rows: sk.f1_score(rows["targets"], rows["decisions"], average="macro")),
    (4, "micro-f1", lambda rows: sk.f1_score(rows["targets"], rows["decisions"], average="micro")),
    (7, "mae", lambda rows: sk.mean_absolute_error(rows["targets"], rows["predictions"])),
    (7, "rmse", lambda rows: sk.root_mean_squared_error(rows["targets"], rows["predictions"])),
    (7, "r2", lambda rows: sk.r2_score(rows["targets"], rows["predictions"])),
]


@pytest.mark.parametrize(("case", "name", "reference"), OF_SCIKIT_LEARN)
def test_values_are_those_of_scikit_learn(case: int, name: str, reference: Callable[[Rows], float]) -> None:
    task, rows = CASES[case]
    assert task.metrics[name].value(rows) == pytest.approx(reference(rows), abs=1e-5)


@pytest.mark.parametrize("specificity", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("case", [0, 1])
def test_sensitivity_is_the_highest_point_of_the_roc_curve_with_that_specificity(case: int, specificity: float) -> None:
    task, rows = CASES[case]
    false_positives, sensitivities, _ = sk.roc_curve(rows["labels"], rows["probabilities"][:, 1])
    expected = sensitivities[1 - false_positives >= specificity - 1e-9].max()
    assert task.metrics[f"sensitivity@specificity={specificity:g}"].value(rows) == pytest.approx(expected)


def test_brier_counts_all_classes() -> None:
    rows = {"probabilities": np.array([[0.7, 0.2, 0.1]], dtype=np.float32), "labels": np.array([0])}
    assert Classification(("a", "b", "c")).metrics["brier"].value(rows) == pytest.approx(0.09 + 0.04 + 0.01)


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'macro-f1'"):
        find_metric(Classification(("a", "b")), "macrof1")


def test_metrics_of_two_classes_and_of_more_than_five_are_there_only_then() -> None:
    two, six = Classification(("a", "b")).metrics, Classification(tuple("abcdef")).metrics
    assert "sensitivity@specificity" in two
    assert "top5" not in two
    assert "top5" in six
    assert "sensitivity@specificity" not in six


def test_one_class_alone_has_no_auroc() -> None:
    rows = {"probabilities": np.array([[0.7, 0.3], [0.6, 0.4]]), "labels": np.array([0, 0])}
    with pytest.raises(ConfigError, match="all of one class"):
        Classification(("a", "b")).metrics["auroc"].value(rows)
