"""Folders of domains: one list of classes, and what they share and lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import MakeFolder, write_noise

from attngraft.data import Domains, load_data, load_domains
from attngraft.errors import DataError


def domains(folder: Path | str, **options) -> Domains:
    return load_domains(folder, image_size=32, **options)


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    return make_folder(
        {
            "sketch/bees": 4,
            "sketch/wasps": 3,
            "photo/train/ants": 3,
            "photo/train/bees": 2,
            "photo/test/ants": 1,
            "photo/test/bees": 1,
        }
    )


def test_all_domains_count_the_same_classes(folder: Path):
    found = domains(folder)
    assert found.classes == ("ants", "bees", "wasps")
    assert list(found.datasets) == ["photo", "sketch"]
    for dataset in found.datasets.values():
        assert dataset.classes == found.classes
        for images in (dataset.train, dataset.test):
            for image_id, label in zip(images.ids, images.labels, strict=True):
                assert found.classes[label] in image_id.split("/")


def test_a_domain_says_what_it_lacks(folder: Path):
    assert domains(folder).notes == ("photo has no images of 'wasps'.", "sketch has no images of 'ants'.")


def test_images_and_splits_are_those_of_load_data(folder: Path):
    found, alone = domains(folder).datasets["photo"], load_data(folder / "photo", image_size=32)
    assert found.train.ids == alone.train.ids
    assert torch.equal(found.test.image(1), alone.test.image(1))
    assert found.origin == alone.origin
    assert found.origin is not None
    assert found.origin.source == str(folder / "photo")
    assert found.fingerprint != alone.fingerprint


def test_options_go_to_load_data(folder: Path):
    found = domains(folder, test_fraction=0.5, split_seed=3).datasets["sketch"]
    expected = load_data(folder / "sketch", image_size=32, test_fraction=0.5, split_seed=3)
    assert found.test.ids == expected.test.ids


def test_with_equal_classes_nothing_changes(make_folder: MakeFolder):
    root = make_folder({"a/x": 3, "a/y": 3, "b/x": 3, "b/y": 3})
    found = domains(root)
    assert found.notes == ()
    assert found.datasets["b"].fingerprint == load_data(root / "b", image_size=32).fingerprint


def test_pixels_in_two_domains_are_reported(folder: Path):
    write_noise(folder / "sketch/wasps/copy.png", 7)  # the first ant of the photos, as made above
    found = domains(folder)
    assert found.shared == (("photo/train/ants/0.png", "sketch/wasps/copy.png"),)
    assert found.notes[-1] == "1 image has the pixels of an image of another domain."


def test_domains_come_in_the_order_asked_for(folder: Path):
    assert list(domains(str(folder), names=["sketch", "photo"]).datasets) == ["sketch", "photo"]
    only = domains(folder, names=["sketch"])
    assert only.classes == ("bees", "wasps")
    np.testing.assert_array_equal(np.unique(only.datasets["sketch"].train.labels), [0, 1])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["skech"], "no domain 'skech': did you mean 'sketch'\\?$"),
        ([], "give at least one"),
        (["photo"] * 2, "each once"),
    ],
)
def test_unknown_or_repeated_names_are_errors(folder: Path, names: list[str], told: str):
    with pytest.raises(DataError, match=told):
        domains(folder, names=names)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({"train/ants": 2, "train/bees": 2}, "is one data set .it has a train folder"),
        ({"ants": 2, "bees": 2}, "has no class folders"),
        ({}, "does not exist"),
        ({"photo/ants": 2}, "has only one class"),
    ],
)
def test_what_is_no_folder_of_domains_is_an_error(make_folder: MakeFolder, made: dict[str, int], told: str):
    with pytest.raises(DataError, match=told):
        domains(make_folder(made))


def test_an_empty_folder_and_a_file_are_errors(tmp_path: Path):
    with pytest.raises(DataError, match="has no folders in it"):
        domains(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        domains(write_noise(tmp_path / "x.png", 0))
