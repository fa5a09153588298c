"""Pictures: what is shown is what the model got, maps are scaled each for itself, names are safe."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from planted import PREPROCESSING, planted_images, planted_model

import attngraft as ag
from attngraft.config import Preprocessing, to_dict
from attngraft.data import ImageSet, build_transform, read_image
from attngraft.explanation.examples import LEGIBLE, choose_examples, displayed, enlarged, examples, overlay
from attngraft.explanation.image_source import view_of

RNG = np.random.default_rng


# --- the picture -------------------------------------------------------------------------------------------------


def test_what_is_displayed_is_the_input_before_it_was_normalised():
    preprocessing = Preprocessing(image_size=40, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), crop_pct=0.8)
    image = torch.from_numpy(RNG(0).integers(0, 256, (3, 60, 50), dtype=np.uint8))
    transform = build_transform("none", preprocessing, train=False)
    arranged = transform.arrange(image).permute(1, 2, 0).numpy()
    assert np.array_equal(displayed(transform(image), preprocessing), arranged)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_inputs_that_are_no_colours_become_grey(channels):
    found = displayed(torch.from_numpy(RNG(0).standard_normal((channels, 9, 7)).astype(np.float32)), PREPROCESSING)
    assert found.shape == (9, 7, 3)
    assert (found == found[..., :1]).all()
    assert (found.min(), found.max()) == (0, 255)


def test_values_out_of_range_are_cut():
    image = torch.tensor([-3.0, 9.0, float("nan")]).view(3, 1, 1).expand(3, 2, 2)
    assert displayed(image, PREPROCESSING)[0, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize(("shape", "factor"), [((64, 64), 3), ((160, 160), 1), ((224, 224), 1), ((7, 300), 23)])
def test_small_images_are_enlarged_pixel_by_pixel(shape, factor):
    image = RNG(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = enlarged(image)
    assert found.shape == (factor * shape[0], factor * shape[1], 3)
    assert min(found.shape[:2]) >= min(LEGIBLE, *found.shape[:2])
    assert np.array_equal(found[::factor, ::factor], image)


def test_the_brightest_place_of_an_overlay_is_the_largest_of_the_map():
    image = np.full((64, 64, 3), 100, dtype=np.uint8)
    importance = np.zeros((8, 8), dtype=np.float32)
    importance[2, 5] = 1
    found = overlay(image, importance)
    assert found.shape == (192, 192, 3)
    assert found.dtype == np.uint8
    brightness = found.astype(int).sum(2)
    y, x = np.unravel_index(brightness.argmax(), brightness.shape)
    assert (y * 8 // 192, x * 8 // 192) == (2, 5)
    assert brightness[0, 0] == brightness.min() < brightness.max() / 2


def test_maps_are_scaled_each_for_itself():
    image = RNG(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    importance = RNG(1).standard_normal((16, 16)).astype(np.float32)
    assert np.abs(overlay(image, importance).astype(int) - overlay(image, 7 * importance - 20)).max() <= 1


def test_a_constant_map_is_dark_and_not_an_error():
    image = RNG(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    dark, zero = overlay(image, np.ones((4, 4))), overlay(image, np.zeros((32, 32)))
    assert np.array_equal(dark, zero)
    assert dark.mean() < image.mean()


def test_opacity():
    image = RNG(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    importance = RNG(1).random((200, 200))
    grey = overlay(image, importance, opacity=0.0).astype(int)
    assert (grey == grey[..., :1]).all()
    assert np.abs(grey[..., 0] - image @ [0.299, 0.587, 0.114]).max() < 1
    assert not np.array_equal(overlay(image, importance, opacity=1.0), overlay(image[::-1], importance))
    assert np.array_equal(overlay(image, importance, opacity=1.0), overlay(image[::-1], importance, opacity=1.0))


# --- which images ------------------------------------------------------------------------------------------------


def answers_for(labels: list[int], chosen: list[int], sure: list[float]) -> np.ndarray:
    found = np.zeros((len(labels), 3), dtype=np.float32)
    for row, (best, probability) in enumerate(zip(chosen, sure, strict=True)):
        found[row] = (1 - probability) / 2
        found[row, best] = probability
    return found


LABELS = [0, 1, 2, 0, 1, 2]
MODEL = answers_for(LABELS, [0, 1, 2, 1, 2, 2], [0.9, 0.6, 0.8, 0.7, 0.95, 0.99])
PLAIN = answers_for(LABELS, [1, 1, 0, 1, 2, 2], [0.9, 0.6, 0.5, 0.7, 0.95, 0.99])


def test_gains_mistakes_and_the_usual_take_turns():
    # gained: 0, 2; wrong, surest first: 4, 3; right, nearest to the median of 0.85, one of each class first: 0, 2, 1, 5
    order = choose_examples(MODEL, np.array(LABELS), 6, plain=PLAIN)
    assert order == [0, 4, 2, 3, 1, 5]
    assert choose_examples(MODEL, np.array(LABELS), 2, plain=PLAIN) == order[:2]
    assert choose_examples(MODEL, np.array(LABELS), 99, plain=PLAIN) == order


def test_without_a_plain_network_there_are_mistakes_and_the_usual():
    assert choose_examples(MODEL, np.array(LABELS), 3) == [4, 0, 3]


def test_classes_take_turns():
    labels = np.array([0, 0, 0, 1])
    wrong = answers_for([0] * 4, [1, 1, 1, 0], [0.9, 0.8, 0.7, 0.6])
    assert choose_examples(wrong, labels, 4) == [0, 3, 1, 2]


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [0]), (3, [0, 2, 5]), (9, [0, 1, 2, 3, 4, 5])])
def test_images_without_labels_are_evenly_spread(count, expected):
    assert choose_examples(MODEL, np.full(6, -1), count, plain=PLAIN) == expected


def test_no_examples_where_none_are_wanted():
    assert choose_examples(MODEL, np.array(LABELS), 0, plain=PLAIN) == []


# --- files -------------------------------------------------------------------------------------------------------


def hostile_images() -> ImageSet:
    found = planted_images(4)
    ids = ("../../etc/passwd", 'a/b"<script>.png', "\udcff\n", "x" * 5000)
    return ImageSet(ids, found.labels, found.pixel_hashes, found.store, found.rows, found.boxes)


def test_pictures_of_any_image_are_in_the_folder_under_safe_names(tmp_path):
    model, folder = planted_model(), tmp_path / "out"
    folder.mkdir()
    view = view_of(model, hostile_images())
    rows = [to_dict(row) for row in examples(model, ag.ungraft(model).eval(), view, [2, 0, 1, 3], folder)]
    assert [row["id"] for row in rows] == [view.ids[i] for i in (2, 0, 1, 3)]
    assert {row["label"] for row in rows} == {"bright"}
    names = []
    for row in rows:
        files = row["files"]
        assert set(files) == {"image", "gate", "cam", "plain_cam", "sites", "ranges"}
        assert list(files["sites"]) == ["stem"]
        names += [files["image"], files["gate"], files["cam"], files["plain_cam"], *files["sites"].values()]
        for prediction in (row["prediction"], row["plain_prediction"]):
            assert prediction["class"] in {"bright", "dark"}
            assert 0.5 <= prediction["probability"] <= 1
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    assert all(read_image(folder / name).shape == (160, 160, 3) for name in names)
    json.dumps(rows, allow_nan=False)


def test_pictures_of_an_earlier_call_go_and_other_files_stay(tmp_path):
    model, view = planted_model(), view_of(planted_model(), planted_images(4))
    examples(model, None, view, [0, 1, 2], tmp_path)
    (tmp_path / "example-mine.png").write_bytes(b"")
    (tmp_path / "explanation.json").write_bytes(b"")
    examples(model, None, view, [3], tmp_path, with_cam=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "example-00-gate.png",
        "example-00-site-0.png",
        "example-00.png",
        "example-mine.png",
        "explanation.json",
    ]
    assert examples(model, None, view, [], tmp_path) == ()
    assert not (tmp_path / "example-00.png").exists()


def test_what_there_is_not_is_none(tmp_path):
    plain = ag.create_backbone("small-cnn", num_classes=3)
    (example,) = examples(plain, None, view_of(plain, torch.zeros(2, 3, 32, 32)), [1], tmp_path, with_cam=False)
    row = to_dict(example)
    assert row["id"] == "1"
    assert row["label"] is None
    assert row["plain_prediction"] is None
    assert row["files"] == {"image": "example-00.png", "gate": None, "cam": None, "plain_cam": None, "sites": {}} | {
        "ranges": {}
    }
    assert row["prediction"]["class"] in {"0", "1", "2"}


def test_a_gate_of_about_one_is_not_painted_and_ranges_are_kept(tmp_path):
    model, view = planted_model().eval(), view_of(planted_model(), planted_images(2))
    [painted] = examples(model, None, view, [0], tmp_path, with_cam=False)
    assert painted.files.sites
    low, high = painted.files.ranges[next(iter(painted.files.sites))]
    assert low < high
    plain = ag.ungraft(model)  # grafted anew, all gates are 1
    untouched = ag.graft(plain, "cbam-spatial", where="stem", input_size=(3, 32, 32)).eval()
    [flat] = examples(untouched, None, view, [0], tmp_path, with_cam=False)
    assert (flat.files.gate, flat.files.sites) == (None, {})
    assert all(abs(end - 1) <= 0.01 for ends in flat.files.ranges.values() for end in ends)
