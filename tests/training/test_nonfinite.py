"""Where a number stops being finite, training stops with a sentence, and good weights are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sealed import read_plain
from torch import nn
from training_helpers import PREPROCESSING, AtStep, coloured_squares, contents, metrics, run_fit, short_recipe

from attngraft.backbones.metadata import BackboneInfo, note_backbone_
from attngraft.backbones.small_networks import SmallCNN
from attngraft.data import Dataset
from attngraft.data.loader import _order
from attngraft.data.pixel_store import decode_array
from attngraft.errors import TrainingError
from attngraft.surgery import load
from attngraft.training import Phase
from attngraft.training.checkpoint import read_newest

POISON = 20  # which training image is white all over


class Allergic(SmallCNN):
    """Goes wrong on images that are white all over, in a chosen way."""

    def __init__(self, way: str = "loss") -> None:
        super().__init__(3, 4)
        self.way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        white = x.amin((1, 2, 3)) > 1.9
        if self.way == "activations" and white.any():
            x = torch.where(white[:, None, None, None], x * float("inf"), x)
        logits = super().forward(x)
        if self.way == "loss" and white.any():
            logits = logits.masked_fill(white[:, None], float("nan"))
        if self.way == "gradient" and white.any():
            logits = logits + torch.sqrt(0 * logits)  # no value, but a slope without end
        return logits


def allergic(way: str) -> nn.Module:
    torch.manual_seed(0)
    return note_backbone_(Allergic(way), BackboneInfo("small-cnn", 3, PREPROCESSING))


@pytest.fixture(scope="module")
def poisoned() -> Dataset:
    data = coloured_squares()
    pixels = np.stack([data.train.image(i).permute(1, 2, 0).numpy() for i in range(len(data.train))])
    pixels[POISON] = 255
    return replace(data, train=replace(data.train, store=decode_array(pixels, limit=100).store))


RECIPE = short_recipe(epochs=2, augment="none")
STEP = _order(48, 0, 0, True, None).index(POISON) // 16 + 1  # when the image comes in the first epoch


@pytest.mark.parametrize(
    ("way", "what"),
    [("loss", "the loss is nan"), ("activations", "the loss is nan"), ("gradient", "the gradient's norm")],
)
@pytest.mark.parametrize("minutes", [10.0, 0.0])
def test_training_stops_with_the_step_and_the_files(
    tmp_path: Path, poisoned: Dataset, way: str, what: str, minutes: float
):
    folder, model = tmp_path / "run", allergic(way)
    with pytest.raises(TrainingError) as caught:
        run_fit(model, poisoned, folder, recipe=RECIPE, checkpoint_minutes=minutes)
    message = str(caught.value)
    assert message.startswith(what)
    assert f"at step {STEP} (epoch 1)" in message
    batch = _order(48, 0, 0, True, None)[16 * (STEP - 1) : 16 * STEP]
    assert ", ".join(poisoned.train.ids[i] for i in batch[:5]) + " and 11 more" in message
    assert "lr_scale" in message
    assert "last-good.safetensors" in message
    assert "\n" not in message


def assert_finite(tensors: dict[str, torch.Tensor]) -> None:
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.parametrize("way", ["loss", "activations", "gradient"])
def test_the_weights_and_statistics_are_those_from_before_the_step(tmp_path: Path, poisoned: Dataset, way: str):
    folder, model = tmp_path / "run", allergic(way)
    with pytest.raises(TrainingError):
        run_fit(model, poisoned, folder, recipe=RECIPE, checkpoint_minutes=0.0)
    checkpoint = read_newest(folder / "checkpoints")
    kept = load_file(folder / "last-good.safetensors")
    assert_finite(kept)
    assert kept.keys() == model.state_dict().keys()
    if STEP > 1:
        assert checkpoint is not None
        assert checkpoint.position.global_step == STEP - 1
        assert all(torch.equal(tensor, kept[name]) for name, tensor in checkpoint.part("model").items())
    loaded = load(folder / "last-good.safetensors", backbone=allergic(way))
    assert torch.isfinite(loaded(torch.zeros(1, 3, 16, 16))).all()


def test_the_run_is_not_finished_and_the_same_call_says_the_same(tmp_path: Path, poisoned: Dataset):
    folder = tmp_path / "run"
    messages, files = [], []
    for _ in range(2):
        with pytest.raises(TrainingError) as caught:
            run_fit(allergic("loss"), poisoned, folder, recipe=RECIPE, checkpoint_minutes=0.0)
        messages.append(str(caught.value))
        files.append(contents(folder))
    assert messages[0] == messages[1]
    assert files[0] == files[1]
    told = read_plain(folder / "run.json")
    assert told["status"] == "running"
    assert told["results"] is None
    assert told["stopped_because"] in messages[0]
    assert not (folder / "model.safetensors").exists()


def test_a_run_whose_cause_is_gone_goes_on_and_no_longer_says_that_it_stopped(tmp_path: Path, poisoned: Dataset):
    folder = tmp_path / "run"
    with pytest.raises(TrainingError):
        run_fit(allergic("loss"), poisoned, folder, recipe=RECIPE)
    run_fit(allergic("cured"), poisoned, folder, recipe=RECIPE)
    told = read_plain(folder / "run.json")
    assert told["status"] == "finished"
    assert "stopped_because" not in told


def spoil_at(step: int, model: nn.Module) -> AtStep:
    """Weights that are no numbers after a step."""
    return AtStep(step, lambda: model.head.weight.data.fill_(float("inf")))


def assert_kept_is_checkpoint_of(step: int, folder: Path) -> None:
    checkpoint = read_newest(folder / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.position.global_step == step
    kept = load_file(folder / "last-good.safetensors")
    assert_finite(kept)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in checkpoint.part("model").items())


def test_spoilt_weights_are_not_kept_but_those_of_the_last_checkpoint(tmp_path: Path, squares: Dataset):
    folder, model = tmp_path / "run", allergic("never")
    with pytest.raises(TrainingError, match=r"at step 5.*the weights of the last checkpoint are in"):
        run_fit(model, squares, folder, recipe=RECIPE, progress=spoil_at(4, model))
    assert_kept_is_checkpoint_of(3, folder)
    assert len(metrics(folder)) == 1


def test_weights_that_blew_up_are_no_good_ones_though_they_are_numbers(tmp_path: Path, squares: Dataset):
    phases = (Phase("calm", epochs=1, lr=0.01), Phase("wild", epochs=1, lr=1e30, schedule="constant"))
    folder, model = tmp_path / "run", allergic("never")
    with pytest.raises(TrainingError, match=r"at step 5.*the weights of the last checkpoint are in"):
        run_fit(model, squares, folder, recipe=replace(RECIPE, phases=phases))
    assert_kept_is_checkpoint_of(3, folder)


def test_a_checkpoint_never_replaces_good_weights_with_bad_ones(tmp_path: Path, squares: Dataset):
    folder, model = tmp_path / "run", allergic("never")
    with pytest.raises(TrainingError, match=r"model/head\.weight is not finite at step 4"):
        run_fit(model, squares, folder, recipe=RECIPE, checkpoint_minutes=0.0, progress=spoil_at(4, model))
    assert_kept_is_checkpoint_of(3, folder)


def test_without_any_good_weights_nothing_is_kept_and_that_is_said(tmp_path: Path, squares: Dataset):
    model = allergic("never")
    with pytest.raises(TrainingError, match=r"at step 2 .*there are no good weights to keep"):
        run_fit(model, squares, tmp_path / "run", recipe=RECIPE, progress=spoil_at(1, model))
    assert not (tmp_path / "run" / "last-good.safetensors").exists()
