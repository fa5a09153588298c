"""Images for a model that knows its classes: labelled by their folders, or not at all."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import MakeFolder, write_noise

from attngraft.data import UNLABELLED, ImageSet, load_data, load_images, read_image, relabelled
from attngraft.errors import ConfigError, DataError

CLASSES = ("wasps", "ants", "bees")  # the order of the logits need not be alphabetical


def pictures(source, classes=CLASSES, **options) -> ImageSet:
    return load_images(source, classes, image_size=32, **options)


# --- class folders -----------------------------------------------------------------------------------------------


def test_class_folders_are_labelled_in_the_order_of_the_model(make_folder: MakeFolder):
    images = pictures(make_folder({"bees": 2, "ants": 1, "wasps": 1}))
    assert images.ids == ("ants/0.png", "bees/0.png", "bees/1.png", "wasps/0.png")
    assert images.labels.tolist() == [1, 2, 2, 0]
    assert images.labels.dtype == np.int64
    assert images.boxes is None


def test_pixels_are_those_of_the_files(make_folder: MakeFolder):
    root = make_folder({"bees": 2})
    images = pictures(root)
    for i, name in enumerate(images.ids):
        np.testing.assert_array_equal(images.image(i).permute(1, 2, 0).numpy(), read_image(root / name))
    assert len(set(images.pixel_hashes)) == 2


def test_some_classes_may_be_missing(make_folder: MakeFolder):
    assert pictures(make_folder({"bees": 3})).labels.tolist() == [2, 2, 2]


def test_images_may_lie_deeper_in_the_folder_of_their_class(make_folder: MakeFolder):
    images = pictures(make_folder({"bees/2021/may": 1, "ants": 1}))
    assert images.ids == ("ants/0.png", "bees/2021/may/0.png")
    assert images.labels.tolist() == [1, 2]


def test_the_folder_may_be_named_as_text_or_from_home(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch):
    root = make_folder({"bees": 2})
    monkeypatch.setenv("HOME", str(root.parent))
    assert pictures(str(root)).ids == pictures("~/photos").ids == pictures(root).ids == ("bees/0.png", "bees/1.png")
    assert pictures(["~/photos/bees/0.png"]).ids == (str(root / "bees/0.png"),)


@pytest.mark.parametrize(("names", "told"), [({"moths": 1}, "a class"), ({"moths": 1, "flies": 1}, "2 classes")])
def test_classes_that_the_model_does_not_know_are_named(make_folder: MakeFolder, names: dict[str, int], told: str):
    with pytest.raises(DataError, match=rf"has {told} that the model does not know \(.*'moths'.*\): it knows 3"):
        pictures(make_folder({"bees": 1, **names}))


def test_of_many_unknown_classes_only_some_are_named(make_folder: MakeFolder):
    with pytest.raises(DataError, match=r"has 9 classes .*\('c0', 'c1', 'c2'.*it knows 3 .*'bees'\)") as error:
        pictures(make_folder({f"c{i}": 1 for i in range(9)}))
    assert "c3" not in str(error.value)


def test_class_folders_for_a_model_without_names_are_refused(make_folder: MakeFolder):
    with pytest.raises(DataError, match="does not say what its own are called"):
        pictures(make_folder({"bees": 1}), classes=())


def test_images_beside_class_folders_are_refused(make_folder: MakeFolder):
    root = make_folder({"bees": 1, "ants": 1})
    write_noise(root / "loose.png", 7)
    with pytest.raises(DataError, match=r"has class folders and also loose.png beside them: put every image"):
        pictures(root)


def test_other_files_beside_class_folders_do_not_matter(make_folder: MakeFolder):
    root = make_folder({"bees": 1})
    (root / "README.txt").write_text("bees")
    (root / ".hidden.png").write_bytes(b"")
    assert pictures(root).ids == ("bees/0.png",)


# --- without labels ----------------------------------------------------------------------------------------------


def test_a_flat_folder_has_no_labels(make_folder: MakeFolder):
    images = pictures(make_folder({".": 3}))
    assert images.ids == ("0.png", "1.png", "2.png")
    assert images.labels.tolist() == [UNLABELLED] * 3
    assert images.labels.dtype == np.int64


def test_a_flat_folder_serves_a_model_without_names(make_folder: MakeFolder):
    assert len(pictures(make_folder({".": 2}), classes=())) == 2


def test_single_files_have_no_labels_whatever_their_folder(make_folder: MakeFolder):
    root = make_folder({"bees": 2})
    for source in (root / "bees/0.png", str(root / "bees/0.png"), [root / "bees/0.png"], iter([root / "bees/0.png"])):
        images = pictures(source)
        assert images.ids == (str(root / "bees/0.png"),)
        assert images.labels.tolist() == [UNLABELLED]


def test_several_files_and_folders_come_in_the_order_given(make_folder: MakeFolder):
    root = make_folder({"b": 2, "a": 1})
    images = pictures([root / "b" / "1.png", root / "a"])
    assert images.ids == (str(root / "b/1.png"), str(root / "a/0.png"))
    assert set(images.labels.tolist()) == {UNLABELLED}


# --- data sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
def test_of_a_folder_with_splits_the_test_images_are_taken(make_folder: MakeFolder, train: str):
    root = make_folder({f"{split}/{name}": 2 for split in (train, "val", "Test") for name in ("ants", "bees")})
    images = pictures(root)
    assert images.ids == tuple(f"Test/{name}/{i}.png" for name in ("ants", "bees") for i in (0, 1))
    assert images.labels.tolist() == [1, 1, 2, 2]


def test_of_a_folder_without_test_images_the_validation_images_are_taken(make_folder: MakeFolder):
    root = make_folder({f"{split}/{name}": 2 for split in ("train", "val") for name in ("ants", "bees")})
    assert {name.split("/")[0] for name in pictures(root).ids} == {"val"}


def test_a_split_with_a_class_that_the_model_does_not_know_is_refused(make_folder: MakeFolder):
    root = make_folder({f"{split}/{name}": 2 for split in ("train", "test") for name in ("ants", "moths")})
    with pytest.raises(DataError, match=r"the data has a class that the model does not know \('moths'\)"):
        pictures(root)


def test_a_class_may_be_called_train(make_folder: MakeFolder):
    images = pictures(make_folder({"train": 2, "bus": 1}), classes=("bus", "train"))
    assert images.labels.tolist() == [0, 1, 1]


def test_of_a_built_in_set_some_test_images_are_taken_evenly_with_their_boxes():
    whole = load_data("cluttered-digits", image_size=32).test
    images = pictures("cluttered-digits", tuple("9876543210"), limit=7)
    positions = np.linspace(0, len(whole) - 1, 7).round().astype(int)
    assert images.ids == tuple(whole.ids[i] for i in positions)
    assert np.array_equal(images.labels, 9 - whole.labels[positions])
    assert images.boxes is not None
    assert whole.boxes is not None
    assert np.array_equal(images.boxes, whole.boxes[positions])
    assert torch.equal(images.image(3), whole.image(int(positions[3])))


def test_the_name_of_a_built_in_set_can_also_be_a_folder(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch):
    root = make_folder({"bees": 1}, name="cluttered-digits")
    monkeypatch.chdir(root.parent)
    assert pictures("./cluttered-digits").ids == ("bees/0.png",)
    assert pictures(Path("cluttered-digits")).ids == ("bees/0.png",)


# --- what can go wrong -------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_is_an_error_unless_it_may_be_left_out(make_folder: MakeFolder):
    root = make_folder({"bees": 2, "ants": 2})
    (root / "ants/1.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"1 of 4 images cannot be read \(ants/1.png: .*\): .*skip_broken=True"):
        pictures(root)
    images = pictures(root, skip_broken=True)
    assert images.ids == ("ants/0.png", "bees/0.png", "bees/1.png")
    assert images.labels.tolist() == [1, 2, 2]
    np.testing.assert_array_equal(images.image(2).permute(1, 2, 0).numpy(), read_image(root / "bees/1.png"))


def test_where_no_file_can_be_read_leaving_out_does_not_help(make_folder: MakeFolder):
    root = make_folder({"bees": 1})
    (root / "bees/0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 1 image cannot be read .*the file is empty.*give others") as error:
        pictures(root, skip_broken=True)
    assert "skip" not in str(error.value)


@pytest.mark.parametrize("skip_broken", [False, True])
def test_a_single_file_that_is_no_image_is_an_error(tmp_path: Path, skip_broken: bool):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes.txt: its content is not in a known image format"):
        pictures(tmp_path / "notes.txt", skip_broken=skip_broken)


def test_a_folder_without_images_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="there are no images in"):
        pictures(tmp_path)


def test_a_place_that_does_not_exist_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"there is no .*nowhere"):
        pictures(tmp_path / "nowhere")


def test_a_link_to_nothing_is_an_error(tmp_path: Path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"1 of 1 image cannot be read \(gone.png: .*No such file"):
        pictures(tmp_path)


@pytest.mark.parametrize(("source", "told"), [([], "no images"), ([3], "int"), (np.zeros((2, 3)), "ndarray")])
def test_what_is_no_path_is_an_error(source, told: str):
    with pytest.raises(DataError, match=f"got {told}: give image files or folders"):
        pictures(source)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_an_error(make_folder: MakeFolder, limit: int):
    with pytest.raises(ConfigError, match=f"limit is {limit}: expected at least 1"):
        pictures(make_folder({"bees": 2}), limit=limit)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_an_error(make_folder: MakeFolder):
    root = make_folder({"bees": 1})
    root.chmod(0)
    try:
        with pytest.raises(DataError, match="cannot be listed"):
            pictures(root)
    finally:
        root.chmod(0o755)


# --- limit, names, cache -----------------------------------------------------------------------------------------


def test_a_limit_is_spread_evenly_before_anything_is_decoded(make_folder: MakeFolder):
    root = make_folder({"ants": 3, "bees": 3, "wasps": 3})
    (root / "ants/1.png").write_bytes(b"never read")
    images = pictures(root, limit=3)
    assert images.ids == ("ants/0.png", "bees/1.png", "wasps/2.png")
    assert images.labels.tolist() == [1, 2, 0]
    assert len(images.store) == 3


@pytest.mark.parametrize("limit", [9, 100, None])
def test_a_limit_that_is_not_reached_changes_nothing(make_folder: MakeFolder, limit: int | None):
    assert len(pictures(make_folder({"ants": 4, "bees": 5}), limit=limit)) == 9


def test_progress_is_told(make_folder: MakeFolder):
    told: list[tuple[int, int]] = []
    pictures(make_folder({"bees": 5}), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (5, 5)


HOSTILE = [
    "new\nline.png",
    "<b>&amp;.png",
    "quote'\".png",
    "-rf.png",
    "ünïcødé.PNG",
    " .png",
    "a\\b.png",
    os.fsdecode(b"bad\xff.png"),
]


def test_hostile_names_are_kept_as_they_are(tmp_path: Path):
    for i, name in enumerate(HOSTILE):
        write_noise(tmp_path / "bees" / name, i)
    images = pictures(tmp_path)
    assert sorted(images.ids) == sorted(f"bees/{name}" for name in HOSTILE)
    assert set(images.labels.tolist()) == {2}


def test_a_message_stays_on_one_line_whatever_the_names(tmp_path: Path):
    folder = tmp_path / "two\nlines" / "be\nes"
    write_noise(folder / "x\n.png", 0).write_bytes(b"broken")
    for classes, told in ((CLASSES, "does not know"), (("be\nes",), "cannot be read")):
        with pytest.raises(DataError, match=told) as error:
            pictures(folder.parent, classes)
        assert "\n" not in str(error.value)


def test_a_link_to_a_folder_of_images_is_followed_and_a_circle_is_not(make_folder: MakeFolder, tmp_path: Path):
    root = make_folder({"bees": 1})
    shutil.copytree(root / "bees", tmp_path / "elsewhere")
    (root / "ants").symlink_to(tmp_path / "elsewhere")
    (root / "bees/again").symlink_to(root)
    assert pictures(root).ids == ("ants/0.png", "bees/0.png")


# --- relabelled --------------------------------------------------------------------------------------------------


def test_labels_count_the_classes_of_the_model(image_set: ImageSet):
    found = relabelled(image_set, ("a", "b", "c"), ("c", "x", "a", "b"))
    assert found.labels.tolist() == [(2, 3, 0)[label] for label in image_set.labels]
    assert found.labels.dtype == np.int64
    assert found.ids == image_set.ids
    assert found.store is image_set.store


def test_equal_classes_change_nothing(image_set: ImageSet):
    assert relabelled(image_set, ("a", "b", "c"), ["a", "b", "c"]) is image_set


def test_images_without_a_label_stay_so(image_set: ImageSet):
    unknown = replace(image_set, targets=np.where(image_set.labels == 1, UNLABELLED, image_set.labels))
    found = relabelled(unknown, ("a", "b", "c"), ("c", "a"))
    assert found.labels.tolist() == [(1, UNLABELLED, 0)[label] for label in image_set.labels]


def test_a_class_without_images_need_not_be_known(image_set: ImageSet):
    some = image_set.select(np.flatnonzero(image_set.labels != 1))
    assert set(relabelled(some, ("a", "b", "c"), ("a", "c")).labels.tolist()) == {0, 1}
    with pytest.raises(DataError, match=r"does not know \('b'\)"):
        relabelled(image_set, ("a", "b", "c"), ("a", "c"))


def test_boxes_come_along(image_set: ImageSet):
    boxes = np.arange(4 * len(image_set), dtype=np.float32).reshape(-1, 4)
    assert np.array_equal(relabelled(replace(image_set, boxes=boxes), "abc", "cba").boxes, boxes)


# --- CSV files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("column", "expected"), [("", 8), ("split", 4)])
def test_of_a_csv_file_the_test_images_are_taken_or_all(make_folder: MakeFolder, column: str, expected: int):
    folder = make_folder({"ant": 4, "bee": 4})
    rows = [f"{path.relative_to(folder).as_posix()},{path.parent.name}" for path in sorted(folder.glob("*/*"))]
    lines = [f"{row},{'test' if n % 2 else 'train'}" for n, row in enumerate(rows)] if column else rows
    (folder / "listed.csv").write_text("\n".join([f"path,label{',' if column else ''}{column}", *lines]))
    images = pictures(folder / "listed.csv", ("bee", "ant"))
    assert len(images) == expected
    assert [("bee", "ant")[label] for label in images.labels] == [image_id.split("/")[0] for image_id in images.ids]
    assert len(pictures(folder / "listed.csv", ("bee", "ant"), limit=2)) == 2
    with pytest.raises(DataError, match="ant"):
        pictures(folder / "listed.csv", ("bee", "wasp"))


def test_a_column_of_a_csv_file_says_which_images_belong_together(make_folder: MakeFolder):
    folder = make_folder({"ant": 4, "bee": 4})
    paths = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*"))]
    rows = [f"{path},{path.split('/')[0]},{number // 2}" for number, path in enumerate(paths)]
    (folder / "listed.csv").write_text("\n".join(["path,label,nest", *rows]))
    images = pictures(folder / "listed.csv", ("ant", "bee"), group_by="column:nest")
    assert images.groups is not None
    assert images.groups.tolist() == list("00112233")
