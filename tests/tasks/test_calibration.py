"""Temperature scaling: the number that is found, where it is kept, and where it is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import CLASSES, TWO_PHASES, coloured_squares, droppy_model, run_fit, with_targets

import attngraft as ag
from attngraft.data.targets import LabelSets
from attngraft.errors import ConfigError, DataError
from attngraft.reporting import write_report
from attngraft.settings.recipe import Recipe
from attngraft.surgery import task_note
from attngraft.tasks import Classification, describe_task, task_from, task_of
from attngraft.tasks.calibration import LIMITS, fit_temperature
from attngraft.tasks.classification import negative_log_likelihood
from attngraft.training import Evaluation, RunFolder

RECIPE = Recipe("two", TWO_PHASES, optimizer="sgd", batch_size=16)
CALIBRATED = replace(RECIPE, calibrate=True)


def simulated(temperature: float, count: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes drawn from the softmax of these logits divided by the temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (count, 5))
    true = np.exp(logits / temperature)
    true /= true.sum(1, keepdims=True)
    labels = (true.cumsum(1) < rng.random((count, 1))).sum(1)
    return logits, np.minimum(labels, 4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_simulated_logits_is_found(temperature: float):
    logits, labels = simulated(temperature)
    probabilities = torch.from_numpy(logits).float().softmax(1).numpy()
    assert fit_temperature(probabilities, labels) == pytest.approx(temperature, rel=0.03)


def test_it_has_the_lowest_loss_and_keeps_the_order():
    logits, labels = simulated(1.7, 300)
    plain = Classification(tuple("abcde"))
    images, shown = torch.from_numpy(logits).float(), lambda x: x
    rows = {**plain.rows(shown, images), "labels": labels}
    task = plain.calibrated(rows)
    losses = [
        negative_log_likelihood({**replace(plain, temperature=t).rows(shown, images), "labels": labels}).mean()
        for t in np.multiply(task.temperature, [0.98, 1.0, 1.02])
    ]
    assert losses[1] == min(losses)
    assert np.array_equal(task.rows(shown, images)["probabilities"].argmax(1), logits.argmax(1))


@pytest.mark.parametrize(("right", "limit"), [(True, LIMITS[0]), (False, LIMITS[1])])
def test_classes_that_are_all_right_or_worse_than_chance_end_at_a_limit(right: bool, limit: float):
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    labels = probabilities.argmax(1) if right else probabilities.argmin(1)
    assert fit_temperature(probabilities, labels) == pytest.approx(limit, rel=1e-5)


def test_records_of_classification_have_it_only_where_it_is_not_1():
    assert describe_task(Classification(CLASSES)) is None
    task = Classification(CLASSES, temperature=2.0)
    assert describe_task(task) == {"name": "classification", "temperature": 2.0}
    assert task_from(describe_task(task), CLASSES) == task
    with pytest.raises(ConfigError, match="temperature is 0"):
        task_from({"name": "classification", "temperature": 0.0}, CLASSES)


def test_a_run_is_calibrated_on_its_validation_images(tmp_path: Path, capsys):
    data = coloured_squares(val=12)
    plain = run_fit(droppy_model(), data, tmp_path / "plain", recipe=RECIPE)
    found = run_fit(droppy_model(), data, tmp_path / "run", recipe=CALIBRATED)
    assert "calibrated on 12 validation images (temperature " in capsys.readouterr().err
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name])
    assert found.top1 == plain.top1
    temperature = task_of(found.model).temperature
    assert temperature != 1
    logits = np.log(plain.evaluation.probabilities.astype(np.float64)) / temperature
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.evaluation.probabilities == pytest.approx(expected, abs=1e-5)
    assert RunFolder(found.run_dir).read().results.test["temperature"] == temperature
    assert "chosen on validation images" in write_report(found.run_dir).read_text(encoding="utf-8")
    assert task_note(plain.model) is None
    assert "temperature" not in RunFolder(plain.run_dir).read().results.test


def test_what_was_saved_has_the_same_probabilities(tmp_path: Path):
    data = coloured_squares(val=12)
    found = run_fit(droppy_model(), data, tmp_path / "run", recipe=CALIBRATED)
    loaded = ag.load(tmp_path / "run", backbone=droppy_model())
    assert task_of(loaded) == task_of(found.model) == Evaluation.read(tmp_path / "run" / "predictions.safetensors").task
    predicted = ag.predict(loaded, data, batch_size=64, precision="fp32+contiguous", preprocessing={"image_size": 16})
    before = ag.predict(found.model, data, batch_size=64, precision="fp32+contiguous", preprocessing={"image_size": 16})
    assert np.array_equal(predicted.probabilities, before.probabilities)
    assert predicted.probabilities == pytest.approx(found.evaluation.probabilities, abs=1e-5)
    again = run_fit(droppy_model(), data, tmp_path / "run", recipe=CALIBRATED)
    assert np.array_equal(again.evaluation.probabilities, found.evaluation.probabilities)
    assert again.evaluation.task == found.evaluation.task


def test_a_recipe_without_it_is_recorded_as_before():
    from attngraft.config import to_dict

    assert "calibrate" not in to_dict(RECIPE)
    assert to_dict(CALIBRATED)["calibrate"] is True


def test_without_validation_images_or_classes_it_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="calibrate takes validation images and squares has none"):
        run_fit(droppy_model(), coloured_squares(), tmp_path / "run", recipe=CALIBRATED)
    labels = with_targets(LabelSets, CLASSES, np.eye(3, dtype=np.uint8))
    with pytest.raises(ConfigError, match="calibrate is not available for multilabel: it works for classification"):
        run_fit(droppy_model(), labels, tmp_path / "run", recipe=CALIBRATED)
    assert not (tmp_path / "run").exists()
