"""Any tree of folders is the data set that a person sees in it, or one sentence; splits and folders of systems are no classes.

`GROWN` are trees that are made from their meaning, so that the answer is known; `WILD` are trees of anything, of which only
what no answer may be is known.
"""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attngraft.data import Dataset, load_data
from attngraft.errors import AttngraftError

SLOW = settings.get_profile("slow")
ORDINARY = ("cat", "dog", "bus", "蜂", "class 1", "n01443537", "7", "10", "Straße", "fold", "tests of strength")
LIKE_SPLITS = ("train", "Training", "test", "val")
SYSTEM = ("@eaDir", "__MACOSX", ".ipynb_checkpoints", ".git", "$RECYCLE.BIN", "lost+found", ".thumbnails", "#recycle")
STRAY = ("Thumbs.db", ".DS_Store", "._0.png", "notes.txt", "labels.csv.bak")
NAMED = (("train", "test"), ("Train", "TEST"), ("training", "validation"), ("train", "val", "test"), ("train",))
CERTAIN = (
    *(("train_images", "test_images"), ("trainval", "test"), ("training_set", "test_set"), ("train2017", "val2017")),
    *(("train", "test_images"), ("images_train", "images_val", "images_test")),
)
UNCERTAIN = (("fold0", "fold1"), ("fold_a", "fold_b", "fold_c"), ("train1", "train2", "test"), ("2023", "2024"))


def _png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PNGS = [_png(number) for number in range(120)]
Files = dict[
    str, bytes | int | None
]  # what is in each file: bytes, or the number of an image; None for an empty folder


@dataclass
class Tree:
    """Files by path, and what a person sees in them.

    Attributes:
        files: by path.
        unused: a folder that is left out, with all in it.
        splits: split -> images of each class; the split is "" where there is none. Empty where it is refused.
        told: what a refusal has to say, or the report.
    """

    files: Files = field(default_factory=dict)
    splits: dict[str, Counter[str]] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    unused: str | None = None

    def add(self, folder: str, split: str, name: str, count: int) -> None:
        """Images of a class."""
        for number in range(count):
            self.files[f"{folder}/{number}.png"] = len(self.files) % len(PNGS)
        self.splits.setdefault(split, Counter())[name] += count


