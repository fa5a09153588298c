"""Test-time augmentation: the mean over views, which ones, and where images are not mirrored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from training_helpers import PREPROCESSING, coloured_squares, run_fit, short_recipe
from typer.testing import CliRunner

import attngraft as ag
from attngraft.cli import app
from attngraft.config import Preprocessing, Resize
from attngraft.data import Origin
from attngraft.errors import ConfigError
from attngraft.tasks import Classification, MultiLabel, Regression, Task, note_task_of_

SIDE = 4
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)  # not shrunk for inputs of 4 pixels
LARGER = Preprocessing(image_size=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear", crop_pct=0.66)
ABC = ("a", "b", "c")


class Corners(nn.Module):
    """Three corners of the input's first channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.stack([x[:, 0, 0, 0], x[:, 0, 0, -1], x[:, 0, -1, 0]], 1)


def views(places: list[tuple[int, int]]) -> np.ndarray:
    """(V, 3) what the network gives for the views at these places and their mirror images, by hand."""
    crops = [IMAGE[top : top + SIDE, left : left + SIDE, 0] / 255 for top, left in places]
    both = [view for crop in crops for view in (crop, crop[:, ::-1])]
    return np.array([[3 * view[0, 0], 3 * view[0, -1], 3 * view[-1, 0]] for view in both])


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def predicted(task: Task, resize: Resize = "crop", crop_pct: float = 0.66) -> ag.Predictions:
    wanted = replace(LARGER, resize=resize, crop_pct=crop_pct)
    return ag.predict(note_task_of_(Corners(), task), [IMAGE], preprocessing=wanted, tta=True)


def test_probabilities_are_the_mean_over_the_centre_four_corners_and_their_mirror_images():
    logits = views([(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)])
    found = predicted(Classification(ABC))
    assert found.probabilities.dtype == np.float32
    assert found.probabilities[0] == pytest.approx(softmax(logits).mean(0), abs=1e-6)


def test_labels_are_decided_by_mean_probabilities_and_numbers_are_means():
    logits = views([(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)])
    mean = (1 / (1 + np.exp(-logits))).mean(0)
    thresholds = (float(mean[0]) + 1e-3, float(mean[1]) - 1e-3, 0.5)
    labels = predicted(MultiLabel(ABC, thresholds))
    assert labels.rows["decisions"][0].tolist() == [0, 1, int(mean[2] >= 0.5)]
    numbers = predicted(Regression(ABC, mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 2.0)))
    assert numbers.rows["predictions"][0] == pytest.approx(logits.mean(0) * [1, 1, 2] + [1, 2, 3], abs=1e-5)


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_an_image_that_is_not_cropped_has_itself_and_its_mirror_image(resize: Resize):
    big = Preprocessing(image_size=6, mean=(0.0,) * 3, std=(1.0,) * 3, resize=resize)
    model = note_task_of_(Corners(), Classification(ABC))
    first, last = IMAGE[:, :, 0] / 255, IMAGE[:, ::-1, 0] / 255
    logits = np.array([[3 * view[0, 0], 3 * view[0, -1], 3 * view[-1, 0]] for view in (first, last)])
    found = ag.predict(model, [IMAGE], preprocessing=big, tta=True)
    assert found.probabilities[0] == pytest.approx(softmax(logits).mean(0), abs=1e-6)


def test_digits_are_not_mirrored_whether_the_images_or_the_run_says_so(tmp_path: Path):
    data = coloured_squares()
    upright = replace(data, mirrorable=False)
    digits = replace(data, origin=Origin(source="cluttered-digits:train=48"))
    runs = {}
    for name, trained in {"any": data, "digits": digits}.items():
        runs[name] = run_fit(
            ag.create_backbone("small-cnn", num_classes=3), trained, tmp_path / name, recipe=short_recipe(epochs=1)
        ).run_dir
    once = replace(PREPROCESSING, resize="squash")  # one view, and its mirror image
    for run, images, is_mirrored in (
        (runs["any"], data, True),
        (runs["any"], upright, False),
        (runs["digits"], data, False),
    ):
        plain, tta = (ag.predict(run, images, preprocessing=once, tta=tta) for tta in (False, True))
        assert np.array_equal(plain.probabilities, tta.probabilities) != is_mirrored


def test_a_task_that_has_no_mean_is_refused(monkeypatch):
    monkeypatch.setattr(Classification, "supports", frozenset())
    with pytest.raises(
        ConfigError, match="tta is not available for classification: it works for multilabel, regression"
    ):
        predicted(Classification(ABC))


def test_the_command_has_it_off_by_default(tmp_path: Path):
    torch.manual_seed(0)
    ag.save(ag.create_backbone("small-cnn", num_classes=3), tmp_path / "model.safetensors", classes=ABC)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    command = ["predict", str(tmp_path / "model.safetensors"), str(tmp_path / "x.png"), "--top", "3"]
    told = [CliRunner().invoke(app, [*command, *more]).stdout for more in ([], ["--tta"])]
    plain, tta = (ag.predict(tmp_path / "model.safetensors", tmp_path / "x.png", tta=tta) for tta in (False, True))
    assert told == [plain.to_csv(3), tta.to_csv(3)]
    assert told[0] != told[1]
