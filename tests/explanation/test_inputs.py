"""A run is opened with its own images and the plain network beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sealed import read_plain

import attngraft as ag
from attngraft.checksums import write_sealed_json
from attngraft.errors import ConfigError, DataError
from attngraft.explanation.image_source import open_subject
from attngraft.surgery import grafts
from attngraft.training import EvaluationContext, evaluate

CPU = torch.device("cpu")
SIZE = 16
QUICK = {"precision": "fp32+contiguous", "workers": 0, "device": "cpu", "epochs": 3, "curve": False}


def write_images(folder: Path, per_class: int = 12) -> Path:
    """Class folders of noise in which one channel is brighter."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("green", "red")):
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = rng.integers(0, 150, (SIZE, SIZE, 3))
            pixels[..., label] += 80
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of images and a run on them."""
    root = tmp_path_factory.mktemp("subject")
    photos = write_images(root / "photos")
    torch.manual_seed(0)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=2), "cbam")
    run = root / "run"
    ag.fit(model, photos, run_dir=run, image_size=SIZE, batch_size=8, test_fraction=0.25, split_seed=3, **QUICK)
    return photos, run


def test_a_run_knows_its_own_test_images(trained: tuple[Path, Path]) -> None:
    _, run = trained
    subject = open_subject(run, None, device=CPU)
    stored = json.loads((run / "run.json").read_text())
    assert len(subject.view) == stored["data"]["test_images"] == 6
    assert subject.view.is_labelled
    assert subject.view.classes == ("green", "red")
    assert subject.view.preprocessing.image_size == SIZE
    assert stored["data"]["origin"]["split_seed"] == 3
    found = evaluate(subject.model, subject.view.images, EvaluationContext.of(subject.model))  # type: ignore[arg-type]
    assert found.score == pytest.approx(stored["results"]["test"]["top1"])


def test_changed_or_missing_images_are_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    photos, run = trained
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    description = read_plain(moved / "run.json")
    description["data"]["origin"]["source"] = str(write_images(tmp_path / "other", per_class=13))
    write_sealed_json(moved / "run.json", description)
    with pytest.raises(DataError, match="not those that"):
        open_subject(moved, None, device=CPU)
    description["data"]["origin"]["source"] = str(tmp_path / "gone")
    write_sealed_json(moved / "run.json", description)
    with pytest.raises(DataError, match=r"cannot be loaded again.*give a folder"):
        open_subject(moved, None, device=CPU)
    description["data"]["origin"] = None
    write_sealed_json(moved / "run.json", description)
    with pytest.raises(DataError, match="does not say where"):
        open_subject(moved, None, device=CPU)
    assert len(open_subject(moved, photos, device=CPU).view) == 24


def test_other_images_and_a_limit(trained: tuple[Path, Path]) -> None:
    photos, run = trained
    assert len(open_subject(run, photos, device=CPU, limit=5).view) == 5
    one_class = open_subject(run, [photos / "red"], device=CPU).view
    assert len(one_class) == 12
    assert not one_class.is_labelled


def test_classes_that_the_model_does_not_know(trained: tuple[Path, Path], tmp_path: Path) -> None:
    photos, run = trained
    shutil.copytree(photos / "red", tmp_path / "data" / "blue")
    with pytest.raises(DataError, match=r"does not know \('blue'\)"):
        open_subject(run, tmp_path / "data", device=CPU)


def test_the_plain_network_is_the_one_of_the_comparison(trained: tuple[Path, Path], tmp_path: Path) -> None:
    photos, run = trained
    alone = open_subject(run, None, device=CPU)
    assert alone.plain is not None
    assert not grafts(alone.plain)
    assert "taken out" in alone.plain_is
    inside = tmp_path / "comparison" / "runs" / "cbam" / "seed-0"
    shutil.copytree(run, inside)
    beside = tmp_path / "comparison" / "runs" / "none" / "seed-0"
    model = ag.create_backbone("small-cnn", num_classes=2)
    ag.fit(model, photos, run_dir=beside, image_size=SIZE, batch_size=8, test_fraction=0.25, split_seed=3, **QUICK)
    compared = open_subject(inside, None, device=CPU)
    assert "trained beside it" in compared.plain_is
    assert compared.plain is not None
    first = next(iter(model.state_dict()))
    assert torch.equal(compared.plain.state_dict()[first], model.state_dict()[first])
    (beside / "model.safetensors").write_bytes(b"damaged")
    assert "taken out" in open_subject(inside, None, device=CPU).plain_is


def test_a_model_without_grafts_is_its_own_plain_network(trained: tuple[Path, Path]) -> None:
    photos, run = trained
    subject = open_subject(ag.ungraft(ag.load(run)), photos, device=CPU)
    assert subject.plain is None
    assert "no grafts" in subject.plain_is
    assert subject.run_dir is None


def test_a_model_in_memory_needs_images(trained: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="give images"):
        open_subject(ag.load(trained[1]), None, device=CPU)