@contextmanager
def written(files: Files) -> Iterator[Path]:
    """The tree on a disk, for a while."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "data"
        root.mkdir()
        for name, content in files.items():
            path = root / name
            (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
            if content is not None:
                path.write_bytes(PNGS[content] if isinstance(content, int) else content)
        yield root


@st.composite
def grown(draw: st.DrawFn) -> Tree:
    """A tree with its meaning: classes, perhaps in splits, among what people and systems put beside them."""
    kind = draw(st.sampled_from(["plain", "plain", "named", "named", "certain", "uncertain", "unlabelled"]))
    tree = Tree()
    names = draw(st.lists(st.sampled_from(ORDINARY), min_size=2, max_size=4, unique=True))
    if kind == "plain":
        _grow_plain(draw, tree, names)
    else:
        _grow_splits(draw, tree, names, kind)
    _add_strays(draw, tree)
    if draw(st.booleans()) and kind != "uncertain":
        parent = draw(st.sampled_from(["data", "dataset-master", "a/b"]))
        tree.files = {f"{parent}/{name}": content for name, content in tree.files.items()} | {"README.md": b"read me"}
        tree.told = (*tree.told, parent) if tree.splits else tree.told
    return tree


def _grow_plain(draw: st.DrawFn, tree: Tree, names: list[str]) -> None:
    nested = draw(st.sampled_from(["no", "images", "own", "both"]))
    if nested in ("no", "both"):  # such a class holds images, so it may be called anything
        names += draw(st.lists(st.sampled_from(LIKE_SPLITS), max_size=2, unique_by=str.lower))
    for name in names:
        if nested in ("no", "both"):
            tree.add(name, "", name, draw(st.integers(4, 6)))
        if nested == "images":
            tree.add(f"{name}/images", "", name, 4)
        for number in range(2) if nested in ("own", "both") else ():
            tree.add(f"{name}/{name}-{number}" if nested == "own" else f"{name}/more-{number}", "", name, 3)
    if nested == "no" and draw(st.integers(0, 5)) == 0:
        tree.files["forgotten"] = None
        tree.splits, tree.told = {}, ("'forgotten' has no images",)


def _grow_splits(draw: st.DrawFn, tree: Tree, names: list[str], kind: str) -> None:
    choices = {"certain": CERTAIN, "uncertain": UNCERTAIN, "unlabelled": (("train",),)}.get(kind, NAMED)
    folders = draw(st.sampled_from(choices))
    names = names + draw(st.lists(st.sampled_from(LIKE_SPLITS), max_size=1))
    nested = draw(st.sampled_from(["", "", "/images"]))
    within = draw(st.booleans()) and kind == "named"
    lacking = draw(st.integers(0, 6)) == 0 and kind == "named" and len(folders) > 1
    for folder in folders:
        split = next(split for split in ("train", "val", "test", "") if split in folder.lower())
        for name in names[1:] if lacking and folder == folders[-1] else names:
            inside = f"/{folder}" if within and len(names) > 2 else ""
            tree.add(f"{folder}{inside}/{name}{nested}", split, name, 4)
    if kind == "unlabelled":
        test = draw(st.sampled_from(["test", "TEST", "val"]))
        tree.files |= {f"{test}/{number}.png": len(PNGS) - 1 - number for number in range(3)}
        tree.told, tree.unused = (f"the images in {test} were not used",), test
    if lacking:
        tree.splits, tree.told = {}, (f"'{names[0]}' has no images in the",)
    if kind == "uncertain":
        tree.splits, tree.told = {}, (*folders, "--splits train=", f"--splits {'none'}")


def _add_strays(draw: st.DrawFn, tree: Tree) -> None:
    folders = sorted({parent.as_posix() for path in tree.files for parent in Path(path).parents})
    for folder in draw(st.lists(st.sampled_from(folders), max_size=3)):
        name = draw(st.sampled_from(SYSTEM))
        tree.files |= {f"{folder}/{name}/{number}.png": number for number in range(2)}
        tree.told = (*tree.told, "system or hidden folder") if tree.splits and folder != tree.unused else tree.told
    for folder in draw(st.lists(st.sampled_from(folders), max_size=3)):
        if folder == "." or tree.files.get(folder, b"") is not None:
            tree.files[f"{folder}/{draw(st.sampled_from(STRAY))}"] = b"no image"


def loaded(root: Path, **options: Any) -> Dataset | str:
    """The data set, or the sentence of its refusal."""
    try:
        return load_data(root, image_size=8, **options)
    except AttngraftError as error:
        said = str(error)
    assert said.isprintable()
    assert said[-1] in ".?"
    return said


def check_grown(tree: Tree) -> None:
    with written(tree.files) as root:
        data = loaded(root)
    if isinstance(data, str):
        assert not tree.splits, data
        assert all(part in data for part in tree.told), (data, tree.told)
        return
    assert tree.splits, f"taken for {data.classes}"
    found: dict[str, Counter[str]] = {}
    for split, images in (("train", data.train), ("val", data.val), ("test", data.test)):
        if images is not None:
            found[split] = Counter(data.classes[label] for label in images.labels.tolist())
    assert data.classes == tuple(sorted({name for counts in tree.splits.values() for name in counts}))
    assert found == expected_splits(tree.splits, found)
    assert all(part in " ".join(data.report.notes) for part in tree.told), (data.report.notes, tree.told)


def expected_splits(made: dict[str, Counter[str]], found: dict[str, Counter[str]]) -> dict[str, Counter[str]]:
    """What the docs say of data that lack a test split: val is taken for it, or a part of the training images."""
    if "test" in made:
        return made
    if "val" in made:
        return {"train": made["train"], "test": made["val"]}
    everything = made.get("train", made.get("", Counter()))
    tested = Counter({name: max(1, round(count * 0.2)) for name, count in everything.items()})
    return {"train": everything - tested, "test": tested}


@settings(max_examples=60)
@given(grown())
def test_a_tree_is_what_a_person_sees_in_it(tree: Tree) -> None:
    check_grown(tree)


@pytest.mark.slow
@settings(SLOW, max_examples=3000)
@given(grown())
def test_thousands_of_trees_are_what_a_person_sees_in_them(tree: Tree) -> None:
    check_grown(tree)


# --- trees of anything -----------------------------------------------------------------------------------------------
ANY_NAME = st.one_of(
    st.sampled_from(
        (*ORDINARY[:3], *LIKE_SPLITS, *SYSTEM[:3], *(name for split in CERTAIN + UNCERTAIN for name in split))
    ),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
        lambda name: name not in (".", "..") and len(name.encode()) < 200
    ),
)
CONTENTS = st.sampled_from((*range(30), b"", b"no image", None))
ENDINGS = st.sampled_from((".png", ".PNG", ".jpg", ".txt", ""))


@st.composite
def wild(draw: st.DrawFn) -> Files:
    """Files and empty folders of any names at any depth."""
    pool = draw(st.lists(ANY_NAME, min_size=2, max_size=6, unique_by=str.lower))
    files: Files = {}
    for number in range(draw(st.integers(0, 25))):
        folder = "/".join(draw(st.lists(st.sampled_from(pool), max_size=3)))
        name = f"f{number}{draw(ENDINGS)}"
        files[f"{folder}/{name}" if folder else name] = draw(CONTENTS)
    return files


def check_wild(files: Files) -> None:
    with written(files) as root:
        for skip in (False, True):
            data = loaded(root, skip_broken=skip)
            if isinstance(data, str):
                continue
            for name in data.classes:
                assert name not in SYSTEM
                assert not name.startswith(".")
            images = [data.train, data.test, *([data.val] if data.val else [])]
            labelled = [
                (i, data.classes[label]) for one in images for i, label in zip(one.ids, one.labels, strict=True)
            ]
            assert all(f"/{name}/" in f"/{image_id}" and (root / image_id).is_file() for image_id, name in labelled)
            assert_no_splits_are_classes(labelled)


def assert_no_splits_are_classes(labelled: list[tuple[str, str]]) -> None:
    """No class holds the folders of another and nothing else; what is called train holds images where it is a class."""
    inner: dict[str, set[str]] = {}
    for image_id, name in labelled:
        inner.setdefault(name, set()).add(f"{image_id}/".split(f"{name}/", 1)[1].split("/")[0])
    folders = {name: found for name, found in inner.items() if not any(part.startswith("f") for part in found)}
    for name, found in folders.items():
        others = [other for key, other in folders.items() if key != name and len(other) > 1]
        assert not (len(found) > 1 and any(found <= other for other in others)), folders
    tops = {image_id.split("/")[0] for image_id, _ in labelled}
    classes = {name for _, name in labelled}
    assert not ({"train_images", "test_images"} <= tops & classes and {"train_images", "test_images"} <= folders.keys())


@settings(max_examples=60)
@given(wild())
def test_a_tree_of_anything_is_a_data_set_or_a_sentence(files: Files) -> None:
    check_wild(files)


@pytest.mark.slow
@settings(SLOW, max_examples=3000)
@given(wild())
def test_thousands_of_trees_of_anything_are_data_sets_or_sentences(files: Files) -> None:
    check_wild(files)
