"""The learning rate range test: what it takes, that it leaves no trace, and that a run keeps what it has found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_resume import grafted_model
from training_helpers import (
    PLAIN,
    TWO_PHASES,
    AtStep,
    assert_same_run,
    coloured_squares,
    droppy_model,
    metrics,
    run_fit,
    short_recipe,
)

import attngraft as ag
from attngraft.cli.options import rate
from attngraft.errors import ConfigError
from attngraft.settings.recipe import Recipe, load_recipe
from attngraft.training import RunFolder, lr_finder
from attngraft.training.lr_finder import suggested

RECIPE = Recipe("two", TWO_PHASES, optimizer="sgd", head="solve", batch_size=16, mixup=0.2)
FINDING = replace(RECIPE, find_lr=True)


def test_the_middle_of_the_longest_fall_of_the_smoothed_loss_is_taken():
    rates = [10.0**power for power in range(-5, 2)]
    assert suggested(rates, [3.0, 3.0, 2.0, 1.0, 0.1, 5.0, 50.0]) == pytest.approx(1e-3)  # it falls from 1e-4 to 1e-1
    assert suggested(rates, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == pytest.approx(1e-5)  # it never falls


def test_noise_before_the_valley_and_the_rise_behind_it_change_little():
    rates = np.geomspace(1e-7, 10, 100)
    loss = 1.5 - 1.2 / (1 + (3e-3 / rates) ** 2) + 3 * (rates > 0.3)  # falls around 3e-3, explodes above 0.3
    noisy = [suggested(rates, loss + np.random.default_rng(seed).normal(0, 0.1, 100)) for seed in range(50)]
    assert min(noisy) > 3e-4
    assert max(noisy) < 3e-1


def found_by(folder: Path, recipe: Recipe = FINDING, **options: object) -> ag.FitResult:
    return run_fit(grafted_model(), coloured_squares(), folder, recipe=recipe, **options)


def test_the_test_leaves_weights_and_random_numbers_as_they_were(tmp_path: Path, capsys):
    """A run that is given the rate ends with the same bits as the one that has found it."""
    found = found_by(tmp_path / "found")
    recipe = RunFolder(found.run_dir).read().recipe
    highest = max(phase.lr for phase in recipe.phases)
    assert f"lr = {highest:g} was found by a range test on training images." in capsys.readouterr().err
    assert f"lr = {highest:g} was found" in RunFolder(found.run_dir).read().preparation[-1]
    assert highest != TWO_PHASES[0].lr
    assert recipe.phases[1].lr == pytest.approx(highest * TWO_PHASES[1].lr / TWO_PHASES[0].lr)
    assert recipe.find_lr
    given = found_by(tmp_path / "given", load_recipe(RECIPE, lr=highest))
    for name, tensor in given.model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name]), name
    assert metrics(given.run_dir) == metrics(found.run_dir)
    assert found_by(tmp_path / "again").history[-1]["train_loss"] == found.history[-1]["train_loss"]


@pytest.mark.parametrize("step", [1, 5])
def test_a_run_that_goes_on_keeps_the_rate_that_it_has_found(tmp_path: Path, monkeypatch, step: int):
    whole = found_by(tmp_path / "whole")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found_by(tmp_path / "run", progress=AtStep(step, interrupt))

    def never(*given: object, **options: object) -> float:
        raise AssertionError("the rate was found again")

    monkeypatch.setattr("attngraft.training.trainer.find_lr", never)
    assert_same_run(found_by(tmp_path / "run"), whole)
    assert_same_run(found_by(tmp_path / "run"), whole)  # from the finished run


def test_an_interrupted_test_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch):
    model = droppy_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def interrupted(losses: list[float]) -> list[float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(lr_finder, "smoothed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_fit(model, coloured_squares(), tmp_path / "run", recipe=short_recipe(), lr="find")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_it_is_asked_for_in_place_of_a_number(tmp_path: Path):
    assert load_recipe(RECIPE, lr="find") == FINDING
    assert (rate("find"), rate("1e-3")) == ("find", 0.001)
    with pytest.raises(ConfigError, match="or find"):
        load_recipe(RECIPE, lr="fnid")
    with pytest.raises(ConfigError, match="lr = find is for a single fit"):
        ag.compare(coloured_squares(), backbone=droppy_model(), attentions="cbam", run_dir=tmp_path, lr="find", **PLAIN)


def test_a_loss_that_is_nowhere_finite_is_said(tmp_path: Path):
    model = droppy_model()
    with torch.no_grad():
        model.head.weight.fill_(1e30)
    with pytest.raises(ConfigError, match="found no rate at which the loss is finite"):
        run_fit(model, coloured_squares(), tmp_path / "run", recipe=short_recipe(), lr="find")
