"""Which folders are splits and which are classes: what they hold decides, then their names, and what is not clear is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_folders import MakeFolder, write_noise

from attngraft.data import load_data, load_images, load_labelled
from attngraft.data.folders import scan_folder
from attngraft.data.split_names import parse_splits
from attngraft.errors import ConfigError, DataError

Tree = dict[str, int]


def grow(root: Path, tree: Tree) -> Path:
    """Files called like images, that many in each folder; nothing is in them, as nothing is opened."""
    for folder, count in tree.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number}.png").touch()
    return root


def in_each(splits: str, classes: str, count: int = 2) -> Tree:
    """A tree of splits that hold the same classes."""
    return {f"{split}/{name}": count for split in splits.split() for name in classes.split()}


def counts(root: Path, splits: str | None = None) -> dict[str, int]:
    """Images by split and class, as "train/cat", or "cat" where the data has no splits."""
    pool = scan_folder(root, splits=splits)
    found: dict[str, int] = {}
    for split, label in zip(pool.splits.tolist(), pool.images.labels.tolist(), strict=True):
        name = f"{split}/{pool.classes[label]}".lstrip("/")
        found[name] = found.get(name, 0) + 1
    return found


def refusal(root: Path, splits: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        scan_folder(root, splits=splits)
    said = str(caught.value)
    assert said.endswith(".")
    assert said.isprintable()
    return said


# --- splits by any name ----------------------------------------------------------------------------------------------
TAKEN = [
    ("training_set test_set", "train test"),
    ("train_images test_images", "train test"),
    ("images_train images_val images_test", "train val test"),
    ("trainval test", "train test"),
    ("TrainSet TestSet", "train test"),
    ("train2017 val2017", "train val"),
    ("Train TEST", "train test"),
    ("train test_images", "train test"),
    ("train val_small", "train val"),
    ("train holdout", "train test"),
    ("Trainingsdaten testdaten", "train test"),
    ("train-data validation-data eval-data", "train val test"),
]


@pytest.mark.parametrize(("names", "splits"), TAKEN)
def test_splits_by_other_names_are_used_and_said_where_each_is_certain(tmp_path: Path, names: str, splits: str) -> None:
    root = grow(tmp_path, in_each(names, "ant bee"))
    assert counts(root) == in_each(splits, "ant bee")
    told = " ".join(scan_folder(root).notes)
    for name in names.split():
        assert name in told or name.lower() in ("train", "test")


REFUSED: dict[str, tuple[Tree, tuple[str, ...]]] = {
    "classes that one lacks": (
        in_each("train_images", "a b c") | in_each("test_images", "a b"),
        ("which look like splits", "--splits train=train_images,test=test_images"),
    ),
    "folds": (
        in_each("fold0 fold1 fold2", "a b"),
        ("'fold0', 'fold1', 'fold2'", "--splits train=fold1,train=fold2,test=fold0"),
    ),
    "splits with numbers": (in_each("split_1 split_2", "a b"), ("look like splits", "--splits none")),
    "two for training": (in_each("train1 train2 test", "a b"), ("--splits train=train1,train=train2,test=test",)),
    "folds beside a test folder": (in_each("fold1 fold2 test", "a b"), ("look like splits",)),
    "something beside": (in_each("train_images test_images", "a b") | {"extra": 3}, ("'extra'", "--splits")),
    "no class in common": (
        in_each("train_images", "a b") | in_each("test_images", "c d"),
        ("train=train_images,test=test_images",),
    ),
    "no labels in one": (in_each("train_images", "a b") | {"test_images": 3}, ("--splits train=train_images",)),
    "no folders in any": ({"train_images": 3, "test_images": 3}, ("without class folders", "--splits none")),
    "no folders in train and test": ({"train": 3, "test": 3}, ("without class folders",)),
    "no folders in folds": ({"fold0": 3, "fold1": 3}, ("without class folders",)),
    "equal folders": (in_each("2023 2024", "a b"), ("hold the same folders ('a', 'b')", "--splits none")),
    "nested folders": (in_each("one", "a b c") | in_each("two", "a b"), ("train=one,test=two",)),
    "nested folders, the smaller first": (in_each("one", "a b") | in_each("two", "a b c"), ("train=two,test=one",)),
    "equal folders beside a class": (in_each("one two", "a b") | {"three": 4}, ("hold the same folders",)),
    "domains": (in_each("photo sketch", "a b c"), ("hold the same folders", "where each is a data set")),
    "splits below classes": (in_each("cat dog", "train test"), ("cat holds 'test', 'train'", "above the classes")),
    "data sets": (in_each("a/train a/test b/train b/test", "x y"), ("a holds 'test', 'train'",)),
    "a data set and pictures": (in_each("data/train data/test", "x y") | {"docs": 2}, ("data holds 'test', 'train'",)),
    "classes and a split of them": (in_each("val", "a b") | {"a": 3, "b": 3}, ("named like classes beside it",)),
    "training images and folders": (in_each("train", "a b") | in_each("bus", "c d"), ("--splits train=train",)),
    "training images among classes": ({"train/1": 2, "train/2": 2, "bus": 2, "car": 2}, ("'bus', 'car'",)),
    "an unknown split": (in_each("train rest", "a b"), ("beside it 'rest'", "--splits train=train")),
    "two train folders": (in_each("train Training", "a b"), ("has both",)),
    "no train folder": (in_each("val test", "a b"), ("no train folder",)),
    "an empty test folder": (in_each("train", "a b") | {"test": 0}, ("test holds no images",)),
    "images and masks": ({"images": 3, "masks": 3}, ("looks like images with masks",)),
    "images alone": ({".": 5}, ("no folders in it but 5 images",)),
    "one class": ({"cat": 5}, ("only one class, 'cat'",)),
    "one class of several folders": ({"cat/images": 5}, ("only one class, 'cat'",)),
    "an empty class": ({"cat": 5, "dog": 0}, ("'dog' has no images",)),
    "an empty class beside a nested one": ({"cat/1": 5, "cat/2": 5, "dog": 0}, ("'dog' has no images",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_certain_is_refused_with_what_was_found_and_what_to_say(tmp_path: Path, case: str) -> None:
    tree, parts = REFUSED[case]
    said = refusal(grow(tmp_path, tree))
    for part in parts:
        assert part in said


# --- classes by any name ---------------------------------------------------------------------------------------------
CLASSES: dict[str, Tree] = {
    "a class called train": {"bus": 2, "car": 2, "train": 2},
    "a class called Training": {"Boxing": 2, "Training": 3},
    "a class called test": {"exam": 2, "quiz": 2, "test": 2},
    "classes called val and train": {"val": 2, "train": 2, "ship": 2},
    "kinds of trains": {"train_diesel": 2, "train_steam": 2},
    "a class called fold": {"fold": 2, "crease": 2},
    "a test tube": {"test_tube": 2, "flask": 2},
    "numbers": {"0": 2, "1": 2, "10": 2},
    "parts": {"part_a": 2, "part_b": 2},
    "a class called images": {"images": 2, "drawings": 2},
    "an at sign": {"@": 2, "#": 2},
}


@pytest.mark.parametrize("case", CLASSES)
def test_a_folder_that_holds_images_is_a_class_whatever_it_is_called(tmp_path: Path, case: str) -> None:
    assert counts(grow(tmp_path, CLASSES[case])) == CLASSES[case]


def test_a_class_that_is_called_like_a_split_is_said(tmp_path: Path) -> None:
    assert "'train' holds images itself" in scan_folder(grow(tmp_path, CLASSES["a class called train"])).notes[0]


NESTED: dict[str, tuple[Tree, Tree]] = {
    "folders of images": ({"cat/images": 2, "dog/images": 2}, {"cat": 2, "dog": 2}),
    "their own folders": ({"cat/a": 2, "cat/b": 1, "dog/c": 2}, {"cat": 3, "dog": 2}),
    "images and folders": ({"cat": 2, "cat/x": 1, "cat/y": 1, "dog": 2, "dog/x": 1, "dog/y": 1}, {"cat": 4, "dog": 4}),
    "some names in common": (in_each("cat", "1 2 3") | in_each("dog", "2 3 4"), {"cat": 6, "dog": 6}),
    "a vehicle called train": (in_each("vehicle", "bus train") | in_each("pet", "cat dog"), {"vehicle": 4, "pet": 4}),
    "trains and tests": (in_each("test_tubes", "a b") | {"flask": 2, "train_cars": 2}, {"test_tubes": 4, "flask": 2, "train_cars": 2}),
    "classes in folders below splits": (
        {"train/cat/images": 2, "train/dog/images": 2, "test/cat/images": 1, "test/dog/images": 1},
        {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1},
    ),
    "a train class below splits": (in_each("train test", "bus car train"), in_each("train test", "bus car train")),
}  # fmt: skip


@pytest.mark.parametrize("case", NESTED)
def test_classes_may_lie_one_more_level_deep(tmp_path: Path, case: str) -> None:
    tree, expected = NESTED[case]
    assert counts(grow(tmp_path, tree)) == expected


def test_names_that_differ_in_case_alone_are_two_classes_and_said(tmp_path: Path) -> None:
    root = grow(tmp_path, {"Cat": 2, "cat": 2, "dog": 2})
    if len(list(root.iterdir())) < 3:
        pytest.skip("this file system takes both for one")
    assert "'Cat' and 'cat' differ in upper and lower case alone" in scan_folder(root).notes[0]


# --- parents, test images without labels, archives -------------------------------------------------------------------
@pytest.mark.parametrize("parent", ["data", "dataset-master", "a/b/c", "images"])
@pytest.mark.parametrize("tree", [{"cat": 2, "dog": 2}, in_each("train test", "cat dog"), in_each("train", "cat dog")])
def test_one_more_parent_folder_is_used_and_said(tmp_path: Path, parent: str, tree: Tree) -> None:
    root = grow(tmp_path, {f"{parent}/{folder}": count for folder, count in tree.items()})
    (root / "README.md").touch()
    (root / "docs").mkdir()
    (root / "docs/usage.md").touch()
    assert counts(root) == tree
    assert f"read from {parent} in it" in scan_folder(root).notes[0]
    assert all((root / image_id).is_file() for image_id in scan_folder(root).ids)


def test_a_split_within_itself_is_entered(tmp_path: Path) -> None:
    assert counts(grow(tmp_path, in_each("train/train test/test", "cat dog"))) == in_each("train test", "cat dog")
    assert counts(grow(tmp_path / "2", in_each("train/data test", "cat dog"))) == in_each("train test", "cat dog")


@pytest.mark.parametrize("test", [{"test": 5}, {"test/images": 5}, {"test/unknown": 5}, {"test/test": 5}, {"TEST": 5}])
def test_test_images_without_labels_are_not_used_and_said(tmp_path: Path, test: Tree) -> None:
    root = grow(tmp_path, in_each("train", "cat dog") | test)
    assert counts(root) == in_each("train", "cat dog")
    assert f"the images in {next(iter(test))[:4]} were not used: they lie in" in scan_folder(root).notes[0]


def test_a_labelled_val_folder_beside_a_test_folder_without_labels_is_used(tmp_path: Path) -> None:
    assert counts(grow(tmp_path, in_each("train val", "cat dog") | {"test": 5})) == in_each("train val", "cat dog")


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar.gz", "photos.7z"])
def test_an_archive_has_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match="unpack"):
            load_data(source, image_size=16)


# --- what systems leave behind ---------------------------------------------------------------------------------------
SYSTEM = [
    *("@eaDir", "lost+found", "__MACOSX", ".ipynb_checkpoints", ".git", "$RECYCLE.BIN", "System Volume Information"),
    *(".thumbnails", "#recycle", "@Recycle", "LOST.DIR", "found.000", ".Trash-1000", "__pycache__", "@EADIR"),
]


@pytest.mark.parametrize("name", SYSTEM)
@pytest.mark.parametrize("tree", [{"cat": 2, "dog": 2}, in_each("train test", "cat dog")])
def test_system_folders_are_passed_over_at_any_depth_and_counted(tmp_path: Path, name: str, tree: Tree) -> None:
    places = {parent.as_posix() for folder in tree for parent in (Path(folder), *Path(folder).parents)}
    root = grow(tmp_path, tree | {f"{place}/{name}/cat_0.png": 2 for place in places})
    assert counts(root) == tree
    told = "folder ({}) was" if len(places) == 1 else "folders ({}) were"
    assert f"{len(places)} system or hidden {told.format(repr(name))} ignored." in scan_folder(root).notes


@pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "._0.png", "desktop.ini", "~$1.png"])
def test_system_files_are_passed_over_and_counted(tmp_path: Path, name: str) -> None:
    root = grow(tmp_path, {"cat": 2, "dog": 2})
    (root / "cat" / name).touch()
    assert counts(root) == {"cat": 2, "dog": 2}
    assert scan_folder(root).notes == (f"1 system or hidden file ('{name}') was ignored.",)


def test_a_system_folder_that_may_not_be_read_does_no_harm(tmp_path: Path) -> None:
    root = grow(tmp_path, {"cat": 2, "dog": 2, "lost+found": 0})
    (root / "lost+found").chmod(0)
    assert counts(root) == {"cat": 2, "dog": 2}


# --- saying it -------------------------------------------------------------------------------------------------------
def test_what_is_said_is_done(tmp_path: Path) -> None:
    root = grow(tmp_path, in_each("fold0 fold1 fold2", "a b"))
    said = counts(root, "test=fold0, train=fold1,train=fold2")
    assert said == {"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2}
    assert counts(root, "train=fold0") == {"train/a": 2, "train/b": 2}
    assert counts(root, "none") == {"fold0": 4, "fold1": 4, "fold2": 4}
    assert "splits names gone" in refusal(root, "train=gone")
    assert "'c' has no images in the test split ('t')" in refusal(
        grow(tmp_path / "less", in_each("s", "a b c") | in_each("t", "a b")), "train=s,test=t"
    )
    deep = grow(tmp_path / "deep", in_each("x/one x/two", "a b"))
    assert counts(deep, "train=x/one,val=x/two/") == in_each("train val", "a b")


@pytest.mark.parametrize(
    "text", ["", "train", "train=", "a=b", "test=b", "train=a,test=a", "train=../a", "train=/a", "train=a,,", "train=."]
)
def test_what_says_no_splits_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="splits is"):
        parse_splits(text)


def test_the_data_say_how_they_are_loaded_again(make_folder: MakeFolder) -> None:
    root = make_folder(in_each("fold0 fold1", "a b", 3))
    data = load_data(root, image_size=16, splits="train=fold0,test=fold1")
    assert (len(data.train), len(data.test)) == (6, 6)
    assert data.origin is not None
    assert data.origin.splits == "train=fold0,test=fold1"


def test_splits_are_of_folders_alone(tmp_path: Path) -> None:
    write_noise(tmp_path / "x.png", 0)
    (tmp_path / "t.csv").write_text("path,label\nx.png,a\n")
    for source in (tmp_path / "t.csv", "cluttered-digits", [(1, 2)]):
        with pytest.raises(ConfigError, match="splits is 'none'"):
            load_data(source, image_size=16, splits="none")


# --- a model in use --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("names", ["train test", "train_images test_images", "fold0 fold1 fold2"])
def test_labelled_images_are_found_below_splits_of_any_name(make_folder: MakeFolder, names: str) -> None:
    root = make_folder(in_each(names, "ant bee"))
    images, classes = load_labelled(root, ("ant", "bee"), image_size=16, extend=True)
    assert classes == ("ant", "bee")
    assert len(images) == 4 * len(names.split())


def test_a_model_is_looked_at_with_test_images_of_any_name(make_folder: MakeFolder) -> None:
    root = make_folder(in_each("train_images test_images", "ant bee", 3))
    images = load_images(root, ("ant", "bee"), image_size=16)
    assert {image_id.split("/")[0] for image_id in images.ids} == {"test_images"}


def test_a_model_that_knows_a_class_called_train_is_given_all_of_them(make_folder: MakeFolder) -> None:
    root = make_folder({"bus": 2, "train": 2})
    assert load_images(root, ("bus", "train"), image_size=16).labels.tolist() == [0, 0, 1, 1]
