"""Annotated boxes: one result whatever the format, and faults are said with their place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_folders import (
    BOXES,
    HEIGHT,
    WIDTH,
    coco_document,
    voc_object,
    voc_text,
    write_coco,
    write_images,
    write_voc,
    write_yolo,
)
from image_folders import write_noise
from PIL import Image

from attngraft.data.annotated_boxes import AnnotatedImage, AnnotatedImages
from attngraft.data.box_formats import box_format, read_annotated
from attngraft.errors import DataError

WRITERS: dict[str, Callable[..., Path]] = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}


def only(found: AnnotatedImages) -> tuple[AnnotatedImage, ...]:
    return next(iter(found.splits.values()))


def as_told(images: tuple[AnnotatedImage, ...], classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        Path(image.path).name: [
            (classes[label], tuple(box.round(6).tolist())) for label, box in zip(image.labels, image.boxes, strict=True)
        ]
        for image in images
    }


def edited(**changes: Any) -> dict[str, Any]:
    """The document with fields of its first annotation replaced; None takes one away."""
    document = coco_document()
    first = {**document["annotations"][0], **changes}
    document["annotations"][0] = {key: value for key, value in first.items() if value is not None}
    return document


# --- every format -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", WRITERS)
def test_every_format_gives_the_same_boxes(tmp_path: Path, layout: str) -> None:
    root = WRITERS[layout](tmp_path / "pets")
    assert box_format(root) == layout
    found = read_annotated(root)
    assert (found.name, found.classes, found.notes, found.skipped) == ("pets", ("cat", "dog"), (), ())
    images = only(found)
    assert as_told(images, found.classes) == BOXES
    assert [image.path for image in images] == sorted(image.path for image in images)
    for image in images:
        assert (image.width, image.height) == (WIDTH, HEIGHT)
        assert (root / image.path).is_file()
        assert image.boxes.shape == (len(image.labels), 4)
        assert (image.boxes.dtype, image.labels.dtype, image.crowd.dtype) == (np.float64, np.int64, np.bool_)
        assert not image.crowd.any()
        assert image.area.tolist() == [pytest.approx((x1 - x0) * (y1 - y0)) for x0, y0, x1, y1 in image.boxes.tolist()]


@pytest.mark.parametrize("layout", WRITERS)
def test_a_broken_image_is_said_or_skipped(tmp_path: Path, layout: str) -> None:
    root = WRITERS[layout](tmp_path)
    (broken,) = root.rglob("b.png")
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png cannot be read as an image"):
        read_annotated(root)
    found = read_annotated(root, skip_broken=True)
    assert [Path(path).name for path, _ in found.skipped] == ["b.png"]
    assert [Path(image.path).name for image in only(found)] == ["a.png", "c.png"]


@pytest.mark.parametrize("layout", WRITERS)
def test_an_empty_folder_is_refused(tmp_path: Path, layout: str) -> None:
    assert box_format(tmp_path) is None
    with pytest.raises(DataError, match=r"has no boxes in"):
        read_annotated(tmp_path, layout)
    with pytest.raises(DataError, match=r"has no annotated boxes: expected COCO"):
        read_annotated(tmp_path)
    with pytest.raises(DataError, match=r"there is no .*elsewhere"):
        read_annotated(tmp_path / "elsewhere")


def test_an_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"did you mean 'coco'"):
        read_annotated(tmp_path, "cocoo")


def test_an_image_that_is_turned_has_the_size_that_people_see(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(root / "a.png", exif=exif)
    assert (only(read_annotated(root))[0].width, only(read_annotated(root))[0].height) == (WIDTH, HEIGHT)
    assert read_annotated(root).notes == ()


# --- what is left out and noted ---------------------------------------------------------------------------------------
def test_boxes_without_area_or_outside_are_left_out_and_others_are_clipped(tmp_path: Path) -> None:
    document = coco_document()
    first = {"image_id": 0, "category_id": 0}
    bad = [[3, 3, 0, 5], [50, 3, 5, 5], [30, 10, 30, 30], [39.5, 0, 1, 5]]
    document["annotations"] += [{"id": 50 + i, "bbox": bbox, **first} for i, bbox in enumerate(bad)]
    found = read_annotated(write_coco(tmp_path, document))
    assert only(found)[0].boxes.tolist()[2:] == [[30, 10, 40, 20], [39.5, 0, 40, 5]]
    assert only(found)[0].area.tolist()[2:] == [100, 2.5]
    place = "of " + str(tmp_path / "_annotations.coco.json")
    assert found.notes == (
        f"1 object was left out for a box without area (annotation 50 {place}).",
        f"1 object was left out for a box outside of the image (annotation 51 {place}).",
        f"1 object extends beyond the image and had to be clipped (annotation 52 {place}).",
    )


def test_most_boxes_outside_of_their_images_are_refused(tmp_path: Path) -> None:
    document = coco_document()
    for entry in document["annotations"]:
        entry["bbox"][0] += 500
    with pytest.raises(DataError, match=r"3 of 3 objects lie outside of their images .*: are these the files"):
        read_annotated(write_coco(tmp_path, document))


def test_fractions_in_place_of_pixels_are_refused(tmp_path: Path) -> None:
    document = coco_document()
    for entry in document["annotations"]:
        entry["bbox"] = [0.1, 0.1, 0.5, 0.5]
    with pytest.raises(DataError, match=r"between 0 and 1, expected pixels"):
        read_annotated(write_coco(tmp_path, document))


def test_a_class_without_an_object_is_left_out(tmp_path: Path) -> None:
    document = coco_document(classes=("pets", "cat", "dog", "cow"))
    found = read_annotated(write_coco(tmp_path, document))
    assert found.classes == ("cat", "dog")
    assert as_told(only(found), found.classes) == BOXES
    assert found.notes == ("classes without an object were left out: 'pets', 'cow'.",)


def test_a_class_whose_boxes_are_all_left_out_is_left_out(tmp_path: Path) -> None:
    found = read_annotated(write_yolo(tmp_path, {"a.txt": "0 0.5 0.5 0 0.1", "b.txt": "1 0.5 0.5 1 1"}))
    assert (found.classes, only(found)[1].labels.tolist()) == (("dog",), [0])
    for name in "ab":
        (tmp_path / "labels" / "train" / f"{name}.txt").write_text("0 0.5 0.5 0 0.1")
    with pytest.raises(DataError, match="has no boxes"):
        read_annotated(tmp_path)


def test_the_size_of_the_file_counts(tmp_path: Path) -> None:
    document = coco_document()
    document["images"][1]["width"] = 80
    found = read_annotated(write_coco(tmp_path, document))
    assert (only(found)[1].width, only(found)[1].boxes.tolist()) == (WIDTH, [[0, 0, 8, 6]])
    assert found.notes == ("1 image has another size than is annotated: the file counts (b.png: 80 x 20, the file 40 x 20).",)  # fmt: skip


# --- COCO -------------------------------------------------------------------------------------------------------------
def test_crowds_and_areas_are_kept_as_coco_has_them(tmp_path: Path) -> None:
    image = only(read_annotated(write_coco(tmp_path, edited(iscrowd=1, area=7.5))))[0]
    assert (image.crowd.tolist(), image.area.tolist()) == ([True, False], [7.5, 300])


@pytest.mark.parametrize(
    "places",
    [
        {"annotations/instances_train2017.json": "train2017", "annotations/instances_val2017.json": "val2017"},
        {"annotations/instances_train2017.json": "images/train2017", "annotations/instances_val2017.json": "images/val2017"},
        {"train/_annotations.coco.json": "train", "valid/_annotations.coco.json": "valid"},
        {"annotations/train.json": "train/images", "annotations/val.json": "val"},
        {"train.json": "images/train", "val.json": "images/valid"},
        {"train.json": "images", "val.json": "images"},
    ],
)  # fmt: skip
def test_files_of_splits_find_their_images(tmp_path: Path, places: dict[str, str]) -> None:
    for file, folder in places.items():
        write_images(tmp_path / folder)
        document = coco_document()
        if folder == "train/images":
            for entry in document["images"]:
                entry["file_name"] = f"images\\{entry['file_name']}"
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(json.dumps(document))
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")
    found = read_annotated(tmp_path)
    assert list(found.splits) == ["train", "val"]
    for images, folder in zip(found.splits.values(), places.values(), strict=True):
        assert {Path(image.path).parent.as_posix() for image in images} == {folder}
        assert as_told(images, found.classes) == BOXES


def test_one_file_has_no_split_and_may_be_given_itself(tmp_path: Path) -> None:
    write_images(tmp_path / "val2017")
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(coco_document()))
    for source in (tmp_path, file):
        found = read_annotated(source)
        assert list(found.splits) == [""]
        assert only(found)[0].path == "val2017/a.png"


def test_ids_of_categories_may_differ_between_files(tmp_path: Path) -> None:
    write_coco(tmp_path / "train")
    write_coco(tmp_path / "valid", coco_document(classes=("dog", "cat")))
    found = read_annotated(tmp_path)
    assert found.classes == ("cat", "dog")
    assert [as_told(images, found.classes) for images in found.splits.values()] == [BOXES, BOXES]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "has no list of images"),
        ({"images": [], "annotations": []}, "has no list of categories"),
        ({"images": [3], "annotations": [], "categories": []}, "entry 0 of images is no object"),
        ({**coco_document(), "annotations": []}, "has no boxes"),
        (edited(image_id=77), "annotation 0 is of image 77, which is not among the images"),
        (edited(category_id=9), "annotation 0 is of category 9, which is not among the categories"),
        (edited(image_id=None), "has no image_id"),
        (edited(image_id=[1]), "has a list as image_id"),
        (edited(bbox=None), "annotation 0 has no bbox of four finite numbers"),
        (edited(bbox=[1, 2, 3]), "annotation 0 has no bbox of four finite numbers"),
        (edited(bbox=[1, 2, float("nan"), 3]), "annotation 0 has no bbox of four finite numbers"),
        (edited(bbox=[1, 2, 10**400, 3]), "annotation 0 has no bbox of four finite numbers"),
        (edited(bbox=[1, 2, True, 3]), "annotation 0 has no bbox of four finite numbers"),
        (edited(bbox=[1, 2, -3, 3]), "annotation 0 has a bbox of -3 x 3, expected no negative size"),
        (edited(bbox=[1e308, 2, 1e308, 3]), "annotation 0 of .* expected finite numbers"),
        (edited(area=-1), "annotation 0 has an area"),
        (edited(area="big"), "annotation 0 has an area"),
        (edited(iscrowd=2), "annotation 0 has an iscrowd"),
        ({**coco_document(), "categories": [{"id": 0, "name": "cat"}] * 2}, "two categories have the id 0"),
        ({**coco_document(), "categories": [{"id": i, "name": "cat"} for i in (0, 1)]}, "two categories are called 'cat'"),
        ({**coco_document(), "categories": [{"id": 0, "name": ""}]}, "the name of a class is '', expected a text"),
        ({**coco_document(), "images": [{"id": 0, "file_name": "a.png"}] * 2}, "two images have the id 0"),
        ({**coco_document(), "images": [{"id": i, "file_name": "a.png"} for i in range(3)]}, "the image a.png twice"),
        ({**coco_document(), "images": [{"id": i, "file_name": f"{i}.png"} for i in range(3)]}, r"3 of 3 images are not there \(0.png\)"),
        ({**coco_document(), "images": [{"id": 0, "file_name": "../a.png"}]}, "expected a path within the data folder"),
        ({**coco_document(), "images": [{"id": 0, "file_name": "/etc/passwd"}]}, "expected a path within the data folder"),
        ({**coco_document(), "images": [{"id": 0, "file_name": "C:\\a.png"}]}, "expected a path within the data folder"),
        ({**coco_document(), "images": [{"id": 0, "file_name": "x" * 5000}], "annotations": []}, "images are not there"),
        ({**coco_document(), "images": [{"id": 0}]}, "names the file 'a NoneType'"),
    ],
)  # fmt: skip
def test_faults_of_coco_are_said(tmp_path: Path, document: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_annotated(write_coco(tmp_path, document) / "_annotations.coco.json")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ufeff{}", '{"images": 1e', "9" * 5000])
def test_what_is_no_json_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(DataError, match=r"boxes\.json"):
        read_annotated(tmp_path / "boxes.json")


def test_too_many_values_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_coco(tmp_path)
    monkeypatch.setattr("attngraft.data.coco_boxes.MOST_VALUES", 20)
    with pytest.raises(DataError, match=r"more than are read"):
        read_annotated(root)
    monkeypatch.setattr("attngraft.data.coco_boxes.MOST_BYTES", 20)
    with pytest.raises(DataError, match=r"more than the 20 that are read"):
        read_annotated(root / "_annotations.coco.json")


def test_files_whose_splits_are_not_clear_are_refused(tmp_path: Path) -> None:
    for name in ("instances_train2014", "instances_train2017"):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"{name}.json").write_text(json.dumps(coco_document()))
    with pytest.raises(DataError, match=r"several files for train .*2014.*2017"):
        read_annotated(tmp_path)
    (tmp_path / "annotations" / "instances_train2017.json").rename(tmp_path / "annotations" / "instances_more.json")
    with pytest.raises(DataError, match=r"instances_more\.json names no split"):
        read_annotated(tmp_path)


# --- YOLO -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fields",
    [
        {"train": "../images/train"},
        {"path": "images", "train": "train"},
        {"path": "../datasets/pets"},
        {"path": "/nowhere/pets"},
        {"train": ["images/train"]},
        {"train": "train.txt"},
        {"names": {"0": "cat", "1": "dog"}},
        {"nc": 2},
    ],
)
def test_paths_and_names_of_yolo_are_read_as_ultralytics_does(tmp_path: Path, fields: dict[str, Any]) -> None:
    root = write_yolo(tmp_path, **{"val": None, **fields})
    (root / "train.txt").write_text("./images/train/a.png\nimages/train/b.png\n\nimages/train/c.png\n")
    found = read_annotated(root)
    assert as_told(found.splits["train"], found.classes) == BOXES
    assert bool(found.notes) == ("path" in fields and fields["path"] != "images")


def test_outlines_are_read_as_boxes_and_repeated_lines_once(tmp_path: Path) -> None:
    found = read_annotated(write_yolo(tmp_path, {"a.txt": "1 0.1 0.2 0.5 0.2 0.3 0.9\n" * 2}, val="images/val"))
    assert only(found)[0].boxes.tolist() == [pytest.approx([4, 4, 20, 18])]
    assert found.classes == ("dog",)
    assert found.notes == (
        "'images/val' is not there, so it adds no images for val.",
        "1 line repeats an earlier one: left out.",
        "classes without an object were left out: 'cat'.",
    )


def test_labels_lie_beside_images_where_no_folder_is_called_images(tmp_path: Path) -> None:
    write_noise(tmp_path / "pics" / "a.png", 0, (WIDTH, HEIGHT))
    (tmp_path / "pics" / "a.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "data.yaml").write_text("train: pics\nval: pics\nnames: [no]\n")
    found = read_annotated(tmp_path)
    assert (found.classes, only(found)[0].boxes.tolist()) == (("no",), [[0, 0, WIDTH, HEIGHT]])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("7 0.5 0.5 0.1 0.1", "line 2 of .*a.txt has the class 7: expected one of the 2 in data.yaml, 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "has the class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "has the class 0.5"),
        ("nan 0.5 0.5 0.1 0.1", "expected a class and x y width height"),
        ("0 0.5 0.5 0.1", "expected a class and x y width height"),
        ("0 0.5 0.5 0.1 0.1 0.9", "expected a class and x y width height"),
        ("cat 0.5 0.5 0.1 0.1", "expected a class and x y width height"),
        ("0 0.5 0.5 nan 0.1", "expected fractions"),
        ("0 0.5 0.5 -0.1 0.1", "expected fractions"),
        ("0 20 10 4 4", "expected fractions"),
        ("0 0.5 0.5 1e400 0.1", "expected fractions"),
        ("0 0.5 0.5 -0.005 0.1", "expected finite numbers, x0 < x1"),
    ],
)
def test_faults_of_labels_are_said_with_their_line(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_annotated(write_yolo(tmp_path, {"a.txt": f"0 0.5 0.5 0.2 0.2\n{line}\n"}))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"nc": 3}, "says nc: '3' and has 2 names"),
        ({"names": ["cat", "cat"]}, "two classes are called 'cat'"),
        ({"names": {"0": "cat", "2": "dog"}}, "the keys of names are not 0 to 1"),
        ({"names": []}, "has no list of names"),
        ({"names": [["cat"]]}, "the name of a class is a list"),
        ({"train": "images/nowhere"}, "says train: 'images/nowhere', which is not there"),
        ({"train": "../../images"}, "expected a path within the data folder"),
        ({"train": "/etc"}, "expected a path within the data folder"),
        ({"train": {"a": "b"}}, "train is no path"),
        ({"train": []}, "names no images for train"),
        ({"path": ["a"]}, "path is no text"),
    ],
)
def test_faults_of_data_yaml_are_said(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_annotated(write_yolo(tmp_path, **fields), "yolo")


@pytest.mark.parametrize(
    "text", ["train: [", "a: &a [x, x]\ntrain: *a\nnames: *a", "- 1", "", "{" * 5000, "train: !!python/object:os.system x\n? [a]\n: b"]
)  # fmt: skip
def test_what_is_no_data_yaml_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"data\.yaml"):
        read_annotated(tmp_path / "data.yaml")


def test_a_list_of_images_stays_in_the_data_folder(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "data", train="train.txt")
    write_noise(tmp_path / "b.png", 0)
    for line, said in (("../b.png", "within the data folder"), ("images/train/x.png", "line 1 of .*there is no image")):
        (root / "train.txt").write_text(line)
        with pytest.raises(DataError, match=said):
            read_annotated(root)


def test_two_images_with_one_file_of_labels_are_refused(tmp_path: Path) -> None:
    root = write_yolo(tmp_path)
    write_noise(root / "images" / "train" / "a.jpg", 0)
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png have one file of labels"):
        read_annotated(root)


def test_links_to_folders_of_images_are_followed(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "data")
    (root / "images" / "train").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", root / "images" / "train")
    assert as_told(only(read_annotated(root)), ("cat", "dog")) == BOXES


# --- Pascal VOC -------------------------------------------------------------------------------------------------------
def test_splits_of_voc_are_those_of_its_lists(tmp_path: Path) -> None:
    lists = write_voc(tmp_path / "VOCdevkit" / "VOC2012") / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, text in {"train": "a\n", "val": "b  1\n", "trainval": "a\nb\n", "cat_train": "a -1\n"}.items():
        (lists / f"{name}.txt").write_text(text)
    found = read_annotated(tmp_path / "VOCdevkit")
    assert {split: [image.path for image in images] for split, images in found.splits.items()} == {
        "train": ["VOC2012/JPEGImages/a.png"],
        "val": ["VOC2012/JPEGImages/b.png"],
    }
    assert found.notes == ("1 annotated image is in no list of ImageSets/Main: left out.",)
    (lists / "train.txt").write_text("a\nx\n")
    with pytest.raises(DataError, match=r"line 2 of .*train.txt names 'x', which has no XML file"):
        read_annotated(tmp_path / "VOCdevkit")


@pytest.mark.parametrize("folders", [("",), ("train", "valid")])
def test_xml_may_lie_beside_images(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        root = write_voc(tmp_path / folder)
        for place in ("Annotations", "JPEGImages"):
            for file in (root / place).iterdir():
                file.rename(root / file.name)
            (root / place).rmdir()
    found = read_annotated(tmp_path)
    assert list(found.splits) == (["train", "val"] if folders[0] else [""])
    assert all(as_told(images, found.classes) == BOXES for images in found.splits.values())


def test_difficult_objects_are_crowds_and_boxes_that_begin_at_0_end_before_their_end(tmp_path: Path) -> None:
    root = write_voc(tmp_path)
    objects = voc_object("cat", (-1, 3, 9, 9), "<difficult>1</difficult>") + voc_object("dog", (4, 4, 10, 10))
    (root / "Annotations" / "a.xml").write_text(voc_text("a.png", objects))
    found = read_annotated(root)
    assert only(found)[0].boxes.tolist() == [[0, 4, 9, 9], [5, 5, 10, 10]]
    assert only(found)[0].crowd.tolist() == [True, False]
    assert found.notes == ("boxes begin at 0, so their ends count as excluded.",)


def test_an_image_is_found_by_the_name_of_the_file_or_by_what_it_says(tmp_path: Path) -> None:
    root = write_voc(tmp_path)
    (root / "Annotations" / "a.xml").rename(root / "Annotations" / "0001.xml")
    assert as_told(only(read_annotated(root)), ("cat", "dog")) == BOXES
    (root / "Annotations" / "0001.xml").write_text(voc_text("/home/x/z.png", voc_object("cat", BOXES["a.png"][0][1])))
    with pytest.raises(DataError, match=r"0001\.xml: expected one image of that name in .*JPEGImages, found none"):
        read_annotated(root)
    (root / "Annotations" / "0001.xml").write_text(voc_text("b.png", voc_object("cat", BOXES["a.png"][0][1])))
    with pytest.raises(DataError, match=r"0001\.xml and .*b\.xml say the image JPEGImages/b\.png twice"):
        read_annotated(root)


def test_an_image_without_xml_is_noted(tmp_path: Path) -> None:
    root = write_voc(tmp_path)
    (root / "Annotations" / "c.xml").unlink()
    assert read_annotated(root).notes == ("1 image has no XML file: left out (c.png).",)


LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, r"line 1 of .*a\.xml has a DOCTYPE"),
        ("<annotation>", r"line 1 of .*a\.xml is not XML"),
        ("", "is not XML"),
        ("<a>" * 100, "is nested too deep"),
        ("<html/>", "begins with <html>"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", r"a\.xml"),
        (voc_text("a.png", "<object><name>cat</name></object>"), "line 3 of .*a.xml: the object has a bndbox of xmin ''"),
        (voc_text("a.png", voc_object("cat", (1, 2, 3, 4)).replace("<xmax>3", "<xmax>nan")), "xmax 'nan'"),
        (voc_text("a.png", voc_object("cat", (9, 2, 3, 4))), "line 3 of .*a.xml: the box x0 y0 x1 y1 is 9 2 3 4"),
        (voc_text("a.png", voc_object("", (1, 2, 3, 4))), "the name of a class is ''"),
        (voc_text("a.png", voc_object("cat", (1, 2, 3, 4), "<difficult>maybe</difficult>")), "difficult is 'maybe'"),
    ],
)  # fmt: skip
def test_faults_of_voc_are_said_with_their_line(tmp_path: Path, text: str, said: str) -> None:
    root = write_voc(tmp_path)
    (root / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(DataError, match=said):
        read_annotated(root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    (root / "a.png").unlink()
    os.mkfifo(root / "a.png")
    with pytest.raises(DataError, match=r"1 of 3 images are not there"):
        read_annotated(root)
