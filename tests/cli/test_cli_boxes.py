"""Detection on the command line, from a file of COCO to boxes in a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image


def make_data(folder: Path) -> None:
    """Sixteen photographs of 80 x 60 pixels with a red or a green block, annotated as COCO does."""
    rng, images, annotations = np.random.default_rng(0), [], []
    for i in range(16):
        pixels = rng.integers(0, 90, size=(60, 80, 3), dtype=np.uint8)
        x, y = rng.integers(0, 40, size=2).tolist()
        pixels[y : y + 20, x : x + 24, i % 2] = 255
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 80, "height": 60})
        box = {"bbox": [x, y, 24, min(20, 60 - y)], "area": 480, "iscrowd": 0}
        annotations.append({"id": i + 1, "image_id": i, "category_id": i % 2 + 1, **box})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(document), encoding="utf-8")


def test_from_a_file_of_coco_to_boxes_in_a_file(attngraft, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    make_data(tmp_path / "photos")
    options = ("--recipe", "detect", "--epochs", 1, "--image-size", 64, "--batch-size", 4, "--no-pretrained")
    network = ("--backbone", "fcos:timm:resnet18", "--attention", "gc@stage-c3-c5")
    code, out, err = attngraft("fit", "photos/boxes.json", *network, "--out", "run", *options)
    assert code == 0, err
    assert "AP50:95" in out + err
    for name in ("found.csv", "found.json"):
        code, out, err = attngraft("predict", "run", "photos", "--boxes", name, "--score", 0)
        assert code == 0, err
        assert f"in 16 images: {name}" in out
    with Path("found.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    entries = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert len(rows) == len(entries) > 0
    assert {entry["image_id"] for entry in entries} <= set(range(16))
    for row, entry in zip(rows, entries, strict=True):
        x0, y0, x1, y1 = (float(row[name]) for name in ("x0", "y0", "x1", "y1"))
        assert 0 <= x0 <= x1 <= 80
        assert 0 <= y0 <= y1 <= 60
        assert np.allclose(entry["bbox"], [x0, y0, x1 - x0, y1 - y0], atol=0.011)
        assert ("red", "green")[entry["category_id"]] == entry["category"] == row["class"]
    for arguments, message in (
        (("--boxes", "found.csv"), "found.csv is there already"),
        (("--boxes", "found.txt"), "--boxes is 'found.txt': expected the name of a .csv or .json file"),
        (("--score", 0.5), "--score is for --boxes FILE"),
        ((), "--boxes FILE"),
    ):
        code, _, err = attngraft("predict", "run", "photos", *arguments)
        assert code == 2
        assert message in err
    code, out, err = attngraft("report", "run")
    assert code == 0, err
    assert "AP50:95" in Path("run/report.html").read_text(encoding="utf-8")
