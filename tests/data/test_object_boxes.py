"""Boxes as targets: reading, splits, and transforms that keep boxes on their objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attngraft.config import Preprocessing
from attngraft.data import build_transform, load_data, make_loader
from attngraft.data.dataset import Dataset
from attngraft.data.geometry import boxes_in_input
from attngraft.data.object_boxes import BoxBatch, Boxes, Objects
from attngraft.errors import ConfigError, DataError

GREY = (124, 116, 104)  # the mean colour, which borders have too


def coloured(path: Path, boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = (80, 60)) -> None:
    """An image in the mean colour with a red first and a green second object."""
    image = Image.new("RGB", size, GREY)
    for box, colour in zip(boxes, ((255, 0, 0), (0, 255, 0)), strict=False):
        image.paste(colour, box)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Twelve images: with a red object of class 0 and a green one of class 1, but the last, which is empty."""
    images, annotations = [], []
    for i in range(12):
        boxes = [] if i == 11 else [(8 + i, 10, 28 + i, 30), (44, 20 + i, 70, 40 + i)]
        coloured(tmp_path / f"{i:02d}.png", boxes)
        images.append({"id": i, "file_name": f"{i:02d}.png", "width": 80, "height": 60})
        for k, (x0, y0, x1, y1) in enumerate(boxes):
            size = [x1 - x0, y1 - y0]
            annotations.append({"id": 2 * i + k + 1, "image_id": i, "category_id": k + 1, "bbox": [x0, y0, *size]}
                               | {"area": size[0] * size[1], "iscrowd": 0})  # fmt: skip
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "_annotations.coco.json").write_text(json.dumps(document), encoding="utf-8")
    return tmp_path


def loaded(folder: Path, image_size: int = 64) -> Dataset:
    return load_data(folder / "_annotations.coco.json", image_size=image_size, test_fraction=0.25)


def test_a_file_of_coco_is_data_for_detection(coco: Path) -> None:
    data = loaded(coco)
    assert (data.task, data.classes) == ("detection", ("red", "green"))
    assert len(data.train) + len(data.test) == 12
    assert isinstance(data.train.targets, Boxes)
    found = {name: data.train.targets.get(i) for i, name in enumerate(data.train.ids)}
    name = next(name for name in found if name != "11.png")
    first = int(name[:2])
    assert found[name].boxes.tolist() == [[8 + first, 10, 28 + first, 30], [44, 20 + first, 70, 40 + first]]
    assert found[name].labels.tolist() == [0, 1]
    assert data.train.targets.most == 2
    with pytest.raises(DataError, match="expected a CSV file or a folder"):
        load_data(coco / "_annotations.coco.json", image_size=64, task="segmentation")


def test_boxes_are_in_pixels_of_the_stored_image_and_say_the_scale_of_the_file(coco: Path) -> None:
    small, whole = loaded(coco, 28), loaded(coco)
    for position, name in enumerate(small.train.ids):
        mine, own = small.train.targets.get(position), whole.train.targets.get(whole.train.ids.index(name))
        height, width = small.train.store.shapes[small.train.rows[position]].tolist()
        assert (height, width) != (60, 80)
        assert mine.boxes == pytest.approx(own.boxes * np.array([width / 80, height / 60] * 2), abs=1e-4)
        assert mine.scale == pytest.approx((80 / width, 60 / height))
        assert mine.area.tolist() == own.area.tolist()


def test_the_fingerprint_depends_on_the_boxes(coco: Path) -> None:
    before, file = loaded(coco).fingerprint, coco / "_annotations.coco.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    document["annotations"][0]["bbox"][2] -= 1
    file.write_text(json.dumps(document), encoding="utf-8")
    assert loaded(coco).fingerprint != before


def test_targets_are_chosen_joined_and_stratified() -> None:
    one, two = Objects.of([[0, 0, 4, 4], [1, 1, 3, 3]], [0, 0]), Objects.of([[0, 0, 2, 2]], [1])
    boxes = Boxes.pack([one, two, Objects.of([], []), one], 3)
    assert boxes.strata.tolist() == [0, 1, 3, 0]
    assert boxes.present == {0, 1}
    assert boxes.most == boxes.select([1]).most == 2  # the same for all parts of the data
    joined = boxes.select([1]).extend([boxes.select([0])])
    assert [objects.labels.tolist() for objects in joined.images] == [[1], [0, 0]]
    assert len({boxes.digest(i) for i in range(4)}) == 3


