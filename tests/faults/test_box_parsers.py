"""Whatever files of annotated boxes hold, reading them gives boxes within their images or one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_folders import (
    HEIGHT,
    WIDTH,
    coco_document,
    voc_object,
    voc_text,
    write_coco,
    write_voc,
    write_yolo,
    yolo_line,
)
from hypothesis import given
from hypothesis import strategies as st
from test_parsers import JSON, changed, value_or_sentence

from attngraft.data.annotated_boxes import AnnotatedImages
from attngraft.data.box_formats import read_annotated

CORNERS = st.tuples(
    st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.integers(1, WIDTH), st.integers(1, HEIGHT)
)
BOXES = CORNERS.filter(lambda box: box[0] < box[2] and box[1] < box[3]).map(lambda box: tuple(map(float, box)))
OBJECTS = st.lists(st.tuples(st.sampled_from(["cat", "dog"]), BOXES), max_size=5, unique=True)
IMAGES = st.fixed_dictionaries({"a.png": OBJECTS, "b.png": OBJECTS, "c.png": OBJECTS}).filter(
    lambda images: any(box[2] > 1 or box[3] > 1 for objects in images.values() for _, box in objects)
)


def check(source: Path) -> AnnotatedImages | None:
    """What is read, if it is: boxes that are not empty, within their images, of known classes."""
    found = value_or_sentence(lambda: read_annotated(source))
    for image in (image for images in found.splits.values() for image in images) if found is not None else ():
        assert (source if source.is_dir() else source.parent).joinpath(image.path).is_file()
        assert ".." not in image.path.split("/")
        assert (image.boxes[:, :2] < image.boxes[:, 2:]).all()
        assert (image.boxes >= 0).all()
        assert (image.boxes <= [image.width, image.height] * 2).all()
        assert np.isfinite(image.area).all()
        assert set(image.labels.tolist()) <= set(range(len(found.classes)))
    return found


def as_told(found: AnnotatedImages) -> dict[str, Any]:
    return {
        Path(image.path).name: sorted(
            (found.classes[label], tuple(box.round(6).tolist()))
            for label, box in zip(image.labels, image.boxes, strict=True)
        )
        for image in next(iter(found.splits.values()))
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("boxes")
    return {"coco": write_coco(root / "coco"), "yolo": write_yolo(root / "yolo"), "voc": write_voc(root / "voc")}


@given(IMAGES)
def test_boxes_come_back_from_every_format(folders: dict[str, Path], images: Any) -> None:
    (folders["coco"] / "_annotations.coco.json").write_text(json.dumps(coco_document(images)))
    (folders["yolo"] / "data.yaml").write_text("train: images/train\nnames:\n  0: cat\n  1: dog\n")
    for name, objects in images.items():
        lines = "\n".join(map(yolo_line, objects))
        (folders["yolo"] / "labels" / "train" / f"{name[0]}.txt").write_text(lines)
        text = voc_text(name, "".join(voc_object(*entry) for entry in objects))
        (folders["voc"] / "Annotations" / f"{name[0]}.xml").write_text(text)
    expected = {name: sorted(objects) for name, objects in images.items()}
    for root in folders.values():
        found = check(root)
        assert found is not None
        assert as_told(found) == expected


@given(st.data())
def test_coco_with_any_change_is_boxes_or_a_sentence(folders: dict[str, Path], data: st.DataObject) -> None:
    file = folders["coco"] / "_annotations.coco.json"
    file.write_text(json.dumps(changed(coco_document(), data)))
    check(file)


@given(st.binary(max_size=99) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_coco_or_a_sentence(folders: dict[str, Path], content: bytes) -> None:
    file = folders["coco"] / "_annotations.coco.json"
    file.write_bytes(content)
    check(file)


WORDS = st.sampled_from(["0", "1", "0.5", "1.0", "-0", "nan", "1e999", "9" * 400, "1_0", "\n", "x", "\u0661", "\ufeff"])


@given(st.binary(max_size=99) | st.lists(WORDS, max_size=24).map(lambda words: " ".join(words).encode()))
def test_any_labels_are_boxes_or_a_sentence(folders: dict[str, Path], content: bytes) -> None:
    write = folders["yolo"]
    (write / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\n")
    (write / "labels" / "train" / "a.txt").write_bytes(content)
    (write / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0.5 0.5")
    check(write / "data.yaml")


PIECES = st.sampled_from(
    ["train: images/train\n", "names: [cat, dog]\n", "names:\n  0: cat\n", "nc: 2\n", "path: ..\n", "train: ../..\n",
     "val: [images, 3]\n", "- a\n", "&a ", "*a", "? ", "!!int ", "{", "[", ": ", "\t", "'", "<<: ", "%YAML 9\n", "---\n"]
)  # fmt: skip


@given(st.binary(max_size=99) | st.lists(PIECES | st.text(max_size=3), max_size=9).map(lambda p: "".join(p).encode("utf-8", "surrogatepass")))  # fmt: skip
def test_any_yaml_is_boxes_or_a_sentence(folders: dict[str, Path], content: bytes) -> None:
    (folders["yolo"] / "data.yaml").write_bytes(content)
    check(folders["yolo"] / "data.yaml")
    check(folders["yolo"])


TAGS = st.sampled_from(
    ["<annotation>", "</annotation>", "<object>", "</object>", "<name>cat</name>", "<bndbox>", "</bndbox>", "<xmin>1</xmin>",
     "<ymin>-1e999</ymin>", "<xmax>9</xmax>", "<ymax>9</ymax>", "<!DOCTYPE a>", "&amp;", "&a;", "<![CDATA[", "]]>", "<?x?>", "<!--"]
)  # fmt: skip


@given(st.binary(max_size=99) | st.lists(TAGS | st.text(max_size=3), max_size=14).map(lambda t: "".join(["<annotation>", *t, "</annotation>"]).encode("utf-8", "surrogatepass")))  # fmt: skip
def test_any_xml_is_boxes_or_a_sentence(folders: dict[str, Path], content: bytes) -> None:
    (folders["voc"] / "Annotations" / "a.xml").write_bytes(content)
    check(folders["voc"])
