"""Segmentation: metrics against scikit-learn and brute force, losses, and a run from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sealed import read_plain
from sklearn.metrics import jaccard_score
from torch import nn
from training_helpers import run_fit, short_recipe

import attngraft as ag
from attngraft.comparison import compare
from attngraft.config import Preprocessing
from attngraft.data import load_data
from attngraft.data.masks import IGNORED, Masks
from attngraft.data.overlays import painted_masks
from attngraft.errors import BackboneError, ConfigError, DataError
from attngraft.reporting import write_report
from attngraft.tasks import LossOptions, Metric, Rows, Segmentation, task_of
from attngraft.tasks.pixel_metrics import boundary_f1, class_ious
from attngraft.tasks.segmentation import PixelLoss
from attngraft.testing import check_task
from attngraft.training import Silent

NAMES = ("sky", "road", "tree", "boat")
TASK = Segmentation(NAMES)


def masks(images: int = 12, classes: int = 3, seed: int = 0) -> np.ndarray:
    """Random masks of blocks, some pixels of which do not count; the last of the names never occurs."""
    rng = np.random.default_rng(seed)
    found = rng.integers(classes, size=(images, 4, 4)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    found[rng.random(found.shape) < 0.1] = IGNORED
    return found


def guesses(true: np.ndarray, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where((rng.random(true.shape) < 0.6) & (true != IGNORED), true, rng.integers(3, size=true.shape))


def scored(true: np.ndarray, said: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of a model that is sure of what it says."""
    logits = torch.nn.functional.one_hot(torch.from_numpy(said).long(), 4).permute(0, 3, 1, 2).float() * 9
    return TASK.scored_rows(lambda inputs: inputs, logits, torch.from_numpy(true).long())


def test_mean_iou_is_that_of_scikit_learn_over_the_classes_that_occur() -> None:
    true = masks()
    said = guesses(true)
    counting = true != IGNORED
    expected = jaccard_score(true[counting], said[counting], labels=[0, 1, 2], average=None)
    rows = scored(true, said)
    assert TASK.metrics["miou"].value(rows) == pytest.approx(expected.mean(), abs=1e-12)
    assert TASK.metrics["iou:road"].value(rows) == pytest.approx(expected[1], abs=1e-12)
    assert TASK.metrics["pixel-accuracy"].value(rows) == pytest.approx((true == said)[counting].mean(), abs=1e-12)
    summary = TASK.summary(rows)
    assert summary["absent"] == ["boat"]
    assert summary["per_class"][3] == {"class": "boat", "iou": None, "images": 0}


@pytest.mark.parametrize("name", ["miou", "iou:tree", "pixel-accuracy"])
def test_scores_are_pseudo_values_of_leaving_an_image_out(name: str) -> None:
    true = masks(8)
    true[1:][true[1:] == 2] = 0  # one class in one image only
    rows = scored(true, guesses(true))
    metric, count = TASK.metrics[name], len(true)
    whole = metric.value(rows)
    without = []
    for left in range(count):
        part = {key: np.delete(values, left, 0) for key, values in rows.items()}
        without.append(_without(metric, part, rows))
    pseudo = count * whole - (count - 1) * np.array(without)
    assert metric.scores(rows) == pytest.approx(pseudo - pseudo.mean() + whole, abs=1e-12)


def _without(metric: Metric, part: Rows, rows: Rows) -> float:
    """The value on a part of the images; classes that are left out with an image keep their own."""
    if metric.name == "pixel-accuracy":
        return metric.value(part)
    ious = np.where(np.isnan(class_ious(part)), class_ious(rows), class_ious(part))
    return float(np.nanmean(ious) if metric.name == "miou" else ious[NAMES.index(metric.name.partition(":")[2])])


def test_scores_of_an_image_count_what_it_has_or_was_said_to_have() -> None:
    true = np.zeros((2, 4, 4), dtype=np.uint8)
    true[0, :2] = 1
    said = true.copy()
    said[0, 0, 0] = 2  # one of 8 pixels of class 1, as a class that is not there
    rows = scored(true, said)
    assert TASK.metrics["image-iou"].scores(rows) == pytest.approx([np.mean([1, 7 / 8, 0]), 1])
    assert TASK.metrics["dice"].scores(rows) == pytest.approx([np.mean([1, 14 / 15, 0]), 1])


def test_boundaries_may_be_a_pixel_apart_and_no_more() -> None:
    true = np.zeros((40, 40), dtype=np.int64)
    true[:, 20:] = 1
    near, far = np.roll(true, 1, 1), np.roll(true, 6, 1)
    near[:, 0] = far[:, :6] = 0
    assert boundary_f1(true, true, IGNORED) == 1
    assert boundary_f1(near, true, IGNORED) == 1
    assert boundary_f1(far, true, IGNORED) == 0
    assert boundary_f1(np.zeros_like(true), true, IGNORED) == 0
    assert boundary_f1(np.zeros_like(true), np.zeros_like(true), IGNORED) == 1
    ignored = np.where(np.abs(np.arange(40) - 20) < 10, IGNORED, true)
    assert boundary_f1(far, np.broadcast_to(ignored, (40, 40)), IGNORED) == 1  # where it is not sure, nothing counts


def test_the_contract_holds() -> None:
    check_task(Segmentation, NAMES, Masks.pack(list(masks(classes=4)), 4))


