"""Folders of images and masks: layouts, what values stand for, and what is wrong with files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attngraft.config import Preprocessing
from attngraft.data import Dataset, build_transform, load_data, make_loader
from attngraft.data.masks import IGNORED, Masks, class_colours
from attngraft.errors import ConfigError, DataError

SIDE = 24


def write(
    folder: Path, name: str, mask: np.ndarray | Image.Image, images: str = "images", masks: str = "masks"
) -> None:
    """An image of noise and its mask."""
    file = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    rng = np.random.default_rng(len(name) + sum(map(ord, name)))
    pixels = rng.integers(256, size=(file.height, file.width, 3), dtype=np.uint8)
    for place in (folder / images, folder / masks):
        place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / images / f"{name}.jpg")
    file.save(folder / masks / f"{name}.png")


def square(index: int = 1, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[4:12, 6:20] = index
    return mask


def load(folder: Path, **options) -> Dataset:
    return load_data(folder, **{"image_size": SIDE, **options})


def fill(folder: Path, count: int = 10, **where) -> None:
    for number in range(count):
        write(folder, f"{number}", square(1 + number % 2), **where)


@pytest.mark.parametrize("layout", ["{split}/images", "images/{split}"])
def test_splits_are_folders_above_or_below(layout: str, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        place = layout.format(split=split)
        fill(tmp_path, 4, images=place, masks=place.replace("images", "masks"))
    data = load(tmp_path)
    assert data.task == "segmentation"
    assert [len(images) for images in (data.train, data.val, data.test)] == [4, 4, 4]
    assert data.classes == ("0", "1", "2")
    assert torch.equal(data.train.targets.get(1), torch.from_numpy(square(2)))


def test_without_splits_they_are_drawn(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    data = load(tmp_path, val_fraction=0.2, test_fraction=0.25)
    parts = [len(images) for images in (data.train, data.val, data.test)]
    assert sum(parts) == 20
    assert min(parts) >= 2
    assert any("random 25% of the images" in note for note in data.report.notes)
    again = load(tmp_path, val_fraction=0.2, test_fraction=0.25)
    assert again.fingerprint == data.fingerprint
    write(tmp_path, "3", square(1) * 0 + 2)
    assert load(tmp_path, val_fraction=0.2, test_fraction=0.25).fingerprint != data.fingerprint


@pytest.mark.parametrize("kind", ["grey", "palette", "one bit", "rgb", "rgba", "16 bit", "0 and 255"])
def test_kinds_of_files(kind: str, tmp_path: Path) -> None:
    index = square()
    made = {
        "grey": Image.fromarray(index),
        "palette": _palette(index),
        "one bit": Image.fromarray(index * 255).convert("1"),
        "rgb": Image.fromarray(np.repeat(index[..., None], 3, 2)),
        "rgba": Image.fromarray(np.repeat(index[..., None], 3, 2)).convert("RGBA"),
        "16 bit": Image.fromarray(index.astype(np.uint16)),
        "0 and 255": Image.fromarray(index * 255),
    }[kind]
    for number in range(5):
        write(tmp_path, f"{number}", made)
    data = load(tmp_path)
    assert torch.equal(data.test.targets.get(0), torch.from_numpy(index))
    if kind == "0 and 255":
        assert data.classes == ("background", "foreground")
        assert any("0 and 255 are taken as background and foreground" in note for note in data.report.notes)


def _palette(index: np.ndarray) -> Image.Image:
    image = Image.fromarray(index).convert("P")
    image.putdata(index.ravel().tolist())
    image.putpalette(class_colours(256).ravel().tolist())
    return image


def test_classes_json_names_indices_and_colours(tmp_path: Path) -> None:
    names = {"ground": [0, 0, 0], "roof": [200, 10, 10]}
    coloured = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    coloured[square() == 1] = names["roof"]
    for number in range(5):
        write(tmp_path / "colours", f"{number}", coloured)
        write(tmp_path / "indices", f"{number}", square())
    with pytest.raises(DataError, match=r"0\.png is a coloured mask: list the colour of each class in classes.json"):
        load(tmp_path / "colours")
    (tmp_path / "colours" / "classes.json").write_text(json.dumps(names))
    (tmp_path / "indices" / "classes.json").write_text(json.dumps(["ground", "roof", "car"]))
    assert load(tmp_path / "colours").classes == ("ground", "roof")
    assert torch.equal(load(tmp_path / "colours").train.targets.get(0), torch.from_numpy(square()))
    found = load(tmp_path / "indices")
    assert found.classes == ("ground", "roof", "car")
    assert any("no train image has the label 'car'" in note for note in found.report.notes)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{", "classes.json cannot be read"),
        ('{"a": 0, "b": 2}', "no indices from 0 on"),
        ('{"a": [0, 0, 0], "b": [0, 0, 0]}', "two classes one colour"),
        ('{"a": [0, 0], "b": [0, 0, 0]}', "no indices from 0 on"),
        ('["a"]', "does not name 2 to 255 classes"),
        ("[" * 100_000, "classes.json cannot be read"),
    ],
)
def test_a_wrong_classes_json_is_one_sentence(said: str, message: str, tmp_path: Path) -> None:
    fill(tmp_path, 5)
    (tmp_path / "classes.json").write_text(said)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_pixels_that_do_not_count(tmp_path: Path) -> None:
    mask = square()
    mask[0] = 255
    for number in range(5):
        write(tmp_path, f"{number}", mask)
    data = load(tmp_path)
    assert data.classes == ("0", "1")
    assert any("4.2 % of the masks' pixels do not count (index 255)" in note for note in data.report.notes)
    with pytest.raises(DataError, match=r"has the value 255: expected .* 0 for pixels that do not count"):
        load(tmp_path, ignore_index=0)
    mask[0] = 7
    for number in range(5):
        write(tmp_path, f"{number}", mask)
    found = load(tmp_path, ignore_index=7)
    assert found.classes == ("0", "1")
    assert (found.train.targets.get(0)[0] == IGNORED).all()


def test_what_is_wrong_names_the_file(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    (tmp_path / "classes.json").write_text('["a", "b", "c"]')
    write(tmp_path, "2", square(9))
    with pytest.raises(DataError, match=r"masks/2\.png has the value 9: expected 0 to 2, the index of a class"):
        load(tmp_path)
    write(tmp_path, "2", square())
    Image.fromarray(square(1, 10, 12)).save(tmp_path / "masks" / "2.png")
    with pytest.raises(DataError, match=r"masks/2\.png is 12 x 10 and its image 24 x 24"):
        load(tmp_path)
    (tmp_path / "masks" / "2.png").write_bytes(b"\x89PNG\r\n broken")
    with pytest.raises(DataError, match=r"mask .*masks/2\.png cannot be read"):
        load(tmp_path)
    (tmp_path / "masks" / "2.png").unlink()
    with pytest.raises(DataError, match=r"images/2\.jpg has no mask of the same name in masks"):
        load(tmp_path)
    write(tmp_path, "2", square())
    (tmp_path / "images" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"masks/2\.png has no image of the same name in images"):
        load(tmp_path)


def test_colours_that_are_not_listed(tmp_path: Path) -> None:
    coloured = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    coloured[3, 5] = (1, 2, 3)
    for number in range(5):
        write(tmp_path, f"{number}", coloured)
    (tmp_path / "classes.json").write_text('{"a": [0, 0, 0], "b": [9, 9, 9]}')
    with pytest.raises(DataError, match=r"the colour \[1, 2, 3\] at row 3, column 5, which classes.json does not list"):
        load(tmp_path)


def test_large_images_and_masks_are_stored_alike(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path, f"{number}", square(1, 90, 200))
    data = load(tmp_path)
    height, width = data.train.image(0).shape[-2:]
    assert height < 90
    assert tuple(data.train.targets.get(0).shape) == (height, width)


@pytest.mark.parametrize("level", ["none", "light", "strong"])
@pytest.mark.parametrize("resize", ["pad", "squash", "crop"])
def test_mask_and_image_are_moved_alike(level: str, resize: str, tmp_path: Path) -> None:
    """A white object on black: whatever happens to the image, the mask says where it is white."""
    for number in range(6):
        mask = np.roll(square(1, 40, 60), number, 1)
        write(tmp_path, f"{number}", mask)
        Image.fromarray(np.repeat(mask[..., None] * 255, 3, 2)).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "images" / f"{number}.jpg").unlink()
    data = load(tmp_path)
    grey = (0.0, 0.0, 0.0)
    preprocessing = Preprocessing(
        image_size=SIDE, mean=grey, std=(1.0, 1.0, 1.0), resize=resize, interpolation="bilinear"
    )
    transform = build_transform(level, preprocessing, train=level != "none")
    batch = next(iter(make_loader(data.train, transform, batch_size=3, seed=1)))
    assert batch.images.shape == (3, 3, SIDE, SIDE)
    assert batch.targets.shape == (3, SIDE, SIDE)
    counting = batch.targets != IGNORED
    white = batch.images.mean(1) > 0.3
    agreed = (white == (batch.targets == 1))[counting].float().mean()
    assert agreed > 0.93  # but for edges, which the image has softly
    assert ((batch.targets == IGNORED).any()) == (resize == "pad" and level == "none")
    again = next(iter(make_loader(data.train, transform, batch_size=3, seed=1, workers=0)))
    assert torch.equal(again.images, batch.images)
    assert torch.equal(again.targets, batch.targets)


def test_masks_are_targets() -> None:
    pieces = [square(1), square(2, 10, 30), np.full((8, 8), IGNORED, dtype=np.uint8)]
    masks = Masks.pack(pieces, 4)
    assert masks.present == {0, 1, 2}
    assert masks.strata.tolist() == [1, 2, 0]
    both = masks.select([2, 0]).extend([masks.select([1])])
    assert [tuple(both.get(i).shape) for i in range(3)] == [(8, 8), (SIDE, SIDE), (10, 30)]
    assert torch.equal(both.get(1), torch.from_numpy(pieces[0]))
    assert both.digest(1) == masks.digest(0) != masks.digest(1)
    assert masks.pixels.sum(1).tolist() == [SIDE * SIDE, 300, 0]


def test_published_sets_are_read_by_their_lists(tmp_path: Path) -> None:
    voc = tmp_path / "VOCdevkit" / "VOC2012"
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    mask = square(15)
    mask[0] = 255
    for name in ("a", "b", "c"):
        write(voc, name, _palette(mask), images="JPEGImages", masks="SegmentationClass")
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    data = load_data("voc-segmentation", image_size=SIDE, root=tmp_path)
    assert (len(data.train), len(data.test), len(data.classes)) == (2, 1, 21)
    assert data.classes[15] == "person"
    assert torch.equal(data.test.targets.get(0), torch.from_numpy(mask))

    pets = tmp_path / "oxford-iiit-pet"
    trimap = np.where(square() == 1, np.uint8(1), np.uint8(2))
    trimap[3] = 3
    for name in ("cat_1", "dog_2"):
        write(pets, name, trimap, masks="annotations/trimaps")
    (pets / "annotations" / "trainval.txt").write_text("# Image CLASS-ID\ncat_1 1 1 1\n")
    (pets / "annotations" / "test.txt").write_text("dog_2 2 2 1\n")
    data = load_data("oxford-pets", image_size=SIDE, root=tmp_path)
    found = data.train.targets.get(0).numpy()
    assert data.classes == ("background", "pet")
    assert (found[3] == IGNORED).all()
    assert (np.delete(found, 3, 0) == np.delete(square(), 3, 0)).all()


def test_a_published_set_that_is_missing_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"voc-segmentation is missing in .*VOC2012: .* --download"):
        load_data("voc-segmentation", image_size=SIDE, root=tmp_path)


def test_a_misspelt_switch_is_answered() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown option 'maskss' in cluttered-digits:maskss: did you mean 'masks'\?"
    ):
        load_data("cluttered-digits:maskss", image_size=SIDE)
