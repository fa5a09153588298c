"""Many labels and numbers from end to end: fit, resume, compare, predict, report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import narrow_backbone
import numpy as np
import pytest
import torch
from sealed import read_plain
from torch import nn
from training_helpers import PLAIN, coloured_squares, run_fit, short_recipe, with_targets

import attngraft as ag
from attngraft.comparison import compare
from attngraft.data.targets import LabelSets, Values
from attngraft.errors import ConfigError
from attngraft.reporting import write_report
from attngraft.tasks import MultiLabel, Regression, task_of

NAMES = ("red", "green", "blue")


LABELS = with_targets(LabelSets, NAMES, np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]], dtype=np.uint8))
NUMBERS = with_targets(Values, ("hue", "weight"), np.array([[10.0, 2000.0], [20.0, 1000.0], [30.0, 3000.0]]))


@pytest.fixture(autouse=True)
def _narrow_backbone() -> None:
    narrow_backbone.register()


def model(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return narrow_backbone.create(narrow_backbone.SPEC, outputs, False)


OUTPUTS = {"multilabel": 3, "regression": 2}
DATA = {"multilabel": LABELS, "regression": NUMBERS}


@pytest.mark.parametrize("task", DATA)
def test_a_run_is_trained_saved_and_returned(task: str, tmp_path: Path) -> None:
    data = DATA[task]
    result = run_fit(model(OUTPUTS[task]), data, tmp_path / "run", recipe=short_recipe(3))
    record = read_plain(tmp_path / "run" / "run.json")
    assert record["task"]["name"] == task
    assert record["results"]["test"]["images"] == 24
    assert {"eval_loss", "train_loss"} <= set(result.history[0])
    again = run_fit(model(OUTPUTS[task]), data, tmp_path / "run", recipe=short_recipe(3))
    assert again.score == result.score
    loaded = ag.load(tmp_path / "run")
    assert task_of(loaded) == result.evaluation.task
    assert write_report(tmp_path / "run").is_file()


def test_thresholds_are_those_of_the_validation_images(tmp_path: Path) -> None:
    result = run_fit(model(3), LABELS, tmp_path, recipe=short_recipe(4, lr=0.2))
    task = task_of(ag.load(tmp_path))
    assert isinstance(task, MultiLabel)
    assert len(task.thresholds) == 3
    decided = result.evaluation.rows["probabilities"] >= np.asarray(task.thresholds, dtype=np.float32)
    assert (result.evaluation.rows["decisions"] == decided).all()


def test_numbers_are_learned_in_their_own_units(tmp_path: Path) -> None:
    result = run_fit(model(2), NUMBERS, tmp_path, recipe=short_recipe(30, lr=0.1))
    task = result.evaluation.task
    assert isinstance(task, Regression)
    assert task.mean == pytest.approx((20.0, 2000.0))
    assert result.evaluation.rows["predictions"][:, 1].mean() == pytest.approx(2000, rel=0.3)
    assert result.history[-1]["train_mae"] < 0.6 * result.history[0]["train_mae"]
    assert result.evaluation.value("mae:hue") < result.evaluation.value("mae:weight")


@pytest.mark.parametrize(("task", "metric"), [("multilabel", None), ("multilabel", "micro-f1"), ("regression", "r2")])
def test_a_comparison_is_in_the_unit_of_its_metric(task: str, metric: str | None, tmp_path: Path) -> None:
    found = compare(
        DATA[task], backbone=narrow_backbone.SPEC, attentions=["se"], seeds=2, recipe=short_recipe(4, lr=0.2), metric=metric,
        run_dir=tmp_path, **PLAIN,
    )  # fmt: skip
    name = metric or "map"
    assert found.document["metric"]["name"] == name
    assert len(found.document["variants"][0][f"{name}_per_seed"]) == 2
    effect = found.effects[0]
    means = [row[f"{name}_mean"] for row in found.document["variants"]]
    assert effect["mean"] == pytest.approx(means[1] - means[0], abs=1e-9)


def test_a_lower_error_helps(tmp_path: Path) -> None:
    found = compare(
        NUMBERS, backbone=narrow_backbone.SPEC, attentions=["se"], seeds=2, recipe=short_recipe(2), run_dir=tmp_path,
        **PLAIN,
    )  # fmt: skip
    effect = found.effects[0]
    assert found.document["metric"] == {"name": "mae", "label": "MAE", "unit": "", "higher_is_better": False}
    if effect["verdict"] == "helps":
        assert effect["mean"] < 0
    elif effect["verdict"] == "hurts":
        assert effect["mean"] > 0


def test_another_metric_of_classification_decides(tmp_path: Path) -> None:
    found = compare(
        coloured_squares(), backbone=narrow_backbone.SPEC, attentions=["se"], seeds=2, recipe=short_recipe(4, lr=0.2), metric="macro-f1",
        run_dir=tmp_path, **PLAIN,
    )  # fmt: skip
    assert found.document["metric"]["name"] == "macro-f1"


def test_predictions_are_in_words_of_the_task(tmp_path: Path) -> None:
    from PIL import Image

    image = tmp_path / "one.png"
    Image.fromarray(np.full((20, 20, 3), 90, dtype=np.uint8)).save(image)
    run_fit(model(2), NUMBERS, tmp_path / "numbers")
    found = ag.predict(tmp_path / "numbers", image)
    assert found.to_csv().splitlines()[0] == "image,hue,weight"
    assert set(json.loads(found.to_json())[0]) == {"image", "hue", "weight"}
    run_fit(model(3), LABELS, tmp_path / "labels")
    entry = json.loads(ag.predict(tmp_path / "labels", image).to_json())[0]
    assert set(entry["probabilities"]) == set(NAMES)
    assert set(entry["labels"]) <= set(NAMES)


@pytest.mark.parametrize("task", DATA)
def test_mixing_is_refused_in_one_sentence(task: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"mixing images is not available for {task}.*set mixup and cutmix to 0"):
        run_fit(model(OUTPUTS[task]), DATA[task], tmp_path / "run", recipe=short_recipe(2, mixup=0.2))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", DATA)
def test_explaining_and_folding_are_refused_in_one_sentence(task: str, tmp_path: Path) -> None:
    data = DATA[task]
    run_fit(ag.graft(model(OUTPUTS[task]), "se", input_size=(3, 16, 16)), data, tmp_path / "run")
    for refused in (lambda: ag.explain(tmp_path / "run", data), lambda: ag.fold(ag.load(tmp_path / "run"), data.test)):
        with pytest.raises(ConfigError, match=rf"is not available for {task}: it works for classification\."):
            refused()


def test_classes_can_be_balanced_in_the_loss_and_in_the_batches(tmp_path: Path) -> None:
    data = coloured_squares()
    few = replace(data, train=data.train.select([*np.flatnonzero(data.train.labels == 0), 1, 2]))
    for name, fields in {"loss": {"class_weights": "balanced"}, "batches": {"sampler": "balanced"}}.items():
        plain = run_fit(model(), few, tmp_path / "plain")
        other = run_fit(model(), few, tmp_path / name, recipe=short_recipe(**fields))
        assert not torch.equal(plain.model.head.weight, other.model.head.weight)
        # the rare classes are predicted more often
        assert (other.evaluation.probabilities[:, 1:].mean() > plain.evaluation.probabilities[:, 1:].mean()).all()
