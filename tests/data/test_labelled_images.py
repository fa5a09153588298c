"""All labelled images of a source in one set, and sets joined without copying pixels."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_folders import MakeFolder, write_noise

from attngraft.config import Preprocessing
from attngraft.data import (
    ImageSet,
    JoinedStore,
    build_transform,
    corrupted,
    joined,
    load_data,
    load_labelled,
    make_loader,
    read_image,
)
from attngraft.errors import ConfigError, DataError

CLASSES = ("wasps", "ants", "bees")


def labelled(source, classes=CLASSES, **options) -> tuple[ImageSet, tuple[str, ...]]:
    return load_labelled(source, classes, image_size=32, **options)


def names_and_labels(images: ImageSet, classes: tuple[str, ...]) -> dict[str, str]:
    return {image_id: classes[label] for image_id, label in zip(images.ids, images.labels, strict=True)}


# --- folders -----------------------------------------------------------------------------------------------------


def test_class_folders_count_the_given_classes(make_folder: MakeFolder):
    root = make_folder({"bees": 2, "ants": 1})
    images, classes = labelled(root)
    assert classes == CLASSES
    assert names_and_labels(images, classes) == {"ants/0.png": "ants", "bees/0.png": "bees", "bees/1.png": "bees"}
    np.testing.assert_array_equal(images.image(0).permute(1, 2, 0).numpy(), read_image(root / images.ids[0]))


def test_all_splits_are_taken_together(make_folder: MakeFolder):
    root = make_folder({"train/ants": 2, "val/bees": 1, "test/ants": 1, "Testing/bees": 1, "valid/ants": 1})
    images, classes = labelled(root)
    found = names_and_labels(images, classes)
    assert len(found) == 6
    assert all(image_id.split("/")[1] == name for image_id, name in found.items())


def test_test_images_alone_will_do(make_folder: MakeFolder):
    assert labelled(make_folder({"test/ants": 1}))[0].ids == ("test/ants/0.png",)


def test_a_class_may_be_called_train(make_folder: MakeFolder):
    images, classes = labelled(make_folder({"train": 1, "bus": 2}), ("bus", "train"))
    assert names_and_labels(images, classes)["train/0.png"] == "train"
    assert len(images) == 3


def test_an_empty_class_folder_does_not_matter(make_folder: MakeFolder):
    root = make_folder({"ants": 1})
    (root / "moths").mkdir()
    assert labelled(root)[1] == CLASSES


def test_unknown_classes_are_an_error_or_appended(make_folder: MakeFolder):
    root = make_folder({"ants": 1, "moths": 1, "flies": 1})
    with pytest.raises(DataError, match=r"2 classes .*\('flies', 'moths'\): it knows 3 .*--classes extend"):
        labelled(root)
    images, classes = labelled(root, extend=True)
    assert classes == (*CLASSES, "flies", "moths")
    assert names_and_labels(images, classes) == {
        "ants/0.png": "ants",
        "flies/0.png": "flies",
        "moths/0.png": "moths",
    }
    assert labelled(root, (), extend=True)[1] == ("ants", "flies", "moths")


def test_images_outside_of_class_folders_are_refused(make_folder: MakeFolder):
    root = make_folder({"ants": 1})
    write_noise(root / "loose.png", 9)
    with pytest.raises(DataError, match=r"has loose.png in no class folder"):
        labelled(root)


@pytest.mark.parametrize(
    ("made", "told"),
    [({}, "there are no images in class folders"), (None, "neither a folder, a CSV file nor a built-in data source")],
)
def test_nothing_is_an_error(tmp_path: Path, made, told: str):
    source = str(tmp_path if made is not None else tmp_path / "nowhere")
    with pytest.raises(DataError, match=told):
        labelled(source)


def test_a_missing_path_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        labelled(tmp_path / "nowhere")


def test_a_file_that_is_no_table_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="is a file: give a folder"):
        labelled(write_noise(tmp_path / "a.png", 0))


def test_broken_files_stop_or_are_left_out(make_folder: MakeFolder):
    root = make_folder({"ants": 2, "bees": 1})
    (root / "ants/0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read \(ants/0.png: .*skip-broken"):
        labelled(root)
    images, classes = labelled(root, skip_broken=True)
    assert names_and_labels(images, classes) == {"ants/1.png": "ants", "bees/0.png": "bees"}


def test_a_limit_keeps_classes_in_proportion(make_folder: MakeFolder):
    root = make_folder({"ants": 30, "bees": 10, "wasps": 2})
    images, _ = labelled(root, limit=21)
    assert np.bincount(images.labels).tolist() == [1, 15, 5]
    assert len(images.store) == 21
    with pytest.raises(ConfigError, match="limit is 0"):
        labelled(root, limit=0)


# --- built-in ----------------------------------------------------------------------------------------------------


def test_a_built_in_set_gives_all_its_splits():
    images, classes = labelled("cluttered-digits", ("1", "0"), extend=True)
    dataset = load_data("cluttered-digits", image_size=32)
    assert classes == tuple("1023456789")
    assert set(images.ids) == set(dataset.train.ids) | set(dataset.test.ids)
    where = {image_id: i for i, image_id in enumerate(images.ids)}
    place = where[dataset.test.ids[5]]
    assert classes[images.labels[place]] == dataset.classes[dataset.test.labels[5]]
    assert torch.equal(images.image(place), dataset.test.image(5))
    assert images.boxes is not None


def test_of_a_built_in_set_unknown_classes_are_an_error():
    with pytest.raises(DataError, match="cluttered-digits has 8 classes"):
        labelled("cluttered-digits", ("1", "0"))


def test_a_built_in_set_can_be_limited():
    images, _ = labelled("cluttered-digits", tuple("9876543210"), limit=50)
    assert len(images) == 50
    assert set(images.labels) == set(range(10))


# --- tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "path,label\n", "Path,Label\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_names_images_and_labels(make_folder: MakeFolder, header: str, start: str, end: str):
    root = make_folder({"some": 2})
    text = (start + header + "some/0.png,bees\n\nsome/1.png,ants\n").replace("\n", end)
    (root / "labels.csv").write_bytes(text.encode())
    images, classes = labelled(root / "labels.csv")
    assert names_and_labels(images, classes) == {"some/0.png": "bees", "some/1.png": "ants"}


def test_columns_of_a_table_with_a_header_may_stand_in_any_order(make_folder: MakeFolder):
    root = make_folder({"some": 1})
    (root / "labels.CSV").write_text("label,who,path\nbees,me,some/0.png\n")
    assert names_and_labels(*labelled(root / "labels.CSV")) == {"some/0.png": "bees"}


def test_names_with_commas_quotes_and_line_breaks(tmp_path: Path):
    names = ["a,b.png", 'say "hi".png', "two\nlines.png", "ü.png", os.fsdecode(b"bad\xff.png")]
    for seed, name in enumerate(names):
        write_noise(tmp_path / name, seed)
    rows = ['"{}","a ""class"", of\nits own"\r\n'.format(name.replace('"', '""')) for name in names]
    (tmp_path / "t.csv").write_bytes(os.fsencode("".join(rows)))
    images, classes = labelled(tmp_path / "t.csv", (), extend=True)
    assert classes == ('a "class", of\nits own',)
    assert images.ids == tuple(names)


def test_a_path_may_be_absolute_and_the_table_elsewhere(make_folder: MakeFolder, tmp_path: Path):
    picture = write_noise(tmp_path / "deep" / "x.png", 0)
    (tmp_path / "t.csv").write_text(f"{picture},ants\ndeep/../deep/x.png,ants\n")
    assert len(set(labelled(tmp_path / "t.csv")[0].pixel_hashes)) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "lists no images"),
        (b"path,label\n", "no images"),
        (b"\n\n", "lists no images"),
        (b"file,class\nx.png,ants\n", "the first line .* reads 'file,class'"),
        (b"x.png;ants\n", "the first line .* reads 'x.png;ants'"),
        (b"x.png,ants,1\n", "the first line .* reads 'x.png,ants,1'"),
        (b"x.png,ants\nx.png\n", "line 2 .* reads 'x.png'"),
        (b"x.png,ants\n,ants\n", "line 2 .* reads ',ants'"),
        (b"x.png,ants\nx.png,\n", "line 2 .* none of them empty"),
        (b"x.png,ants\n\nx.png,bees\n", "gives x.png two labels, 'ants' and 'bees' .line 3"),
        (b'x.png,"ants\n', "is not CSV"),
        ("x.png,ants\n".encode("utf-16"), "not a text in UTF-8"),
        (b"gone.png,ants\n", r"1 of 1 image cannot be read \(gone.png"),
        (b"x.png,moths\n", "a class that the model does not know"),
    ],
)
def test_a_table_that_does_not_fit_names_the_line(tmp_path: Path, text: bytes, told: str):
    write_noise(tmp_path / "x.png", 0)
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(DataError, match=told) as error:
        labelled(tmp_path / "t.csv")
    assert "\n" not in str(error.value)


@given(st.binary(max_size=80))
def test_whatever_a_table_holds_it_is_read_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, text: bytes):
    table = tmp_path_factory.getbasetemp() / "fuzz.csv"
    table.write_bytes(text)
    with pytest.raises(DataError) as error:  # no image is there, so there is always something to say
        labelled(table)
    assert "\n" not in str(error.value)


# --- joined ------------------------------------------------------------------------------------------------------


def same(one: ImageSet, i: int, other: ImageSet, j: int) -> bool:
    return bool(
        torch.equal(one.image(i), other.image(j))
        and one.ids[i] == other.ids[j]
        and one.labels[i] == other.labels[j]
        and one.pixel_hashes[i] == other.pixel_hashes[j]
    )


@pytest.fixture
def sets(image_set: ImageSet, make_folder: MakeFolder) -> list[ImageSet]:
    """Two halves of one store, another store, and an empty set."""
    other, _ = labelled(make_folder({"ants": 3, "bees": 2}))
    return [image_set.select([5, 3]), other, image_set.select([0, 36, 5]), image_set.select([])]


def test_joined_images_are_those_of_the_sets_in_order(sets: list[ImageSet]):
    whole = joined(sets)
    expected = [(one, i) for one in sets for i in range(len(one))]
    assert len(whole) == len(expected) == 10
    assert all(same(whole, position, one, i) for position, (one, i) in enumerate(expected))
    picked = whole.select([9, 0, 4])
    assert all(same(picked, position, *expected[at]) for position, at in enumerate([9, 0, 4]))


def test_a_shared_store_is_taken_once(sets: list[ImageSet]):
    store = joined(sets).store
    assert isinstance(store, JoinedStore)
    assert store.parts == (sets[0].store, sets[1].store)
    assert joined([sets[0], sets[2]]).store is sets[0].store


def test_what_was_joined_can_be_joined_again(sets: list[ImageSet]):
    whole = joined(sets)
    again = joined([whole.select([9, 2]), sets[1], corrupted(sets[0], "contrast", 5), whole])
    assert isinstance(again.store, JoinedStore)
    assert len(again.store.parts) == 3
    assert same(again, 0, whole, 9)
    assert same(again, 1, whole, 2)
    assert same(again, 2, sets[1], 0)
    assert all(same(again, 9 + i, whole, i) for i in range(10))


@given(st.data())
def test_joining_any_parts_of_any_sets_keeps_every_image(data: st.DataObject):
    from attngraft.data.pixel_store import decode_array

    made = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 2, 3, 3), dtype=np.uint8)
        decoded = decode_array(pixels, limit=9)
        ids = tuple(f"{number}/{i}" for i in range(4))
        made.append(ImageSet(ids, np.arange(4), decoded.hashes, decoded.store, np.arange(4)))
    for _ in range(3):  # joined sets are joined again
        chosen = data.draw(st.lists(st.sampled_from(range(len(made))), min_size=1, max_size=4))
        parts = [made[k].select(data.draw(st.lists(st.integers(0, len(made[k]) - 1), max_size=4))) for k in chosen]
        whole = joined(parts)
        expected = [(one, i) for one in parts for i in range(len(one))]
        assert all(same(whole, at, one, i) for at, (one, i) in enumerate(expected))
        if len(whole):
            made.append(whole)


def test_boxes_are_kept_where_all_have_them(sets: list[ImageSet]):
    boxed = [replace(one, boxes=np.full((len(one), 4), k, dtype=np.float32)) for k, one in enumerate(sets)]
    boxes = joined(boxed).boxes
    assert boxes is not None
    assert boxes[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert joined([boxed[0], sets[1]]).boxes is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_joined_set_can_be_loaded_by_workers(sets: list[ImageSet], workers: int):
    whole = joined(sets)
    transform = build_transform("none", Preprocessing(image_size=8), train=False)
    batches = list(make_loader(whole, transform, batch_size=4, workers=workers))
    assert torch.cat([batch.targets for batch in batches]).tolist() == whole.labels.tolist()
    assert torch.equal(batches[0].images[0], batches[2].images[1])  # image 5 of the first store, twice
    copy = pickle.loads(pickle.dumps(whole.store))
    assert all(torch.equal(copy.image(row), whole.store.image(row)) for row in range(len(copy)))


def test_the_store_tells_its_place_and_its_end(sets: list[ImageSet], tmp_path: Path):
    from attngraft.data.pixel_store import decode_files

    write_noise(tmp_path / "x.png", 0)
    on_disk = decode_files([tmp_path / "x.png"], limit=9, pixel_cap=10**6, cache_dir=tmp_path / "cache", memory_bytes=0)
    assert JoinedStore([sets[0].store, on_disk.store]).path == on_disk.store.path
    store = JoinedStore([sets[0].store, sets[1].store])
    assert store.path is None
    assert len(store.shapes) == len(store) == 42
    for row in (-1, 42):
        with pytest.raises(IndexError):
            store.image(row)


def test_no_sets_are_an_error(sets: list[ImageSet]):
    with pytest.raises(ConfigError, match="no image sets to join"):
        joined([])
    assert joined(sets[:1]) is sets[0]


def test_a_folder_of_tables_is_read_as_one_and_images_without_a_label_wait(tmp_path):
    tables = tmp_path / "tables"
    tables.mkdir()
    for number in range(4):
        write_noise(tmp_path / f"{number}.png", number)
    (tables / "a.csv").write_text("path,label\n../0.png,cat\n../1.png,\n")
    (tables / "b.csv").write_text("path,label\n../2.png,dog\n../3.png,cat\n")
    images, _ = load_labelled(tables, ("cat", "dog"), image_size=16, partly=True)
    assert images.ids == ("../0.png", "../2.png", "../3.png")
    assert images.labels.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match=r"line 3 of .*none of them empty"):
        load_labelled(tables, ("cat", "dog"), image_size=16)
