"""The same two images and three objects in every format of boxes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 20
BOXES = {"a.png": [("cat", (4.0, 2.0, 14.0, 12.0)), ("dog", (20.0, 5.0, 40.0, 20.0))], "b.png": [("cat", (0.0, 0.0, 8.0, 6.0))],
         "c.png": []}  # fmt: skip
Boxes = Mapping[str, list[tuple[str, tuple[float, ...]]]]


def write_images(folder: Path, names: Mapping[str, Any] = BOXES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def coco_document(boxes: Boxes = BOXES, classes: tuple[str, ...] = ("cat", "dog")) -> dict[str, Any]:
    """What a JSON file says; ids count from 0."""
    images = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(boxes)]
    found = [(i, name, box) for i, objects in enumerate(boxes.values()) for name, box in objects]
    return {
        "images": images,
        "annotations": [
            {"id": n, "image_id": i, "category_id": classes.index(name), "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
             "area": (x1 - x0) * (y1 - y0)}
            for n, (i, name, (x0, y0, x1, y1)) in enumerate(found)
        ],
        "categories": [{"id": k, "name": name, "supercategory": "animal"} for k, name in enumerate(classes)],
    }  # fmt: skip


def write_coco(root: Path, document: Any = None) -> Path:
    """One JSON file beside the images."""
    write_images(root)
    (root / "_annotations.coco.json").write_text(json.dumps(coco_document() if document is None else document))
    return root


def write_yolo(root: Path, labels: Mapping[str, str] | None = None, **fields: Any) -> Path:
    """A data.yaml with images/train and labels/train."""
    write_images(root / "images" / "train")
    said = {"train": "images/train", "val": "images/train", "names": ["cat", "dog"], **fields}
    (root / "data.yaml").write_text(json.dumps(said))  # JSON is YAML
    texts = {f"{name[0]}.txt": "\n".join(map(yolo_line, objects)) for name, objects in BOXES.items() if objects}
    (root / "labels" / "train").mkdir(parents=True)
    for name, text in (texts if labels is None else labels).items():
        (root / "labels" / "train" / name).write_text(text)
    return root


def yolo_line(entry: tuple[str, tuple[float, ...]]) -> str:
    name, (x0, y0, x1, y1) = entry
    x, y, w, h = (x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT, (x1 - x0) / WIDTH, (y1 - y0) / HEIGHT
    return f"{('cat', 'dog').index(name)} {x} {y} {w} {h}"


def voc_object(name: str, box: tuple[float, ...], more: str = "") -> str:
    """With pixels that count from 1, and ends that are included."""
    x0, y0, x1, y1 = box
    sides = f"<xmin>{x0 + 1:g}</xmin><ymin>{y0 + 1:g}</ymin><xmax>{x1:g}</xmax><ymax>{y1:g}</ymax>"
    return f"<object>\n<name>{name}</name>{more}<bndbox>{sides}</bndbox></object>\n"


def voc_text(name: str, objects: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    said = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{name}</filename>{said}\n{objects}</annotation>"


def write_voc(root: Path, boxes: Boxes = BOXES) -> Path:
    """Annotations/ and JPEGImages/ without lists."""
    write_images(root / "JPEGImages", boxes)
    (root / "Annotations").mkdir(exist_ok=True)
    for name, objects in boxes.items():
        text = voc_text(name, "".join(voc_object(*entry) for entry in objects))
        (root / "Annotations" / f"{Path(name).stem}.xml").write_text(text)
    return root
