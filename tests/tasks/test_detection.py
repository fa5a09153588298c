"""Detection: rows, losses, refusals, and a run from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sealed import read_plain
from small_detector import blocks, small_detector
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN
from training_helpers import run_fit, short_recipe

import attngraft as ag
from attngraft.comparison import compare
from attngraft.config import Preprocessing
from attngraft.data import load_data
from attngraft.data.object_boxes import BoxBatch, Boxes, Objects
from attngraft.data.overlays import drawn_boxes
from attngraft.errors import BackboneError, ConfigError, DataError
from attngraft.reporting import write_report
from attngraft.surgery.model_output import main_output, packed_boxes
from attngraft.tasks import Detection, LossOptions, task_of
from attngraft.tasks.detection import image_costs, summed_losses
from attngraft.testing import check_task
from attngraft.training import Silent

NAMES = ("cat", "dog", "cow")
TASK = Detection(NAMES)
DATA: dict[str, Any] = {"image_size": 64, "limit": 12}
PREPROCESSING = {"image_size": 64, "resize": "pad"}


def objects(images: int = 8, seed: int = 0) -> Boxes:
    """Up to three objects in each image, none in the last."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(images):
        count = 0 if i == images - 1 else int(rng.integers(1, 4))
        corners = rng.integers(0, 30, size=(count, 2))
        boxes = np.concatenate([corners, corners + rng.integers(8, 32, size=(count, 2))], 1)
        area = rng.choice([500, 5_000, 50_000], size=count)  # all of COCO's sizes
        found.append(Objects.of(boxes, rng.integers(3, size=count), area=area))
    return Boxes.pack(found, 3)


def said(*detections: tuple[list[float], float, int]) -> dict[str, Tensor]:
    """What a detector returns for an image, from boxes, scores and labels."""
    return {
        "boxes": torch.tensor([box for box, _, _ in detections]).view(-1, 4),
        "scores": torch.tensor([score for _, score, _ in detections]),
        "labels": torch.tensor([label for _, _, label in detections], dtype=torch.int64),
    }