@pytest.mark.parametrize("kind", ["auto", "cross-entropy", "dice", "focal"])
def test_pixels_that_do_not_count_have_no_gradient(kind: str) -> None:
    true = torch.from_numpy(masks(4)).long()
    logits = torch.randn(4, 4, 16, 16, requires_grad=True)
    loss = PixelLoss(kind, weights=torch.tensor([1.0, 2.0, 0.5, 1.0]))(logits, true)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() > 0
    assert (gradient.abs().sum(1) == 0)[true == IGNORED].all()
    assert (gradient.abs().sum(1) > 0)[true != IGNORED].all()


def test_logits_of_another_size_are_brought_to_the_masks() -> None:
    true = torch.from_numpy(masks(2)).long()
    coarse = torch.randn(2, 4, 8, 8)
    fine = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear", align_corners=False)
    assert PixelLoss("auto")(coarse, true) == PixelLoss("auto")(fine, true)


def test_a_mask_without_pixels_that_count_costs_nothing() -> None:
    nothing = torch.full((1, 8, 8), IGNORED)
    assert PixelLoss("auto")(torch.randn(1, 4, 8, 8), nothing) == 0


def test_networks_of_another_kind_are_refused() -> None:
    with pytest.raises(BackboneError, match="expected \\(images, classes, height, width\\)"):
        TASK.check(torch.zeros(2, 4))
    with pytest.raises(DataError, match="5 maps of logits and the data have 4 classes"):
        TASK.check(torch.zeros(2, 5, 8, 8))
    with pytest.raises(ConfigError, match="'bce' for segmentation"):
        TASK.criterion(Masks.pack(list(masks()), 4), LossOptions(loss="bce"))


class SmallSegmenter(nn.Module):
    """Three convolutions, half of the resolution in the middle."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.logits = nn.Conv2d(8, classes, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.logits(self.middle(self.down(images)))
        return {"out": nn.functional.interpolate(logits, scale_factor=2.0, mode="bilinear")}


@pytest.mark.parametrize("augment", ["none", "light", "strong"])
def test_a_run_with_a_graft_is_trained_saved_and_returned(augment: str, tmp_path: Path) -> None:
    data = load_data("cluttered-digits:masks", image_size=32, limit=20)
    torch.manual_seed(0)
    model = ag.graft(SmallSegmenter(len(data.classes)), "se", where="middle", input_size=32)
    options = {"image_size": 32, "augment": augment}
    result = run_fit(model, data, tmp_path / "run", recipe=short_recipe(2), **options)
    record = read_plain(tmp_path / "run" / "run.json")
    assert record["task"]["name"] == "segmentation"
    assert record["results"]["test"]["miou"] == result.score
    assert 0 < result.score < 1
    again = run_fit(model, data, tmp_path / "run", recipe=short_recipe(2), **options)
    assert again.score == result.score
    loaded = ag.load(tmp_path / "run", backbone=SmallSegmenter(len(data.classes)))
    assert task_of(loaded) == result.evaluation.task


def test_what_only_images_alone_can_have_is_refused(tmp_path: Path) -> None:
    data = load_data("cluttered-digits:masks", image_size=32, limit=20)
    for options, message in (
        ({"augment": "shift"}, "augment is shift, which moves or covers images without their targets"),
        ({"cutout": 0.2}, "cutout is 0.2, which moves"),
        ({"mixup": 0.2}, "mixing images is not available for segmentation"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_fit(SmallSegmenter(11), data, tmp_path, recipe=short_recipe(1), image_size=32, **options)
    assert not list(tmp_path.iterdir())


def make(num_classes: int) -> nn.Module:
    """A network for `compare`."""
    return SmallSegmenter(num_classes)


def test_a_comparison_has_a_verdict_and_shows_where_masks_differ(tmp_path: Path) -> None:
    data = load_data("cluttered-digits:masks", image_size=32, limit=20)
    result = compare(
        data,
        backbone=make,
        attentions=["se@middle"],
        seeds=2,
        run_dir=tmp_path,
        recipe=short_recipe(2),
        image_size=32,
        precision="fp32+contiguous",
        progress=Silent(),
    )
    record = read_plain(tmp_path / "comparison.json")
    assert record["metric"]["label"] == "mean IoU"
    assert record["effects"][0]["verdict"] in ("no evidence", "helps", "hurts")
    (start,) = record["at_start"].values()
    assert (start["images"], start["kept"], start["equal"]) == (20, 20, True)
    assert "points mean IoU" in str(result)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert record["samples"]
    for sample in record["samples"]:
        with Image.open(tmp_path / sample["file"]) as picture:
            assert picture.size == (3 * 112 + 2 * 4, 112)  # truth, without and with
    assert "Truth, without attention, with attention" in page


def test_masks_are_painted_over_what_the_network_sees() -> None:
    preprocessing = Preprocessing(image_size=32, resize="pad")
    image = torch.full((3, 16, 32), 100, dtype=torch.uint8)
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 32:] = 1
    mask[:16] = IGNORED
    picture = np.asarray(painted_masks(image, (mask, 0 * mask), preprocessing, 32), dtype=np.int64)
    assert picture.shape == (32, 32 + 4 + 32, 3)
    assert (picture[:8, :32] > 150).all()  # white where nothing counts
    assert (picture[12:20, 2:14] == 100).all()  # the background is not painted
    assert (picture[12:20, 18:30, 0] > picture[12:20, 18:30, 1] + 50).all()  # the first class is red
    assert (picture[12:20, 38:66] == 100).all()
