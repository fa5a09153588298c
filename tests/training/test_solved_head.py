"""Heads that are solved before training: which, from what, and how a run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_helpers import (
    CLASSES,
    PREPROCESSING,
    SIZE,
    TWO_PHASES,
    AtStep,
    assert_same_run,
    classes_evaluation,
    coloured_squares,
    droppy_model,
    run_fit,
    small_model,
    with_targets,
)

from attngraft.backbones import create_backbone
from attngraft.data.targets import LabelSets, Values
from attngraft.errors import ConfigError
from attngraft.settings.recipe import Recipe, load_recipe, with_head_phase
from attngraft.surgery import find_head, graft, note_classes_
from attngraft.tasks import Classification, LossOptions
from attngraft.training import RunFolder, solved_head
from attngraft.training.evaluate import EvaluationContext
from attngraft.training.solved_head import solvable_layer, solve_head_

PROBE = Recipe("probe", (), head="solve", batch_size=16)
SOLVED = Recipe("solved", TWO_PHASES, head="solve", batch_size=16, ema_decay=0.5)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return (self.one(x) + self.two(x)) / 2


def sequence(*last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), *last)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (small_model, "head"),
        (droppy_model, "head"),
        (lambda: sequence(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)), "5"),
        (lambda: sequence(nn.Conv2d(4, 3, 1), nn.Flatten()), "3"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), None),
        (lambda: sequence(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3)), None),
        (lambda: sequence(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid()), None),
        (TwoHeads, None),
        (lambda: create_backbone("timm:test_efficientnet", num_classes=3, pretrained=False), "classifier"),
        (lambda: create_backbone("timm:test_vit", num_classes=3, pretrained=False), "head"),
        (lambda: create_backbone("torchvision:squeezenet1_1", num_classes=3, pretrained=False), None),
    ],
    ids=["cnn", "dropout", "sequence", "convolution", "map", "batchnorm", "sigmoid", "two", "timm", "vit", "squeezenet"],
)  # fmt: skip
def test_the_layer_that_makes_the_logits_is_found_where_it_is_alone(make, path):
    model = make()
    size = 160 if path == "head" and type(model).__name__ == "VisionTransformer" else 64
    size = SIZE if type(model).__name__ in ("SmallCNN", "Droppy") else size
    example = torch.zeros(1, 3, size, size)
    assert solvable_layer(model, find_head(model, example_input=example).layers, example) == path


def test_a_probe_changes_the_head_alone_and_is_what_is_evaluated(tmp_path: Path):
    model, data = droppy_model(), coloured_squares()
    for norm in (model.stem[1], model.branch[1]):
        norm.running_mean.fill_(0.2)  # a network that was trained
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = run_fit(model, data, tmp_path / "run", recipe=PROBE)
    moved = {name for name, tensor in result.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"head.weight", "head.bias"}
    assert result.history == ()
    assert result.score > 0.6
    record = RunFolder(result.run_dir).read()
    assert record.preparation[0].startswith("the head was solved on the features of 48 training images")


def test_batchnorm_of_a_new_network_is_measured_before_its_head_is_solved(tmp_path: Path):
    """Else the features of the first step would have other units than those that the head was solved on."""
    still = Recipe("still", (replace(TWO_PHASES[1], epochs=1, lr=1e-12),), head="solve", batch_size=16, augment="none")
    result = run_fit(small_model(), coloured_squares(), tmp_path / "run", recipe=still)
    solved = run_fit(small_model(), coloured_squares(), tmp_path / "probe", recipe=PROBE)
    assert result.history[0]["train_loss"] < 2 * solved.evaluation.loss
    record = RunFolder(result.run_dir).read()
    assert record.preparation[0] == "the statistics of 3 layers of BatchNorm were measured on 48 training images."


@pytest.mark.parametrize(("policy", "moves"), [("frozen", False), ("fixed", False), ("recalibrate", True)])
def test_a_probe_measures_batchnorm_where_it_is_asked_to(tmp_path: Path, policy, moves):
    model = droppy_model()
    for norm in (model.stem[1], model.branch[1]):
        norm.running_mean.fill_(0.2)
    before = model.stem[1].running_mean.clone()
    run_fit(model, coloured_squares(), tmp_path / "run", recipe=replace(PROBE, batchnorm=policy))
    assert torch.equal(model.stem[1].running_mean, before) != moves


def test_grafts_that_are_identities_start_with_the_same_head(tmp_path: Path):
    data = coloured_squares()
    plain = run_fit(droppy_model(), data, tmp_path / "plain", recipe=PROBE).model
    grafted = graft(droppy_model(), "cbam", where="stem", input_size=(3, SIZE, SIZE))
    stop = AtStep(0, lambda: None)
    seen: list[torch.Tensor] = []
    run_fit(
        grafted,
        data,
        tmp_path / "grafted",
        recipe=replace(SOLVED, ema_decay=0.0, phases=(replace(TWO_PHASES[0], lr=1e-12),)),
        on_epoch=lambda rows: bool(seen.append(grafted.head.weight.detach().clone())),
        progress=stop,
    )
    torch.testing.assert_close(seen[0], plain.head.weight, rtol=1e-5, atol=1e-6)


def test_a_seed_does_not_change_the_solved_head(tmp_path: Path):
    runs = [run_fit(droppy_model(), coloured_squares(), tmp_path / str(s), recipe=PROBE, seed=s) for s in (0, 1)]
    assert torch.equal(runs[0].model.head.weight, runs[1].model.head.weight)


@pytest.mark.parametrize(
    ("make", "names", "table"),
    [
        (LabelSets, ("warm", "cold"), np.array([[1, 0], [0, 1], [0, 0]])),
        (Values, ("hue", "depth"), np.array([[0.0, 5.0], [120.0, -5.0], [240.0, 0.0]])),
    ],
    ids=["multilabel", "regression"],
)
def test_the_head_of_every_task_is_solved(tmp_path: Path, make, names, table):
    data = with_targets(make, names, table)
    model = droppy_model()
    model.head = nn.Linear(128, 2)
    result = run_fit(model, data, tmp_path / "run", recipe=PROBE)
    chance = {"map": 0.5, "mae": 45.0}
    metric = "map" if make is LabelSets else "mae"
    value = result.evaluation.value(metric)
    assert value > chance[metric] + 0.2 if metric == "map" else value < chance[metric]


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_training_that_goes_on_keeps_the_head_it_has_solved(tmp_path: Path, step: int):
    data = coloured_squares(val=12)
    whole = run_fit(droppy_model(), data, tmp_path / "whole", recipe=SOLVED)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_fit(droppy_model(), data, tmp_path / "cut", recipe=SOLVED, progress=AtStep(step, stop))
    assert_same_run(run_fit(droppy_model(), data, tmp_path / "cut", recipe=SOLVED), whole)


def test_a_training_that_is_stopped_while_the_head_is_solved_ends_with_the_same_bits(tmp_path, monkeypatch):
    data, solve = coloured_squares(), Classification.solve_head
    whole = run_fit(droppy_model(), data, tmp_path / "whole", recipe=SOLVED)

    def stopped(*given: object) -> None:
        raise KeyboardInterrupt

    model = droppy_model()
    monkeypatch.setattr(Classification, "solve_head", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_fit(model, data, tmp_path / "cut", recipe=SOLVED)
    monkeypatch.setattr(Classification, "solve_head", solve)
    assert_same_run(run_fit(model, data, tmp_path / "cut", recipe=SOLVED), whole)


def test_a_head_that_knows_the_classes_is_kept(tmp_path: Path):
    model = note_classes_(droppy_model(), CLASSES)
    result = run_fit(model, coloured_squares(), tmp_path / "run", recipe=SOLVED)
    record = RunFolder(result.run_dir).read()
    assert record.preparation == ()
    assert record.recipe == replace(SOLVED, head="train")


def test_a_head_that_cannot_be_solved_gets_a_phase(tmp_path: Path):
    model = TwoHeads()
    result = run_fit(model, coloured_squares(), tmp_path / "run", recipe=SOLVED, preprocessing=PREPROCESSING)
    assert [row["phase"] for row in result.history] == ["head", "head", "all", "all"]
    assert RunFolder(result.run_dir).read().recipe == with_head_phase(SOLVED)


def test_a_probe_of_grafts_is_refused(tmp_path: Path):
    model = graft(droppy_model(), "cbam", where="stem", input_size=(3, SIZE, SIZE))
    with pytest.raises(ConfigError, match="solves the head alone, so the grafts would stay as they are"):
        run_fit(model, coloured_squares(), tmp_path / "run", recipe=PROBE)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["epochs", "lr"])
def test_a_probe_has_no_epochs(option: str):
    with pytest.raises(ConfigError, match=f"recipe 'probe' solves the head and trains nothing: leave out {option}"):
        load_recipe("probe", **{option: 1})


def test_features_beyond_memory_are_those_of_fewer_images(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(solved_head, "MOST_FEATURE_BYTES", 4 * 128 * 20)
    result = run_fit(droppy_model(), coloured_squares(), tmp_path / "run", recipe=PROBE)
    assert "20 training images of 48" in RunFolder(result.run_dir).read().preparation[-2]


def test_rare_classes_weigh_more_where_the_recipe_says_so(tmp_path: Path):
    data = coloured_squares(train=48)
    few = replace(data, train=data.train.select([i for i in range(48) if i % 3 or i < 9]))
    plain = run_fit(droppy_model(), few, tmp_path / "plain", recipe=PROBE)
    for name, fields in {"loss": {"class_weights": "balanced"}, "sampler": {"sampler": "balanced"}}.items():
        run = run_fit(droppy_model(), few, tmp_path / name, recipe=replace(PROBE, **fields))
        assert (run.evaluation.probabilities[:, 0].mean()) > plain.evaluation.probabilities[:, 0].mean()


def test_predictions_of_a_probe_can_be_kept(tmp_path: Path):
    result = run_fit(droppy_model(), coloured_squares(), tmp_path / "run", recipe=PROBE)
    again = run_fit(droppy_model(), coloured_squares(), tmp_path / "run", recipe=PROBE)
    assert np.array_equal(again.evaluation.probabilities, result.evaluation.probabilities)
    assert classes_evaluation(result.evaluation.probabilities, result.evaluation.labels).score == result.score


def test_images_of_a_group_are_left_out_together(monkeypatch):
    data, seen = coloured_squares(), []
    pairs = np.array([str(number // 2) for number in range(len(data.train))])

    def solve(self: Classification, features: torch.Tensor, targets: object, left_out: object, options: object) -> None:
        seen.append(left_out)
        raise KeyboardInterrupt

    monkeypatch.setattr(Classification, "solve_head", solve)
    grouped = replace(data.train, groups=pairs)
    with pytest.raises(KeyboardInterrupt):
        solve_head_(
            droppy_model(), "head", grouped, EvaluationContext(Classification(CLASSES), PREPROCESSING), LossOptions()
        )
    (left_out,) = seen
    assert set(left_out) == set(range(5))
    assert (left_out[0::2] == left_out[1::2]).all()
