"""load_data over folders: layouts, splits, broken files, leaks and the fingerprint."""

from __future__ import annotations

import ast
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import MakeFolder, write_noise

import attngraft.data.sources
from attngraft.config import from_dict, to_dict
from attngraft.data import Dataset, Origin, list_images, load_data, read_image
from attngraft.errors import ConfigError, DataError


def load(root: Path, **options: object) -> Dataset:
    return load_data(root, image_size=32, **options)  # type: ignore[arg-type]


def test_train_and_test_folders(make_folder: MakeFolder) -> None:
    root = make_folder({"train/bees": 3, "train/ants": 2, "test/ants": 1, "test/bees": 2})
    data = load(root)
    assert data.classes == ("ants", "bees")
    assert data.train.ids == ("train/ants/0.png", "train/ants/1.png", *(f"train/bees/{i}.png" for i in range(3)))
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.train.labels.dtype == np.int64
    assert data.test.ids == ("test/ants/0.png", "test/bees/0.png", "test/bees/1.png")
    assert data.val is None
    assert data.name == "photos"
    assert data.report.notes == ()


def test_images_come_back_as_stored(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
    image = load(root).train.image(1)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 16, 20)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), read_image(root / "train/b/0.png"))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("training", "valid", "testing"), ("Train", "validation", "TEST"), ("train", "val", "test")],
)
def test_other_names_of_the_splits(make_folder: MakeFolder, train: str, val: str, test: str) -> None:
    data = load(make_folder({f"{split}/{name}": 2 for split in (train, val, test) for name in "ab"}))
    assert data.val is not None
    assert [len(data.train), len(data.val), len(data.test)] == [4, 4, 4]


def test_validation_images_serve_as_test_where_there_are_none(make_folder: MakeFolder) -> None:
    data = load(make_folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1}))
    assert data.val is None
    assert data.test.ids == ("val/a/0.png", "val/b/0.png")
    assert "validation images serve as the test set" in data.report.notes[0]


@pytest.mark.parametrize("layout", ["{}", "train/{}"])
def test_a_missing_test_set_is_split_off_by_class(make_folder: MakeFolder, layout: str) -> None:
    data = load(make_folder({layout.format("a"): 10, layout.format("b"): 20, layout.format("c"): 2}))
    assert np.bincount(data.test.labels).tolist() == [2, 4, 1]
    assert np.bincount(data.train.labels).tolist() == [8, 16, 1]
    assert not set(data.train.ids) & set(data.test.ids)
    assert "random 20% of each class" in data.report.notes[0]


def test_a_validation_set_is_split_off_on_request(make_folder: MakeFolder) -> None:
    data = load(make_folder({"train/a": 10, "train/b": 20, "test/a": 1, "test/b": 1}), val_fraction=0.1)
    assert data.val is not None
    assert np.bincount(data.val.labels).tolist() == [1, 2]
    assert len(data.train) == 27


def test_the_split_depends_on_the_seed_and_the_pictures_alone(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 20, "b": 20})
    renamed = tmp_path / "renamed"
    for i, path in enumerate(sorted(root.rglob("*.png"), reverse=True)):
        target = renamed / path.parent.name / f"{i:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    first, again, other = load(root), load(renamed), load(root, split_seed=1)
    assert set(first.test.pixel_hashes) == set(again.test.pixel_hashes)
    assert first.fingerprint != again.fingerprint  # the same pictures in another order: pairing goes by position
    assert first.fingerprint == load(root).fingerprint
    assert set(first.test.pixel_hashes) != set(other.test.pixel_hashes)
    assert first.fingerprint != other.fingerprint


def test_the_fingerprint_sees_labels_pixels_and_classes(make_folder: MakeFolder) -> None:
    counts = {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1}
    root = make_folder(counts)
    prints = [load(root).fingerprint]
    (root / "train/a/0.png").rename(root / "train/b/9.png")
    prints.append(load(root).fingerprint)
    write_noise(root / "train/b/9.png", seed=999)
    prints.append(load(root).fingerprint)
    for split in ("train", "test"):
        (root / split / "b").rename(root / split / "c")
    prints.append(load(root).fingerprint)
    assert len(set(prints)) == 4


def test_equal_images_stay_on_one_side_of_a_split(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 10, "b": 10})
    for path in list(root.rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    data = load(root)
    assert data.report.leaks == ()
    assert data.report.duplicates == 20


def test_equal_images_in_train_and_test_are_reported(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1})
    shutil.copy(root / "train/a/1.png", root / "test/a/0.png")
    shutil.copy(root / "train/a/1.png", root / "val/b/0.png")
    shutil.copy(root / "train/b/0.png", root / "train/b/1.png")
    report = load(root).report
    assert report.leaks == (
        ("train/a/1.png", "val/b/0.png"),
        ("train/a/1.png", "test/a/0.png"),
        ("val/b/0.png", "test/a/0.png"),
    )
    assert report.near_leaks == ()
    assert report.duplicates == 1
    assert "1 image appears with different labels." in report.notes


