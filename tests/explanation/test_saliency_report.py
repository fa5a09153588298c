"""Saliency maps, from a subject to numbers and images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from planted import assert_untouched, planted_images, planted_model, state_of
from torch import nn

import attngraft as ag
from attngraft.config import to_dict
from attngraft.errors import DataError
from attngraft.explanation.image_source import Source, Subject, view_of
from attngraft.explanation.saliency_report import FEWEST_IMAGES, MOST_IMAGES, affordable, saliency_report


def subject(model: nn.Module, source: Source, *, with_plain: bool = True) -> Subject:
    plain = ag.ungraft(model).eval() if with_plain and ag.grafts(model) else None
    return Subject("planted", None, model, plain, "", view_of(model, source))


def image_files(found: dict[str, Any]) -> list[str]:
    files = [example["files"] for example in found["examples"]]
    names = [file[key] for file in files for key in ("image", "gate", "cam", "plain_cam")]
    return [name for name in names if name] + [name for file in files for name in file["sites"].values()]


def test_everything_about_a_grafted_model(tmp_path):
    model = planted_model()
    before = state_of(model)
    found = to_dict(saliency_report(subject(model, planted_images(24)), tmp_path, examples=3))
    assert_untouched(before, model)
    assert found == json.loads(json.dumps(found, allow_nan=False))
    assert set(found) == {"notes", "faithfulness", "pointing", "examples"}
    assert found["notes"] == []
    names = ["spatial gate", "grad-cam", "plain grad-cam"]
    assert [row["map"] for row in found["faithfulness"]["maps"]] == [*names, "centre prior", "random"]
    assert [row["map"] for row in found["pointing"]["maps"]] == [*names, "uniform", "centre prior", "random"]
    gate = found["faithfulness"]["maps"][0]
    assert gate["verdict"] == "faithful"
    assert "spatial gate" in found["faithfulness"]["sentence"]
    assert found["pointing"]["n"] == 24
    assert found["pointing"]["maps"][0]["hits"]["mean"] == 1
    assert len(found["examples"]) == 3
    assert sorted(image_files(found)) == sorted(path.name for path in tmp_path.iterdir())


def test_the_same_seed_gives_the_same(tmp_path):
    results = [
        saliency_report(subject(planted_model(), planted_images(4)), tmp_path, examples=1, seed=7) for _ in range(2)
    ]
    assert results[0] == results[1]


def test_a_model_without_grafts(tmp_path):
    plain = ag.ungraft(planted_model()).eval()
    found = to_dict(saliency_report(subject(plain, planted_images(4)), tmp_path, examples=1))
    assert [row["map"] for row in found["faithfulness"]["maps"]] == ["grad-cam", "centre prior", "random"]
    assert found["pointing"]["maps"][0]["map"] == "grad-cam"
    (example,) = found["examples"]
    assert example["plain_prediction"] is None
    assert example["files"]["sites"] == {}


def test_an_attention_without_positions_has_no_gate_map(tmp_path):
    model = ag.graft(ag.ungraft(planted_model()), "se", where="stem", input_size=(3, 32, 32)).eval()
    found = to_dict(saliency_report(subject(model, planted_images(3)), tmp_path, examples=1))
    assert [row["map"] for row in found["faithfulness"]["maps"]][:2] == ["grad-cam", "plain grad-cam"]
    assert found["examples"][0]["files"]["gate"] is None


def test_inputs_that_are_a_tensor_have_no_labels_and_no_boxes(tmp_path):
    found = to_dict(saliency_report(subject(planted_model(), torch.rand(3, 3, 32, 32)), tmp_path, examples=2))
    assert found["pointing"] is None
    assert any("no boxes are known" in note for note in found["notes"])
    assert found["faithfulness"]["n"] == 3
    assert [example["label"] for example in found["examples"]] == [None, None]
    with pytest.raises(DataError, match="boxes belong to image files"):
        saliency_report(subject(planted_model(), torch.rand(3, 3, 32, 32)), tmp_path, boxes=tmp_path / "boxes.csv")


def test_inputs_that_are_no_images(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    found = to_dict(saliency_report(subject(model, torch.rand(3, 3, 4)), tmp_path))
    assert (found["faithfulness"], found["pointing"], found["examples"]) == (None, None, [])
    assert "not images" in found["notes"][0]


def test_a_model_without_any_map_still_shows_its_images(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    found = to_dict(saliency_report(subject(model, torch.rand(3, 3, 32, 32)), tmp_path, examples=1))
    assert found["faithfulness"] is None
    assert any("There is no Grad-CAM: there is no layer" in note for note in found["notes"])
    assert found["examples"][0]["files"]["image"] is not None


def test_without_the_package_maps_from_gates_are_left(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    found = to_dict(saliency_report(subject(planted_model(), planted_images(4)), tmp_path, examples=1))
    assert any(r"pip install 'attngraft[explain]'" in note for note in found["notes"])
    assert [row["map"] for row in found["faithfulness"]["maps"]] == ["spatial gate", "centre prior", "random"]
    files = found["examples"][0]["files"]
    assert files["gate"] is not None
    assert files["cam"] is None
    assert files["plain_cam"] is None


@pytest.fixture
def photos(tmp_path) -> Path:
    """The planted images as files of four times the size, in class folders."""
    images = planted_images(6)
    folder = tmp_path / "photos"
    (folder / "bright").mkdir(parents=True)
    for i in range(6):
        pixels = images.image(i).permute(1, 2, 0).numpy().repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(folder / "bright" / f"{i}.png")
    return folder


def test_boxes_from_a_file_in_pixels_of_the_image_files(tmp_path, photos):
    rows = [f"bright/{i}.png,{','.join(f'{4 * v:g}' for v in planted_images(6).boxes[i])}" for i in (1, 2, 4)]
    path = tmp_path / "boxes.csv"
    path.write_text("\n".join(["image,x0,y0,x1,y1", *rows]))
    found = to_dict(saliency_report(subject(planted_model(), photos), tmp_path / "out", boxes=path, examples=1))
    assert found["pointing"]["n"] == 3
    assert found["pointing"]["left_out"] == 0  # only images with boxes are measured where there are some
    assert found["faithfulness"]["n"] == 3
    gate = found["pointing"]["maps"][0]
    assert gate["hits"]["mean"] == 1
    assert gate["energy"]["mean"] > 0.5
    path.write_text("image,x0,y0,x1,y1\nother.png,1,2,3,4\n")
    with pytest.raises(DataError, match="names none of the 6 images"):
        saliency_report(subject(planted_model(), photos), tmp_path / "out", boxes=path)


def test_boxes_outside_of_the_inputs_are_as_good_as_none(tmp_path, photos):
    path = tmp_path / "boxes.csv"
    path.write_text("image,x0,y0,x1,y1\nbright/0.png,500,500,600,600\n")
    found = to_dict(saliency_report(subject(planted_model(), photos), tmp_path / "out", boxes=path, examples=0))
    assert found["pointing"] is None
    assert found["faithfulness"]["n"] == 6
    assert found["examples"] == []


def test_large_networks_are_measured_on_fewer_images():
    inputs = torch.zeros(MOST_IMAGES, 3, 32, 32)
    assert affordable(planted_model(), inputs, 100) == MOST_IMAGES
    resnet = ag.create_backbone("torchvision:resnet18", num_classes=3, pretrained=False)
    assert affordable(resnet, torch.zeros(MOST_IMAGES, 3, 224, 224), 100) == FEWEST_IMAGES
    assert FEWEST_IMAGES < affordable(resnet, torch.zeros(MOST_IMAGES, 3, 64, 64), 126) < MOST_IMAGES
    assert affordable(resnet, inputs[:5], 10**9) == 5


def test_at_most_so_many_images_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["attngraft.explanation.saliency_report"], "MOST_IMAGES", 5)
    found = to_dict(saliency_report(subject(planted_model(), planted_images(12)), tmp_path, examples=9))
    assert found["pointing"]["n"] == found["faithfulness"]["n"] == 5
    assert len({example["id"] for example in found["examples"]}) == 5