def test_a_batch_is_sliced_and_moved_like_a_tensor() -> None:
    boxes = Boxes.pack([Objects.of([[0, 0, 4, 4]] * n, [0] * n) for n in (2, 0, 1)], 1)
    batch = boxes.collate([0, 1, 2])
    assert [image["boxes"].shape for image in batch] == [(2, 4), (0, 4), (1, 4)]
    part = batch[1:]
    assert isinstance(part, BoxBatch)
    assert (len(part), part.most) == (2, 2)
    moved = part.to("meta", non_blocking=True)
    assert all(tensor.device.type == "meta" for image in moved for tensor in image.values())


@pytest.mark.parametrize("level", ["none", "light", "strong"])
@pytest.mark.parametrize("mirror", [False, True])
def test_boxes_stay_on_their_objects(coco: Path, level: str, mirror: bool) -> None:
    data, preprocessing = loaded(coco), Preprocessing(image_size=64, resize="pad", mean=(0.485, 0.456, 0.406))
    transform = build_transform(level, preprocessing, train=True, mirror=mirror)
    assert transform.boxes is not None
    seen = 0
    for epoch in range(4):
        for position in range(len(data.train)):
            torch.manual_seed(100 * epoch + position)
            image, target = transform.boxes(data.train.image(position), data.train.targets.get(position))
            assert image.shape == (3, 64, 64)
            assert type(image) is Tensor
            for box, label in zip(target["boxes"].round().int().tolist(), target["labels"].tolist(), strict=True):
                x0, y0, x1, y1 = box
                if x1 - x0 < 6 or y1 - y0 < 6:
                    continue
                inside = image[:, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].float()
                assert inside.std((1, 2)).max() < 15  # one colour
                assert level == "strong" or inside.mean((1, 2)).argmax() == label  # red is the first, green the second
                seen += 1
    assert seen > 20


def test_evaluation_frames_boxes_as_it_does_images() -> None:
    objects = Objects.of([[8, 10, 28, 30], [0, 0, 3, 60]], [0, 1])
    for resize in ("pad", "squash", "crop"):
        preprocessing = Preprocessing(image_size=32, resize=resize)
        transform = build_transform("none", preprocessing, train=False)
        assert transform.boxes is not None
        _, target = transform.boxes(torch.zeros(3, 60, 80, dtype=torch.uint8), objects)
        expected = boxes_in_input(objects.boxes, [[60, 80]] * 2, preprocessing)
        keep = np.isfinite(expected).all(1)
        assert target["boxes"].numpy() == pytest.approx(expected[keep], abs=1e-4)
        assert target["labels"].tolist() == np.flatnonzero(keep).tolist()
        sides = target["boxes"][0, 2:] - target["boxes"][0, :2]
        assert resize == "crop" or (sides * target["scale"]).tolist() == pytest.approx([20, 20], rel=0.02)


def test_batches_depend_on_seed_epoch_and_image_alone(coco: Path) -> None:
    data = loaded(coco)
    transform = build_transform("strong", Preprocessing(image_size=64, resize="pad"), train=True)
    options = {"batch_size": 3, "seed": 1, "shuffle": True}
    torch.manual_seed(5)
    one = list(make_loader(data.train, transform, **options))
    torch.manual_seed(6)
    two = list(make_loader(data.train, transform, **options, first_batch=1))
    assert torch.equal(one[1].images, two[0].images)
    for before, after in zip(one[1].targets, two[0].targets, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_moves_images_alone_is_refused(coco: Path) -> None:
    transform = build_transform("shift", Preprocessing(image_size=64), train=True)
    with pytest.raises(ConfigError, match="images with boxes are augmented together"):
        next(iter(make_loader(loaded(coco).train, transform, batch_size=2)))


def test_digits_have_boxes_around_their_ink() -> None:
    boxes = load_data("cluttered-digits:boxes", image_size=64, limit=10)
    labels, masks = (load_data(f"cluttered-digits{end}", image_size=64, limit=10) for end in ("", ":masks"))
    assert boxes.classes == tuple("0123456789")
    for position in range(10):
        objects, mask = boxes.test.targets.get(position), masks.test.targets.get(position).numpy()
        at = labels.test.ids.index(boxes.test.ids[position])
        assert objects.labels.tolist() == [labels.test.labels[at]]
        rows, columns = np.nonzero(mask)
        assert objects.boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    with pytest.raises(ConfigError, match="masks or boxes"):
        load_data("cluttered-digits:masks,boxes", image_size=64, limit=10)