def test_broken_files_are_counted_and_named(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    (root / "train/a/x.jpg").write_bytes(b"")
    (root / "train/b/y.JPG").write_bytes(b"<html>")
    with pytest.raises(DataError) as caught:
        load(root)
    for part in ("2 of 10 images", "train/a/x.jpg: the file is empty", "train/b/y.JPG", "--skip-broken"):
        assert part in str(caught.value)
    data = load(root, skip_broken=True)
    assert len(data.train) == 6
    assert [path for path, _ in data.report.skipped] == ["train/a/x.jpg", "train/b/y.JPG"]
    np.testing.assert_array_equal(data.train.image(5).numpy(), load_one(root / "train/b/2.png"))


def load_one(path: Path) -> np.ndarray:
    return read_image(path).transpose(2, 0, 1)


def test_a_class_with_no_readable_image_is_named(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
    (root / "test/b/0.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no readable images of 'b' in the test split"):
        load(root, skip_broken=True)


def test_images_over_the_cap_count_as_broken(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    with pytest.raises(DataError, match="more than the cap of 300"):
        load(root, pixel_cap=300)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "does not exist|has no folders"),
        ({"a": 3}, "only one class, 'a'"),
        ({"a": 3, "b": 0}, "'b' has no images in the data"),
        ({"a": 0, "b": 0}, "holds no images"),
        ({"a": 3, "b": 1}, r"too few different images .* 1 of 2 classes \('b'\)"),
        ({"train/a": 2, "train/b": 2, "test/a": 1}, "'b' has no images in the test split"),
        ({"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1, "test/c": 1}, "'c' has no images in the train split"),
        ({"train/a": 2, "train/b": 2, "test": 0}, "holds no images"),
        ({"train/a": 2, "train/b": 2, "val/a": 1, "valid/a": 1}, "has both val and valid"),
        ({"val/a": 2, "test/a": 2}, "no train folder"),
    ],
)
def test_layouts_that_make_no_sense(make_folder: MakeFolder, counts: dict[str, int], message: str) -> None:
    root = make_folder(counts)
    root.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_sources_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'cifar10'"):
        load_data("cifar-10", image_size=32)
    with pytest.raises(DataError, match="does not exist"):
        load_data(tmp_path / "none", image_size=32)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        load_data(str(tmp_path / "file"), image_size=32)


@pytest.mark.parametrize(
    "options",
    [{"test_fraction": 0.0}, {"test_fraction": 1.0}, {"val_fraction": -0.1}, {"val_fraction": 1.0}, {"limit": 0}],
)
def test_options_out_of_range(make_folder: MakeFolder, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        load(make_folder({"a": 2, "b": 2}), **options)


def test_hidden_and_other_files_are_left_out(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3, ".git": 2, "__MACOSX": 2, "a/.thumbs": 1})
    (root / "a/._0.png").write_bytes(b"resource fork")
    (root / "a/notes.txt").write_text("not an image")
    (root / "readme.md").write_text("not an image")
    data = load(root)
    assert data.classes == ("a", "b")
    assert len(data.train) + len(data.test) == 6
    assert data.report.notes[0].startswith("2 files")
    assert data.report.notes[1] == (
        "3 system or hidden folders ('.git', '.thumbs', '__MACOSX') and 1 system or hidden file ('._0.png') were ignored."
    )


def test_folders_beside_the_splits_are_mentioned(make_folder: MakeFolder) -> None:
    data = load(make_folder({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1, "extras": 1}))
    assert data.report.notes == ("folders beside the splits were ignored: 'extras'.",)


def test_nested_unicode_and_odd_names(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a/deep/er": 2, "train/蜂": 2, "test/a": 1, "test/蜂": 1})
    odd = "new\nline.png" if os.name != "nt" else "percent %20.png"
    write_noise(root / "train/蜂" / odd, seed=77)
    write_noise(root / "train/蜂" / "ÜBER 1.PNG", seed=78)
    data = load(root)
    assert data.classes == ("a", "蜂")
    assert {"train/a/deep/er/0.png", f"train/蜂/{odd}", "train/蜂/ÜBER 1.PNG"} <= set(data.train.ids)


def test_names_that_are_not_unicode(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    try:
        (root / "a/0.png").rename(os.fsdecode(os.fsencode(root / "a") + b"/\xff.png"))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes Unicode names only")
    assert len(load(root).fingerprint) == 32


def symlink(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("symbolic links are not allowed here")


def test_symbolic_links_to_files_and_classes_work_and_loops_end(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 2, "test/a": 1, "test/b": 1})
    elsewhere = make_folder({"b": 3}, name="elsewhere", first_seed=50)
    symlink(root / "train/b", elsewhere / "b")
    symlink(root / "train/a/linked.png", elsewhere / "b/0.png")
    symlink(root / "train/a/loop", root / "train/a")
    symlink(root / "train/a/up", root)
    symlink(elsewhere / "b/self", elsewhere / "b")
    data = load(root)
    assert np.bincount(data.train.labels).tolist() == [3, 3]


def test_a_link_that_leads_nowhere_is_a_broken_image(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    symlink(root / "a/gone.png", root / "nowhere.png")
    assert [path for path, _ in load(root, skip_broken=True).report.skipped] == ["a/gone.png"]


def test_limit_keeps_every_class(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 12, "train/b": 6, "train/c": 1, "test/a": 6, "test/b": 2, "test/c": 1})
    data = load(root, limit=6)
    assert np.bincount(data.train.labels).tolist() == [3, 2, 1]
    assert len(data.test) == 6
    assert len(load(root, limit=2).test) == 3
    assert load(root, limit=6).train.ids == data.train.ids


def test_a_limit_reads_no_more_than_the_splits_that_are_drawn_need(make_folder: MakeFolder, monkeypatch) -> None:
    root, read = make_folder({"a": 60, "b": 30, "c": 7}), []
    decode = attngraft.data.sources.decode_files
    monkeypatch.setattr(
        "attngraft.data.sources.decode_files", lambda paths, **options: read.extend(paths) or decode(paths, **options)
    )
    data = load(root, limit=8)
    assert (len(data.train), len(data.test)) == (8, 8)
    assert len(read) == 40 + 5 - round(40 * 7 / 97)  # 8 of a fifth, and 5 of the rare class
    assert all((data.train.labels == label).any() and (data.test.labels == label).any() for label in range(3))
    assert load(root, limit=8).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    "options", [{"limit": 1}, {"limit": 2, "val_fraction": 0.3}, {"limit": 5, "test_fraction": 0.5}]
)
def test_a_limit_leaves_enough_of_every_class_to_be_split(make_folder: MakeFolder, options) -> None:
    data = load(make_folder({"a": 40, "b": 12, "c": 4}), **options)
    for images in filter(None, (data.train, data.val, data.test)):
        assert set(images.labels.tolist()) == {0, 1, 2}


def test_records_of_earlier_versions_name_the_images_that_they_did(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 60, "b": 30})
    new, old = load(root, limit=8), load(root, limit=8, sampled_first=False)
    assert (new.origin.sampled_first, old.origin.sampled_first) == (True, False)
    assert "sampled_first" not in to_dict(old.origin)
    assert set(new.train.ids) != set(old.train.ids)
    assert load(root).origin == load(root, sampled_first=False).origin
    again = load_data(image_size=32, **asdict(from_dict(Origin, to_dict(old.origin))))
    assert again.fingerprint == old.fingerprint


def test_images_are_listed_from_files_and_folders(make_folder: MakeFolder) -> None:
    root = make_folder({"a/deep": 1, "b": 2, ".hidden": 1})
    (root / "b/notes.txt").write_text("not an image")
    found = list_images([root / "b/1.png", str(root)])
    assert [path.relative_to(root).as_posix() for path in found] == ["b/1.png", "a/deep/0.png", "b/0.png", "b/1.png"]
    with pytest.raises(DataError, match="there is no"):
        list_images([root / "none.png"])
    with pytest.raises(DataError, match="no images"):
        list_images([make_folder({"empty": 0}, name="other")])


def test_progress_reaches_the_end(make_folder: MakeFolder) -> None:
    calls: list[tuple[int, int]] = []
    load(make_folder({"a": 2, "b": 3}), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (5, 5)


def test_torchvision_is_imported_only_where_it_is_used() -> None:
    for path in Path(attngraft.data.__file__).parent.glob("*.py"):
        top_level = ast.parse(path.read_text(encoding="utf-8")).body
        imports = [ast.unparse(node) for node in top_level if isinstance(node, ast.Import | ast.ImportFrom)]
        assert imports
        assert not [line for line in imports if re.search(r"\btorchvision\b", line)]


@pytest.mark.parametrize("name", ["val", "validation", "held-out"])
def test_a_split_that_would_be_taken_for_a_class_is_refused(make_folder: MakeFolder, name: str) -> None:
    root = make_folder({"ant": 4, "bee": 4, f"{name}/ant": 2, f"{name}/bee": 2})
    with pytest.raises(
        DataError, match=rf"{name} holds folders that are named like classes beside it \('ant', 'bee'\)"
    ):
        load_data(root, image_size=16)


def test_an_empty_source_is_not_the_present_folder() -> None:
    with pytest.raises(DataError, match="the data source is empty"):
        load_data("", image_size=16)
