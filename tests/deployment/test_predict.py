from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attngraft as ag
from attngraft.errors import BackboneError, ConfigError, DataError, GraftError, RunError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        (folder / f"{number % 2}").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number % 2}" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ag.graft(ag.create_backbone("small-cnn", num_classes=3), "cbam").eval()


def test_a_saved_model_predicts_with_its_class_names(tmp_path, photos, model):
    ag.save(model, tmp_path, classes=("ant", "bee", "cat"))
    found = ag.predict(tmp_path, photos)
    assert found.classes == ("ant", "bee", "cat")
    assert len(found.ids) == 5
    assert np.allclose(found.probabilities.sum(1), 1, atol=1e-6)
    assert np.allclose(found.probabilities, ag.predict(model, photos, batch_size=2).probabilities, atol=1e-6)


def test_files_keep_the_order_in_which_they_were_named(photos, model):
    files = [photos / "1/3.png", photos / "0/0.png"]
    assert ag.predict(model, files).ids == tuple(map(str, files))


def test_csv_and_json_say_the_same(photos, model):
    found = ag.predict(model, photos)
    rows = list(csv.DictReader(io.StringIO(found.to_csv(2))))
    objects = json.loads(found.to_json(2))
    for row, entry, best in zip(rows, objects, found.top(2), strict=True):
        assert row["image"] == entry["image"]
        assert row["class_1"] == entry["top"][0]["class"] == best[0][0]
        assert float(row["probability_2"]) == pytest.approx(best[1][1], abs=1e-6)
        assert best[0][1] >= best[1][1]


def test_more_classes_than_there_are_is_all_of_them(photos, model):
    assert len(ag.predict(model, photos).to_csv(9).splitlines()[0].split(",")) == 1 + 2 * 3


def test_a_broken_file_stops_or_is_skipped_and_named(tmp_path, photos, model):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>not an image</html>")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        ag.predict(model, [photos, broken])
    found = ag.predict(model, [photos, broken], skip_broken=True)
    assert len(found.ids) == 5
    assert found.skipped[0][0] == str(broken)
    with pytest.raises(DataError, match="none of the images"):
        ag.predict(model, [broken], skip_broken=True)


def test_what_is_not_there_is_said(tmp_path, photos, model):
    with pytest.raises(DataError, match="there is no"):
        ag.predict(model, tmp_path / "nothing.png")
    with pytest.raises(RunError, match="there is no"):
        ag.predict(tmp_path / "no-run", photos)


def test_a_dead_graft_is_never_measured(photos, model):
    dead = ag.graft(ag.ungraft(model), "cbam")
    next(m for m in dead.modules() if hasattr(m, "graft"))._forward_hooks.clear()
    with pytest.raises(GraftError, match="not live"):
        ag.predict(dead, photos)


