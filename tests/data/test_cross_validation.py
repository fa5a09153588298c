"""Folds: every image is tested once a repetition, classes are in proportion, and what belongs together stays together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attngraft import load_data
from attngraft.data import Dataset
from attngraft.data.cross_validation import cross_validation
from attngraft.data.splits import deal
from attngraft.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 8, 10 and 12 images, two to a patient, one image there twice."""
    root, rng = tmp_path_factory.mktemp("folds") / "scans", np.random.default_rng(0)
    for number, count in enumerate((8, 10, 12)):
        for i in range(count):
            path = root / f"class{number}" / f"p{number}{i // 2}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    (root / "class0/p00_copy.png").write_bytes((root / "class0/p00_0.png").read_bytes())
    return root


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return load_data(folder, image_size=16, group_by=r"(p\d+)_")


@pytest.mark.parametrize("folds", [2, 4])
def test_every_image_is_tested_once_in_each_repetition(dataset: Dataset, folds: int) -> None:
    found = cross_validation(dataset, folds, 3, seed=0)
    for repetition in range(3):
        parts = [found.dataset(repetition * folds + fold) for fold in range(folds)]
        tested = [image for part in parts for image in part.test.ids]
        assert sorted(tested) == sorted([*dataset.train.ids, *dataset.test.ids])
        for part in parts:
            assert not set(part.train.ids) & set(part.test.ids)
            assert not set(part.train.groups.tolist()) & set(part.test.groups.tolist())
            assert set(part.train.labels.tolist()) == {0, 1, 2}
            assert abs(len(part.test) - 31 / folds) <= 4
    prints = {found.dataset(number).fingerprint for number in range(3 * folds)}
    assert len(prints) == 3 * folds
    assert not np.array_equal(found.assigned[0], found.assigned[1])
    again = cross_validation(dataset, folds, 3, seed=0)
    assert np.array_equal(again.assigned, found.assigned)


def test_equal_images_stay_in_one_fold_without_groups(folder: Path) -> None:
    found = cross_validation(load_data(folder, image_size=16), 5, 2, seed=1)
    hashes = np.array(found.whole.train.pixel_hashes)
    twice = [h for h in set(hashes.tolist()) if (hashes == h).sum() > 1]
    assert len(twice) == 1
    assert all(len(set(row[hashes == twice[0]].tolist())) == 1 for row in found.assigned)
    assert not any("the test set is a random" in note for note in found.whole.report.notes)


def test_a_test_split_of_the_data_is_not_used_and_that_is_said(dataset: Dataset) -> None:
    own = replace(dataset, drawn={})
    found = cross_validation(own, 3, 1, seed=0)
    assert set(found.whole.train.ids) == set(dataset.train.ids)
    assert (
        f"the {len(dataset.test)} test images that the data bring are not used: the folds are made of the training images."
        in found.whole.report.notes
    )


@pytest.mark.parametrize(("folds", "repeats"), [(1, 1), (0, 1), (-2, 1), (3, 0)])
def test_numbers_that_mean_nothing_are_refused(dataset: Dataset, folds: int, repeats: int) -> None:
    with pytest.raises(ConfigError, match="expected at least 2 folds and 1 repetition"):
        cross_validation(dataset, folds, repeats, seed=0)


def test_too_few_images_or_groups_are_one_sentence(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="are too few for 40 folds"):
        cross_validation(dataset, 40, 1, seed=0)
    lone = replace(dataset.train, groups=np.where(dataset.train.labels == 1, "one", dataset.train.groups))
    with pytest.raises(DataError, match="all images of 'class1' are in one fold"):
        cross_validation(replace(dataset, train=lone, drawn={}), 2, 1, seed=0)


def test_strata_are_dealt_evenly() -> None:
    strata = np.repeat([0, 1, 2], [10, 5, 25])
    fold = deal(strata, [str(i) for i in range(40)], folds=5, seed=3)
    for stratum, each in ((0, 2), (1, 1), (2, 5)):
        assert np.bincount(fold[strata == stratum], minlength=5).tolist() == [each] * 5
