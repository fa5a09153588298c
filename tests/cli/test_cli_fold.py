from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import attngraft as ag
from attngraft.surgery import fold_note

SIDE = 32


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes that differ in brightness."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (folder / name).mkdir()
        for number in range(6):
            pixels = rng.integers(low, low + 127, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model whose gates do not look at the image, and are not 1."""
    torch.manual_seed(0)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=2), "cbam", input_size=(3, SIDE, SIDE))
    for attention in ag.grafts(model).values():
        attention.channel.mlp.fc2.bias.data.fill_(0.3)
    return ag.save(model, tmp_path_factory.mktemp("runs") / "one", classes=["dark", "light"]).parent


def test_fold_writes_a_model_and_says_what_it_did(attngraft, run, images, tmp_path):
    code, out, err = attngraft("fold", run, images, "--out", tmp_path / "folded", "--tolerance", 0)
    assert code == 0, err
    assert "folded into block1.1" in out
    assert "3 of 3 sites fold away: accuracy" in out
    assert "folding 6 of 6 gates" in err
    folded = ag.load(tmp_path / "folded")
    assert ag.grafts(folded) == {}
    assert fold_note(folded).source == str(run)
    document = json.loads((tmp_path / "folded" / "fold.json").read_text(encoding="utf-8"))
    assert document["sites_gone"] == 3
    assert document["images"] == 12
    before, after = (attngraft("predict", path, images / "dark")[1] for path in (run, tmp_path / "folded"))
    names = [[line.split(",")[:2] for line in text.splitlines()] for text in (before, after)]
    assert names[0] == names[1]


def test_fold_prints_json_alone_and_takes_a_limit(attngraft, run, images, tmp_path):
    code, out, err = attngraft("fold", run, images, "--out", tmp_path, "--json", "--limit", 4)
    assert (code, err) == (0, "")
    assert json.loads(out)["images"] == 4
    assert json.loads(out) == json.loads((tmp_path / "fold.json").read_text(encoding="utf-8"))


def test_fold_does_not_replace_a_model(attngraft, run, images):
    before = (run / "model.safetensors").read_bytes()
    code, out, err = attngraft("fold", run, images, "--out", run)
    assert (code, out) == (2, "")
    assert "is there already, and folding does not replace a model: choose another folder." in " ".join(err.split())
    assert (run / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--tolerance": 2}, "tolerance is 2.0: expected a fraction from 0 to 1"),
        ({"data": "flat"}, "folding needs labels"),
        ({"run": "nothing"}, "there is no"),
        ({"run": "plain"}, "no grafts"),
    ],
)
def test_fold_refuses_in_one_sentence(attngraft, run, images, tmp_path, change, message):
    ag.save(ag.create_backbone("small-cnn", num_classes=2), tmp_path / "plain", classes=["dark", "light"])
    source = tmp_path / change["run"] if "run" in change else run
    data = images / "dark" if "data" in change else images
    tolerance = ["--tolerance", change["--tolerance"]] if "--tolerance" in change else []
    code, out, err = attngraft("fold", source, data, "--out", tmp_path / "out", *tolerance)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_fold_leaves_out_broken_files_where_asked(attngraft, run, images, tmp_path):
    folder = tmp_path / "images"
    for file in images.glob("*/*.png"):
        (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / file.parent.name / file.name).write_bytes(file.read_bytes())
    (folder / "dark" / "broken.png").write_bytes(b"no image")
    assert attngraft("fold", run, folder, "--out", tmp_path / "out")[0] == 2
    code, _, err = attngraft("fold", run, folder, "--out", tmp_path / "out", "--skip-broken")
    assert code == 0, err
    assert json.loads((tmp_path / "out" / "fold.json").read_text(encoding="utf-8"))["images"] == 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch, and its images in two splits."""
    folder = tmp_path_factory.mktemp("splits")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, low in (("dark", 0), ("light", 128)):
            (folder / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(low, low + 127, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=2), "se", input_size=(3, SIDE, SIDE))
    options = {"recipe": "one-cycle", "epochs": 1, "image_size": SIDE, "precision": "fp32+channels_last"}
    return ag.fit(model, folder, run_dir=tmp_path_factory.mktemp("runs") / "run", **options).run_dir, folder


def test_without_images_a_fold_is_measured_on_the_test_images_of_the_run(attngraft, trained, tmp_path):
    run, _ = trained
    code, out, err = attngraft("fold", run, "--out", tmp_path / "folded")
    assert code == 0, err
    assert "8 images" in out
    assert "latency of 8 images" in out  # as a comparison measures it
    assert "was trained on" not in out


def test_images_that_the_run_was_trained_on_are_counted(attngraft, trained, tmp_path):
    run, images = trained
    out = attngraft("fold", run, images / "train", "--out", tmp_path / "folded")[1]
    assert "8 of the 8 images are among those that" in " ".join(out.split())


@pytest.mark.parametrize(("split", "seen"), [("train", True), ("test", False)])
def test_an_explanation_counts_them_in_the_terminal_the_record_and_the_page(attngraft, trained, tmp_path, split, seen):
    run, images = trained
    code, out, err = attngraft("explain", run, images / split, "--out", tmp_path / "told", "--examples", "0")
    assert code == 0, err
    said = "8 of the 8 images are among those that"
    told = (out, (tmp_path / "told/explanation.json").read_text(), (tmp_path / "told/report.html").read_text())
    assert [said in " ".join(text.split()) for text in told] == 3 * [seen]