class Own(nn.Module):
    """A network that attngraft did not create."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def test_an_own_network_remembers_how_it_was_trained(tmp_path, photos):
    result = ag.fit(
        Own(), photos, run_dir=tmp_path, recipe="one-cycle", epochs=1, image_size=24, batch_size=2, precision="fp32"
    )
    loaded = ag.load(tmp_path, backbone=Own())
    wanted, found = ag.predict(result.model, photos), ag.predict(loaded, photos)
    assert wanted.classes == found.classes == ("0", "1")
    assert np.allclose(wanted.probabilities, found.probabilities, atol=1e-5)  # the layouts in memory differ


def test_a_device_that_is_not_there_is_said(photos, model):
    with pytest.raises(ConfigError, match="cannot be used"):
        ag.predict(model, photos, device="cuda:99")


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(5, 2)), DataError, "does not run on images of 224"),
        (nn.Sequential(nn.Conv2d(3, 2, 9), nn.AdaptiveAvgPool2d(1)), BackboneError, r"shape \(1, 2, 1, 1\)"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1)), DataError, "a single output"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)).half(), DataError, r"convert it with model\.float\(\)"),
    ],
    ids=["size", "maps", "one-logit", "half"],
)
def test_models_that_do_not_classify_the_images_are_refused_in_a_sentence(model, error, words):
    with pytest.raises(error, match=words) as caught:
        ag.predict(model, Image.new("RGB", (40, 40)))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def named(tmp_path_factory, model):
    """A saved model of the classes of the folders, and of another one."""
    return ag.save(model, tmp_path_factory.mktemp("named"), classes=("0", "1", "paper"))


def test_labels_from_class_folders_give_the_accuracy(photos, named):
    found = ag.predict(named, photos, labels=photos)
    assert found.labels == ("0", "0", "0", "1", "1")
    right = [best[0][0] == label for best, label in zip(found.top(), found.labels, strict=True)]
    assert found.score == pytest.approx(np.mean(right))
    assert found.to_csv().splitlines()[0] == "image,class_1,probability_1,label"


def test_labels_from_a_csv_file_may_be_of_some_images(tmp_path, photos, named):
    table = tmp_path / "labels.csv"
    table.write_text(f"path,label\n{photos / '1/3.png'},1\n{photos / '0/0.png'},\n")
    found = ag.predict(named, photos, labels=table)
    assert [label for label in found.labels if label] == ["1"]
    assert found.labelled == 1
    assert found.score in (0.0, 1.0)


def test_a_mistyped_label_is_said_with_file_and_line(tmp_path, photos, named):
    (tmp_path / "labels.csv").write_text(f"path,label\n{photos / '0/0.png'},0\n{photos / '1/3.png'},papr\n")
    with pytest.raises(DataError, match=r"line 3 of .*labels\.csv has a class .*'papr'.*did you mean 'paper'\?"):
        ag.predict(named, photos, labels=tmp_path / "labels.csv")


def test_labels_of_other_images_are_refused(tmp_path, photos, named):
    (tmp_path / "labels.csv").write_text("path,label\nelsewhere.png,0\n")
    with pytest.raises(DataError, match="none of the images has a label"):
        ag.predict(named, photos, labels=tmp_path / "labels.csv")


def test_a_score_without_labels_is_refused(photos, named):
    with pytest.raises(DataError, match="give labels"):
        _ = ag.predict(named, photos).score


@pytest.mark.parametrize(
    "text", ["path,note\n1/3.png,x\n0/0.png,y\n", "file\n1/3.png\n0/0.png\n", "1/3.png\n0/0.png\n"]
)
def test_a_csv_file_stands_for_the_images_that_it_lists(photos, model, text):
    (photos / "list.csv").write_text(text)
    found = ag.predict(model, photos / "list.csv")
    assert found.ids == (str(photos / "1/3.png"), str(photos / "0/0.png"))


def test_a_csv_file_without_images_is_refused(tmp_path, model):
    (tmp_path / "list.csv").write_text("path\n")
    with pytest.raises(DataError, match="lists no images"):
        ag.predict(model, tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("path\nnowhere.png\n")
    with pytest.raises(DataError, match="there is no"):
        ag.predict(model, tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        ("photos", "id,class\n0/0.png,0\n", "expected two columns, path,label"),
        ("photos", None, "does not exist"),
        ("photos", "path,label\n", "no images"),
        ("nowhere", "path,label\n0/0.png,0\n", "there is no"),
        ("list.csv", "path,label\n0/0.png,0\n", "there is no"),
    ],
    ids=["header", "no labels", "empty labels", "no images", "listed and not there"],
)
def test_what_cannot_be_read_is_said_before_the_network_is_loaded(tmp_path, photos, images, labels, words):
    (tmp_path / "list.csv").write_text("path\nnowhere.png\n")
    if labels is not None:
        (tmp_path / "labels.csv").write_text(labels)
    place = photos if images == "photos" else tmp_path / images
    with pytest.raises(DataError, match=words):
        ag.predict(tmp_path / "no-run", [place], labels=tmp_path / "labels.csv")


@pytest.mark.parametrize("header", ["image,label", "Image,note,label", "path,image,label"])
def test_labels_may_call_the_images_as_predictions_do(tmp_path, photos, named, header):
    cells = {"path": str(photos / "1/3.png"), "image": str(photos / "1/3.png"), "note": "x", "label": "1"}
    line = ",".join(cells[name.lower()] for name in header.split(","))
    (tmp_path / "labels.csv").write_text(f"{header}\n{line}\n")
    assert ag.predict(named, photos, labels=tmp_path / "labels.csv").labelled == 1
    (tmp_path / "images.csv").write_text(f"label,image\n1,{photos / '0/0.png'}\n")
    assert ag.predict(named, tmp_path / "images.csv").ids == (str(photos / "0/0.png"),)


def test_images_that_can_be_gone_through_once_are_all_predicted(photos, model):
    assert len(ag.predict(model, (path for path in sorted(photos.glob("*/*.png")))).ids) == 5
