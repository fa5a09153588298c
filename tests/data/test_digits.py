"""The built-in data set."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits as load_original

from attngraft.data import Dataset, load_data, load_labelled
from attngraft.data.digits import load_digits, partition, render_splits
from attngraft.errors import ConfigError


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_data("cluttered-digits", image_size=64, val_fraction=0.1)


def test_the_asset_is_the_original() -> None:
    images, labels = load_digits()
    original = load_original()
    np.testing.assert_array_equal(images, original.images)
    np.testing.assert_array_equal(labels, original.target)


def test_sizes_and_classes(data: Dataset) -> None:
    assert data.val is not None
    assert [len(data.train), len(data.test), len(data.val)] == [1000, 400, 100]
    assert data.classes == tuple("0123456789")
    assert np.bincount(data.train.labels).min() > 60
    assert np.bincount(data.test.labels).min() > 25
    assert data.train.image(0).shape == (3, 64, 64)
    assert data.report.leaks == ()
    assert data.report.duplicates == 0
    assert not data.mirrorable


def test_there_is_no_validation_set_unless_asked_for() -> None:
    assert load_data("cluttered-digits", image_size=64, limit=20).val is None


def test_no_handwritten_digit_is_in_two_splits() -> None:
    parts = partition(1797, seed=0, val_count=10_000)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 1000, "test": 400, "val": 397}
    assert len(set(np.concatenate(list(parts.values())).tolist())) == 1797


def test_fragments_come_from_the_same_split_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renders with every test digit blank; not one training pixel may change."""
    before = render_splits(seed=0, val_count=0)
    glyphs, labels = load_digits()
    glyphs[partition(len(glyphs), 0, 0)["test"], 1:] = 0
    monkeypatch.setattr("attngraft.data.digits.load_digits", lambda: (glyphs, labels))
    after = render_splits(seed=0, val_count=0)
    np.testing.assert_array_equal(after.images[:1000], before.images[:1000])
    assert (after.images[1000:] != before.images[1000:]).any()


def test_boxes_lie_around_the_digit(data: Dataset) -> None:
    boxes = data.test.boxes
    assert boxes is not None
    assert boxes.shape == (400, 4)
    assert (boxes >= 0).all()
    assert (boxes <= 64).all()
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert 15 < width.mean() < 35
    assert ((height >= 18) & (height <= 46)).all()
    assert (width <= 46).all()


def test_a_box_holds_the_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fragments, the pixels that stand out from the background are inside the box."""
    monkeypatch.setattr("attngraft.data.digits._FRAGMENTS", (0, 1))
    digits = render_splits(seed=0, val_count=0)
    for image, box in zip(digits.images[:50], digits.boxes[:50].astype(int), strict=True):
        background = np.median(image.reshape(-1, 3), axis=0)
        y, x = np.nonzero(np.abs(image - background).sum(axis=2) > 150)
        x0, y0, x1, y1 = box
        assert ((x >= x0 - 1) & (x <= x1) & (y >= y0 - 1) & (y <= y1)).all()


def test_boxes_follow_the_stored_size() -> None:
    small, large = (load_data("cluttered-digits", image_size=size, limit=10) for size in (22, 64))
    assert small.train.image(0).shape == (3, 32, 32)
    assert small.train.boxes is not None
    assert large.train.boxes is not None
    np.testing.assert_allclose(small.train.boxes, large.train.boxes / 2)
    assert small.fingerprint == large.fingerprint


def test_the_seed_decides(data: Dataset) -> None:
    assert load_data("cluttered-digits", image_size=64, val_fraction=0.1).fingerprint == data.fingerprint
    assert load_data("cluttered-digits", image_size=64, val_fraction=0.1, split_seed=1).fingerprint != data.fingerprint


@pytest.fixture(scope="module")
def more() -> Dataset:
    return load_data("cluttered-digits:test=900,train=1200", image_size=64)


def test_more_images_than_digits_begin_with_the_same_images(data: Dataset, more: Dataset) -> None:
    assert [len(more.train), len(more.test)] == [1200, 900]
    assert more.train.pixel_hashes[:1000] == data.train.pixel_hashes
    assert more.test.pixel_hashes[:400] == data.test.pixel_hashes
    assert more.report.duplicates == 0
    assert more.report.leaks == more.report.near_leaks == ()


def test_images_of_one_handwritten_digit_are_a_group(more: Dataset) -> None:
    groups = more.test.groups
    assert groups is not None
    assert more.grouped_by is not None
    assert (groups[:400] == groups[400:800]).all()
    assert (groups[:100] == groups[800:]).all()
    assert len(np.unique(groups)) == 400
    assert not set(groups) & set(more.train.groups)
    assert more.report.notes[1].startswith("the 900 test images show 400 handwritten digits")
    digits = render_splits(seed=0, val_count=0, train_count=1200, test_count=900)
    assert (digits.sources[1200:1600] == digits.sources[1600:2000]).all()
    assert not set(digits.sources[:1200]) & set(digits.sources[1200:])


def test_images_that_show_a_digit_again_are_made_alike_each_time(more: Dataset) -> None:
    again = load_data("cluttered-digits:train=1200,test=900", image_size=64)
    assert again.fingerprint == more.fingerprint
    assert again.test.ids == more.test.ids
    assert len(set(more.test.ids)) == 900


def test_without_a_digit_that_is_shown_again_there_are_no_groups(data: Dataset) -> None:
    fewer = load_data("cluttered-digits:test=300", image_size=64)
    assert fewer.test.pixel_hashes == data.test.pixel_hashes[:300]
    assert fewer.test.groups is data.test.groups is None
    assert fewer.grouped_by is None
    assert fewer.report.notes == ()


def test_a_rule_of_ones_own_takes_the_place_of_the_groups() -> None:
    found = load_data("cluttered-digits:test=500", image_size=16, group_by=r"/(\d)")
    assert found.grouped_by == r"/(\d)"
    assert set(found.test.groups) == {"0"}


def test_options_of_a_source_are_checked() -> None:
    for source, said in {
        "cluttered-digits:tset=9": "did you mean 'test'",
        "cluttered-digits:test=no": "expected 1 to 100,000 images",
        "cluttered-digits:test=0": "expected 1 to 100,000 images",
        "cluttered-digits:test": "expected key=value",
        "cifar10:test=9": "cifar10 takes none",
    }.items():
        with pytest.raises(ConfigError, match=said):
            load_data(source, image_size=16)


def test_they_are_labelled_images_too() -> None:
    images, classes = load_labelled("cluttered-digits:train=20,test=410", tuple("0123456789"), image_size=16)
    assert len(images) == 430
    assert len(classes) == 10
    assert len(np.unique(images.groups)) == 420


def test_limit(data: Dataset) -> None:
    few = load_data("cluttered-digits", image_size=64, limit=50)
    assert [len(few.train), len(few.test)] == [50, 50]
    assert set(few.train.pixel_hashes) <= set(data.train.pixel_hashes)
