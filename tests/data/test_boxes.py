"""Where boxes end up in the input, and boxes from CSV files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attngraft.config import Preprocessing
from attngraft.data import ImageSet, build_transform, load_data, load_images
from attngraft.data.boxes import input_boxes, own_boxes, read_boxes, upright_size
from attngraft.data.geometry import boxes_in_input
from attngraft.errors import DataError

HEADER = "image,x0,y0,x1,y1\n"


def bounds(mask: np.ndarray) -> np.ndarray:
    """x0 y0 x1 y1 around what is set, ends excluded."""
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], dtype=float)


# --- geometry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (80, 60), (51, 97), (200, 130), (33, 150), (40, 30)])
@pytest.mark.parametrize("crop_pct", [0.8, 0.875, 1.0])
def test_a_painted_rectangle_lands_where_its_box_is_said_to(shape, crop_pct):
    preprocessing = Preprocessing(image_size=48, interpolation="bilinear", crop_pct=crop_pct)
    arrange = build_transform("none", preprocessing, train=False).arrange
    height, width = shape
    rng, side = np.random.default_rng(height), min(shape)
    seen = 0
    for _ in range(40):
        x0, y0 = int(rng.integers(width - side // 3)), int(rng.integers(height - side // 3))
        box = (x0, y0, x0 + side // 3, y0 + side // 3)
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        image[:, box[1] : box[3], box[0] : box[2]] = 255
        painted = arrange(image)[0].numpy() > 127
        (found,) = boxes_in_input([box], [shape], preprocessing)
        if np.isnan(found).any():
            assert painted.sum() <= 48  # at most the shade of a line at the border
        elif (found[2:] - found[:2]).min() >= 3:
            seen += 1
            assert np.abs(found - bounds(painted)).max() <= 1.0
    assert seen >= 3


def test_a_box_over_the_whole_image_is_the_whole_input():
    preprocessing = Preprocessing(image_size=32, crop_pct=0.8)
    found = boxes_in_input([(0, 0, 70, 50), (0, 0, 900, 20)], [(50, 70), (20, 900)], preprocessing)
    assert found.tolist() == [[0, 0, 32, 32]] * 2


def test_by_hand():
    # 100 x 50 becomes 80 x 40 (0.8 = 32 / 40 in the crop), of which columns 24 to 56 and rows 4 to 36 are kept.
    preprocessing = Preprocessing(image_size=32, crop_pct=0.8)
    boxes = [(40, 10, 60, 30), (0, 0, 40, 50), (0, 0, 30, 50), (69, 45.5, 100, 50)]
    found = boxes_in_input(boxes, [(50, 100)] * 4, preprocessing)
    assert found[0] == pytest.approx([8, 4, 24, 20])
    assert found[1] == pytest.approx([0, 0, 8, 32])
    assert np.isnan(found[2]).all()
    assert np.isnan(found[3]).all()


def test_an_unknown_box_stays_unknown():
    assert np.isnan(boxes_in_input([(np.nan, 0, 1, 1)], [(9, 9)], Preprocessing(image_size=8))).all()


# --- boxes that a data set brings along --------------------------------------------------------------------------


def test_the_digits_bring_their_boxes():
    images = load_data("cluttered-digits", image_size=64, limit=20).test
    found = own_boxes(images)
    assert found is not None
    assert [mine.shape for mine in found] == [(1, 4)] * len(images)
    moved = input_boxes(found, images, Preprocessing(image_size=32, crop_pct=1.0))
    assert np.allclose(np.concatenate(moved), images.boxes / 2)


def test_sets_without_boxes_and_images_without_a_box(image_set):
    assert own_boxes(image_set) is None
    boxes = np.full((len(image_set), 4), np.nan, dtype=np.float32)
    boxes[2] = 1, 2, 3, 4
    some = ImageSet(
        image_set.ids, image_set.labels, image_set.pixel_hashes, image_set.store, image_set.rows, boxes=boxes
    )
    found = own_boxes(some)
    assert found is not None
    assert [len(mine) for mine in found] == [0, 0, 1] + [0] * (len(image_set) - 3)
    assert found[2].tolist() == [[1, 2, 3, 4]]


# --- CSV files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three images of 200 x 100 pixels, of which two have the same name; one is stored turned."""
    folder = tmp_path / "photos"
    for name in ("ants/1.png", "bees/1.png", "bees/2.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (200, 100), (9, 9, 9))
        exif = Image.Exif()
        if name == "bees/2.jpg":
            image, exif[0x0112] = Image.new("RGB", (100, 200)), 6
        image.save(folder / name, exif=exif)
    return folder


@pytest.fixture
def images(photos) -> ImageSet:
    found = load_images(photos, ("ants", "bees"), image_size=32)
    assert min(found.store.shapes[0]) == 46  # smaller than the files
    return found


def boxes_of(text: str, images: ImageSet, folder: Path | None, tmp_path: Path) -> dict[str, list[list[float]]]:
    path = tmp_path / "boxes.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = read_boxes(path, images, folder)
    assert len(found) == len(images)
    return {name: mine.tolist() for name, mine in zip(images.ids, found, strict=True) if len(mine)}


def test_boxes_are_scaled_from_the_file_to_the_stored_image(tmp_path, photos, images):
    found = boxes_of(HEADER + "ants/1.png,20,10,100,50\nbees/2.jpg,0,0,200,100\n", images, photos, tmp_path)
    assert found["ants/1.png"] == [pytest.approx([9.2, 4.6, 46, 23])]
    assert found["bees/2.jpg"] == [pytest.approx([0, 0, 92, 46])]  # upright, as people see it
    assert set(found) == {"ants/1.png", "bees/2.jpg"}


def test_an_image_may_have_several_boxes_and_columns_any_order(tmp_path, photos, images):
    text = "\ufefflabel, x0, x1, y0, y1, image\nant, 0, 100, 0, 50, ants/1.png\nant,100,200,50,100,ants/1.png\n"
    found = boxes_of(text, images, photos, tmp_path)["ants/1.png"]
    assert found == [pytest.approx([0, 0, 46, 23]), pytest.approx([46, 23, 92, 46])]


@pytest.mark.parametrize("name", ["bees/2.jpg", "2.jpg", "./bees/2.jpg", "bees\\2.jpg", "/data/all/bees/2.jpg"])
def test_names_may_be_shorter_or_longer_than_the_ids(tmp_path, photos, images, name):
    assert set(boxes_of(f"{HEADER}{name},0,0,9,9\n", images, photos, tmp_path)) == {"bees/2.jpg"}


def test_rows_about_other_images_are_passed_over(tmp_path, photos, images):
    text = f"{HEADER}cats/1.png,0,0,9,9\nbees/1.png,0,0,9,9\n"
    assert set(boxes_of(text, images, photos, tmp_path)) == {"bees/1.png"}


def test_paths_as_ids_need_no_folder(tmp_path, photos):
    images = load_images([photos / "bees" / "1.png"], ("ants", "bees"), image_size=32)
    found = boxes_of(f"{HEADER}1.png,0,0,200,100\n", images, None, tmp_path)
    assert list(found.values()) == [[pytest.approx([0, 0, 92, 46])]]


@pytest.mark.parametrize("name", ['a"b.png', "a,b.png", "caf\u00e9 \u2603.png", "line\nbreak.png", "\udcff.png"])
def test_hostile_names(tmp_path, name):
    folder = tmp_path / "flat"
    folder.mkdir()
    try:
        Image.new("RGB", (10, 10)).save(folder / name)
    except (OSError, UnicodeError):
        pytest.skip("the file system does not take this name")
    images = load_images(folder, ("ants", "bees"), image_size=32)
    quoted = '"' + name.replace('"', '""') + '"'
    assert boxes_of(f"{HEADER}{quoted},1,2,3,4\n", images, folder, tmp_path) == {name: [[1, 2, 3, 4]]}


def test_images_without_files_are_their_own_originals(tmp_path, image_set):
    assert boxes_of(f"{HEADER}5,1,2,3,4\n", image_set, None, tmp_path) == {"5": [[1, 2, 3, 4]]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'image'"),
        ("image,x0,y0,x1\nants/1.png,1,2,3\n", "no column 'y1'"),
        (HEADER + "ants/1.png,1,2,many,4\n", "line 2 of .*: x1 is 'many'"),
        (HEADER + "ants/1.png,1,2,3\n", "line 2 of .*1,2,3': expected 5 columns"),
        (HEADER + "ants/1.png,1,2,nan,4\n", "x1 is 'nan'"),
        (HEADER + "ants/1.png,1,2,inf,4\n", "x1 is 'inf'"),
        (HEADER + "ants/1.png,1,2,3,4\nants/1.png,5,2,5,4\n", "line 3 of .*: the box 5 2 5 4 is empty"),
        (HEADER + "ants/1.png,1,4,3,2\n", "is empty, expected x0 < x1 and y0 < y1"),
        (HEADER + "ants/1.png,0.1,0.2,0.5,1\n", "between 0 and 1, expected pixels"),
        (HEADER + "dogs/7.png,1,2,3,4\n", "names none of the 3 images: expected names such as ants/1.png"),
        (HEADER, "names none of the 3 images"),
        (HEADER + "1.png,1,2,3,4\n", r"1.png may be any of 2 images \(ants/1.png, bees/1.png\)"),
        (HEADER + "2.jpg,1,2,3,4\nbees/2.jpg,1,2,3,4\n", "2.jpg and bees/2.jpg both seem to be bees/2.jpg"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, photos, images, text, words):
    with pytest.raises(DataError, match=words) as caught:
        boxes_of(text, images, photos, tmp_path)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_are_named(tmp_path, photos, images):
    with pytest.raises(DataError, match=r"no\.csv cannot be read"):
        read_boxes(tmp_path / "no.csv", images, photos)
    with pytest.raises(DataError, match="cannot be read"):
        read_boxes(tmp_path, images, photos)
    with pytest.raises(DataError, match=r"there is no file .*1\.png: boxes are in pixels of the image file"):
        boxes_of(f"{HEADER}ants/1.png,1,2,3,4\n", images, tmp_path, tmp_path)
    (photos / "ants" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"the size of .*1\.png cannot be read"):
        boxes_of(f"{HEADER}ants/1.png,1,2,3,4\n", images, photos, tmp_path)


def test_the_size_of_a_file_is_that_of_the_image_that_is_read(photos):
    assert upright_size(photos / "bees" / "2.jpg") == (100, 200)
    assert upright_size(photos / "bees" / "1.png") == (100, 200)