def scored(truth: Boxes, detections: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    images = torch.zeros(len(detections), 3, 64, 64)
    return TASK.scored_rows(lambda _: main_output(detections), images, truth.collate(range(len(truth))))


def test_the_contract_holds() -> None:
    torch.manual_seed(0)
    check_task(Detection, NAMES, objects(), model=small_detector(3))


def test_rows_of_all_batches_have_the_same_places() -> None:
    truth = objects()
    rows = scored(truth, [said(([0, 0, 9, 9], 0.5, 1))] * 8)
    assert truth.most == 3
    assert rows["boxes"].shape == (8, 100, 4)
    assert rows["truth_boxes"].shape == (8, 3, 4)
    part = scored(truth.select([7]), [said()])
    assert part["truth_labels"].tolist() == [[-1, -1, -1]]
    assert {name: values.shape[1:] for name, values in part.items()} == {n: v.shape[1:] for n, v in rows.items()}


def test_the_best_boxes_are_kept_in_the_order_of_their_scores() -> None:
    scores = torch.rand(150)
    packed = packed_boxes([{"boxes": torch.rand(150, 4), "scores": scores, "labels": torch.ones(150)}, said()])
    assert packed.shape == (2, 100, 6)
    assert torch.equal(packed[0, :, 4], scores.sort(descending=True).values[:100])
    assert (packed[1, :, 5] == -1).all()


def test_average_precision_of_two_images_by_hand() -> None:
    truth = Boxes.pack([Objects.of([[0, 0, 20, 20], [30, 30, 60, 60]], [0, 1]), Objects.of([[0, 0, 20, 20]], [0])], 3)
    rows = scored(
        truth,
        [
            said(([0, 0, 20, 20], 0.9, 0), ([30, 30, 60, 60], 0.4, 0)),  # a hit, and one of the wrong class
            said(([40, 40, 50, 50], 0.8, 0), ([0, 0, 20, 16], 0.6, 0)),  # background, and a hit of overlap 0.8
        ],
    )
    # cat: hit, miss, hit, miss; precision 1 up to recall 0.5 (51 levels), then 2/3 (50 levels); dog: nothing
    assert TASK.metrics["ap50"].value(rows) == pytest.approx((51 + 50 * 2 / 3) / 101 / 2)
    assert TASK.metrics["ap"].value(rows) == pytest.approx((7 * (51 + 50 * 2 / 3) + 3 * 51) / 10 / 101 / 2)
    summary = TASK.summary(rows)
    assert summary["errors"]["class"] == 1
    assert summary["errors"]["background"] == 1
    assert summary["absent"] == ["cow"]
    assert summary["per_class"][1] == {"class": "dog", "ap": 0.0, "objects": 1, "images": 1}
    assert summary["ap_large"] is None
    assert image_costs(rows) == pytest.approx([(0.1**2 + 1 + 0.4**2) / 2, 0.4**2 + 0.8**2], abs=1e-6)
    assert TASK.caption(rows, 0) == ("cat (2)", "cat, dog")


def test_boxes_are_in_pixels_of_the_file() -> None:
    shown = Objects.of([[10, 10, 50, 50]], [0]).shrunk(0.5, 0.25)
    rows = scored(Boxes.pack([shown], 3), [said(([5, 2.5, 25, 12.5], 0.9, 0))])
    assert rows["boxes"][0, 0].tolist() == rows["truth_boxes"][0, 0].tolist() == [10, 10, 50, 50]
    assert TASK.metrics["ap-medium"].value(rows) == pytest.approx(1)  # 1,600 pixels of the file, 200 of the input
    true, predicted = TASK.pictured_boxes(rows, 0)
    assert true.tolist() == predicted.tolist() == [[5, 2.5, 25, 12.5, 0]]


def test_crowds_are_not_learned() -> None:
    seen: list[Any] = []

    def model(images: Tensor, targets: Any) -> dict[str, Tensor]:
        seen.extend(targets)
        return {"one": torch.tensor(1.0), "other": torch.tensor([2.0])}

    truth = Boxes.pack([Objects.of([[0, 0, 9, 9], [0, 0, 5, 5]], [0, 1], [True, False])], 3)
    loss, _ = TASK.criterion(truth, LossOptions())(model, torch.zeros(1, 3, 64, 64), truth.collate([0]))
    assert loss == 3
    assert [one["labels"].tolist() for one in seen] == [[1]]


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="expected a detector"):
        TASK.check(torch.zeros(2, 3))
    with pytest.raises(DataError, match="objects of class 3 and the data have 3 classes"):
        TASK.check(packed_boxes([said(([0, 0, 9, 9], 0.5, 3))]))
    with pytest.raises(BackboneError, match="a Tensor in train mode: expected a dict of losses"):
        summed_losses(torch.zeros(()))
    with pytest.raises(ConfigError, match="'focal' for detection"):
        TASK.criterion(objects(), LossOptions(loss="focal"))
    data = load_data("cluttered-digits:boxes", **DATA)
    with pytest.raises(BackboneError, match="expected a detector"):
        run_fit(ag.create_backbone("small-cnn", num_classes=10), data, tmp_path, recipe=short_recipe(1), image_size=64)
    for options, message in (
        ({"augment": "shift"}, "without their targets"),
        ({"mixup": 0.2}, "mixing images is not available for detection"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_fit(small_detector(10), data, tmp_path, recipe=short_recipe(1), image_size=64, **options)


def test_detectors_of_another_kind_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = load_data("cluttered-digits:boxes", **DATA)
    masks = ag.create_backbone("torchvision:maskrcnn_resnet50_fpn", num_classes=10, pretrained=False)
    own = small_detector(10)
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    own.transform = GeneralizedRCNNTransform(64, 64, [0.5] * 3, [0.5] * 3)
    for model, message in (
        (masks, "finds masks too"),
        (own, "resizes and normalises its images itself"),
        (
            ag.create_backbone("fcos:timm:resnet18", num_classes=9, pretrained=False),
            "for 9 classes and the data have 10",
        ),
    ):
        with pytest.raises((BackboneError, DataError), match=message):
            run_fit(model, data, tmp_path / "run", recipe=short_recipe(1), image_size=64)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("augment", ["none", "light", "strong"])
def test_a_run_with_a_graft_is_trained_saved_and_returned(augment: str, tmp_path: Path) -> None:
    data = load_data("cluttered-digits:boxes", **DATA)
    torch.manual_seed(0)
    model = ag.graft(small_detector(10), "se", where="neck", input_size=64)
    options = {"augment": augment, "preprocessing": PREPROCESSING}
    result = run_fit(model, data, tmp_path / "run", recipe=short_recipe(2), **options)
    record = read_plain(tmp_path / "run" / "run.json")
    assert record["task"]["name"] == "detection"
    assert record["results"]["test"]["ap"] == result.score
    assert record["results"]["test"]["objects"] == len(data.test)
    again = run_fit(model, data, tmp_path / "run", recipe=short_recipe(2), **options)
    assert again.score == result.score
    loaded = ag.load(tmp_path / "run", backbone=small_detector(10))
    assert task_of(loaded) == result.evaluation.task


def test_training_finds_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"preprocessing": PREPROCESSING, "augment": "none", "lr": 0.01, "batch_size": 8}
    result = run_fit(small_detector(3), blocks(), tmp_path, recipe=short_recipe(12), **options)
    assert result.evaluation.value("ap50") > 0.3


def test_a_detector_has_no_phase_for_the_head_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {"preprocessing": PREPROCESSING, "recipe": "full", "epochs": 1, "batch_size": 8}
    run_fit(small_detector(3), blocks(train=8, test=8), tmp_path, **options)
    recipe = read_plain(tmp_path / "run.json")["recipe"]
    assert [phase["name"] for phase in recipe["phases"]] == ["all"]
    assert recipe["head"] == "train"


def make(num_classes: int) -> nn.Module:
    """A network for `compare`."""
    return small_detector(num_classes)


def test_a_comparison_has_a_verdict_and_shows_where_boxes_differ(tmp_path: Path) -> None:
    result = compare(
        blocks(),
        backbone=make,
        attentions=["se@neck"],
        seeds=2,
        run_dir=tmp_path,
        recipe=short_recipe(5),
        batch_size=8,
        preprocessing=PREPROCESSING,
        augment="none",
        lr=0.02,
        precision="fp32+contiguous",
        progress=Silent(),
    )
    record = read_plain(tmp_path / "comparison.json")
    assert record["metric"]["label"] == "AP50:95"
    assert record["effects"][0]["verdict"] in ("no evidence", "helps", "hurts")
    (start,) = record["at_start"].values()
    assert (start["images"], start["kept"], start["equal"]) == (16, 16, True)
    assert "points AP50:95" in str(result)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert record["samples"]
    for sample in record["samples"]:
        with Image.open(tmp_path / sample["file"]) as picture:
            assert picture.size == (3 * 112 + 2 * 4, 112)  # truth, without and with
    assert "Truth, without attention, with attention" in page


def test_boxes_are_drawn_where_they_are() -> None:
    image = torch.full((3, 32, 64), 100, dtype=torch.uint8)
    boxes = np.array([[8.0, 20.0, 40.0, 44.0, 0.0]])
    preprocessing = Preprocessing(image_size=64, resize="pad")
    picture = np.asarray(drawn_boxes(image, (boxes, boxes[:0]), preprocessing, 64), dtype=np.int64)
    assert picture.shape == (64, 64 + 4 + 64, 3)
    red = (picture[..., 0] > picture[..., 1] + 20) & (picture[..., 0] > picture[..., 2] + 20)
    rows, columns = np.nonzero(red)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 43, 8, 39)
    assert not red[24:40, 12:36].any()


def test_a_batch_is_learned_in_parts_too() -> None:
    torch.manual_seed(0)
    model, batch = small_detector(3).train(), objects().collate(range(8))
    criterion = TASK.criterion(objects(), LossOptions())
    images = torch.randn(8, 3, 64, 64)
    whole, _ = criterion(model, images, batch)
    parts = []
    for part in (slice(0, 4), slice(4, 8)):
        chosen = batch[part]
        assert isinstance(chosen, BoxBatch)
        parts.append(criterion(model, images[part], chosen)[0])
    assert torch.isfinite(whole)
    assert torch.isfinite(torch.stack(parts)).all()


def test_labels_of_detectors_with_a_background_are_those_of_the_data() -> None:
    for spec, kind in (("fasterrcnn:timm:resnet18", FasterRCNN), ("fcos:timm:resnet18", FCOS)):
        model = ag.create_backbone(spec, num_classes=1, pretrained=False)
        assert isinstance(model, kind)
        images = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            found = model.eval()(images)
        assert {int(label) for one in found for label in one["labels"]} == {0}
        targets = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([0])}] * 2
        assert torch.isfinite(summed_losses(model.train()(images, targets)))
        assert targets[0]["labels"].tolist() == [0]
