"""Class folders that come, go or change their names: what labels count and what logits stand for stays one list."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_images import encoded, picture
from sealed import read_plain
from torch import nn
from training_helpers import PLAIN, contents, run_fit, short_recipe, small_model

from attngraft.backbones import create_backbone
from attngraft.comparison import compare
from attngraft.comparison.build_model import ModelSource
from attngraft.config import Preprocessing
from attngraft.continual.adaptation.create_store import create_store
from attngraft.data import Dataset, class_changes, load_data, load_images, load_labelled
from attngraft.deployment import predict
from attngraft.errors import AttngraftError, DataError, RunError
from attngraft.explanation.image_source import own_test_images, view_of
from attngraft.surgery import classes_of, load, note_classes_, renew_head_

Edit = Callable[[Path], object]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ants, bees and wasps, eight training and four test images each."""
    for number, name in enumerate(("ants", "bees", "wasps")):
        add_class(tmp_path / "insects", name, 100 * number)
    return tmp_path / "insects"


def add_class(root: Path, name: str, first: int = 900) -> None:
    for split, count in (("train", 8), ("test", 4)):
        (root / split / name).mkdir(parents=True)
        for i in range(count):
            pixels = picture(first + i + 50 * (split == "test"), 20, 18)
            (root / split / name / f"{i}.png").write_bytes(encoded(pixels, "PNG"))


def rename(root: Path, old: str, new: str) -> None:
    for split in ("train", "test"):
        (root / split / old).rename(root / split / new)


def remove(root: Path, name: str) -> None:
    for split in ("train", "test"):
        shutil.rmtree(root / split / name)


def empty(root: Path, name: str) -> None:
    for file in (root / "train" / name).iterdir():
        file.unlink()


EDITS: dict[str, tuple[Edit, str]] = {
    "added": (lambda root: add_class(root, "flies"), "new: 'flies'"),
    "gone": (lambda root: remove(root, "bees"), "gone: 'bees'"),
    "renamed": (lambda root: rename(root, "bees", "hornets"), "new: 'hornets'; gone: 'bees'"),
    "other case": (lambda root: rename(root, "bees", "Bees"), "differ in upper and lower case alone"),
    "emptied": (lambda root: empty(root, "bees"), "'bees' has no images in the train split"),
    "missing in one split": (lambda root: shutil.rmtree(root / "test" / "bees"), "'bees' has no images in the test"),
}


def fitted(root: Path, run: Path, model: nn.Module | None = None) -> None:
    classes = len(list((root / "train").iterdir()))
    run_fit(model or small_model(classes), root, run, recipe=short_recipe(1), image_size=16, curve=False)


def refused(work: Callable[[], object], folder: Path) -> str:
    """The sentence with which it is refused; the folder stays as it is."""
    before = contents(folder)
    with pytest.raises(AttngraftError) as caught:
        work()
    assert contents(folder) == before
    assert str(caught.value).endswith(".")
    return str(caught.value)


@pytest.mark.parametrize("edit", EDITS)
def test_a_run_is_not_continued_with_other_classes(root: Path, tmp_path: Path, edit: str) -> None:
    run = tmp_path / "run"
    fitted(root, run)
    EDITS[edit][0](root)
    assert EDITS[edit][1] in refused(lambda: fitted(root, run), run)


@pytest.mark.parametrize("edit", ["added", "renamed"])
def test_a_comparison_is_not_continued_with_other_classes(root: Path, tmp_path: Path, edit: str) -> None:
    folder = tmp_path / "comparison"

    def work() -> None:
        recipe = short_recipe(1)
        options = {**PLAIN, "image_size": 16, "curve": False}
        compare(root, backbone="small-cnn", attentions="none", seeds=1, recipe=recipe, run_dir=folder, **options)

    work()
    EDITS[edit][0](root)
    assert EDITS[edit][1] in refused(work, folder)


@pytest.mark.parametrize("edit", EDITS)
def test_the_images_of_a_run_are_not_taken_for_those_of_other_classes(root: Path, tmp_path: Path, edit: str) -> None:
    run = tmp_path / "run"
    fitted(root, run)
    EDITS[edit][0](root)
    said = read_plain(run / "run.json")
    assert EDITS[edit][1] in refused(lambda: own_test_images(run, said, Preprocessing(image_size=16)), run)


def knowing(*classes: str) -> nn.Module:
    return note_classes_(small_model(len(classes)), classes)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (("ants", "bees", "flies"), "new: 'wasps'; gone: 'flies'"),
        (("bees", "ants", "wasps"), "the same names in another order"),
        (("Ants", "bees", "wasps"), "'Ants' and 'ants' differ in upper and lower case alone"),
    ],
)
def test_a_head_of_other_classes_is_not_trained_as_if_it_were_of_these(
    root: Path, tmp_path: Path, known: tuple[str, ...], said: str
) -> None:
    model = knowing(*known)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    message = refused(lambda: fitted(root, tmp_path / "run", model), tmp_path)
    assert said in message
    assert "renew_head_" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert classes_of(model) == known
    assert renew_head_(model, ("ants", "bees", "wasps"))
    fitted(root, tmp_path / "run", model)
    assert classes_of(load(tmp_path / "run", backbone=small_model(3))) == ("ants", "bees", "wasps")


def test_a_head_is_kept_for_the_same_classes_and_new_for_others(root: Path, tmp_path: Path) -> None:
    run, same, other = tmp_path / "run", ("ants", "bees", "wasps"), ("ants", "bees", "flies")
    fitted(root, run, create_backbone("small-cnn", num_classes=3))
    trained = load(run).head.weight
    assert torch.equal(ModelSource(str(run), True).fresh(same, 0).head.weight, trained)
    first, again, third = (ModelSource(str(run), True).fresh(other, seed) for seed in (0, 0, 1))
    assert not torch.equal(first.head.weight, trained)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, third.head.weight)
    assert classes_of(first) == ()
    more = ModelSource(str(run), True).fresh((*same, "flies"), 0)
    assert more.head.weight.shape[0] == 4
    assert classes_of(more) == ()
    assert all(
        torch.equal(a, b)
        for (name, a), b in zip(first.state_dict().items(), load(run).state_dict().values(), strict=True)
        if "head" not in name
    )


@pytest.mark.parametrize("edit", ["added", "renamed", "other case"])
def test_images_of_classes_that_the_model_does_not_know_are_refused(root: Path, edit: str) -> None:
    model = knowing("ants", "bees", "wasps")
    EDITS[edit][0](root)
    strange = sorted({path.name for path in (root / "test").iterdir()} - {"ants", "bees", "wasps"})[0]
    for source in (root, root / "test", load_data(root, image_size=16)):
        with pytest.raises(DataError, match="the model does not know") as caught:
            view_of(model, source)
        assert repr(strange) in str(caught.value)
        assert ("case" in str(caught.value)) == (edit == "other case")
    with pytest.raises(DataError, match=strange) as caught:
        load_labelled(root, ("ants", "bees", "wasps"), image_size=16)
    assert ("case" in str(caught.value)) == (edit == "other case")


def test_labels_count_the_classes_of_the_model_in_its_order(root: Path) -> None:
    model = knowing("wasps", "ants", "bees")
    data = load_data(root, image_size=16)
    for source in (data, root, root / "test"):
        view = view_of(model, source)
        named = [("wasps", "ants", "bees")[label] for label in view.labels]
        assert named == [name.split("/")[-2] for name in view.ids]
    remove(root, "ants")
    assert set(load_images(root / "test", ("wasps", "ants", "bees"), image_size=16).labels.tolist()) == {0, 2}


def test_a_store_is_not_made_with_images_of_other_classes(root: Path, tmp_path: Path) -> None:
    model = note_classes_(create_backbone("small-cnn", num_classes=3), ("ants", "bees", "flies"))
    with pytest.raises(DataError, match="new: 'wasps'; gone: 'flies'"):
        create_store(tmp_path / "store", model, data=root)
    assert not (tmp_path / "store").exists()


def test_answers_are_not_called_by_names_that_do_not_fit_them(root: Path) -> None:
    with pytest.raises(DataError, match="3 logits and 2 names"):
        predict(note_classes_(small_model(3), ("ants", "bees")), root / "test")


def test_names_that_look_alike_are_explained() -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert "different Unicode forms" in class_changes((composed,), (apart,))
    assert "case" in class_changes(("Ant",), ("ant",))
    assert "case" in class_changes((composed.upper(),), (apart,))
    assert class_changes(("a", "b"), ("a", "b")) == ""
    assert class_changes(("a",), ("b",)) == "new: 'b'; gone: 'a'"
    assert class_changes(("a",), ("a", "b")) == "new: 'b'"


def test_a_class_written_in_two_unicode_forms_is_named_in_both(root: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "bée") for form in ("NFC", "NFD"))
    (root / "train" / "bees").rename(root / "train" / composed)
    (root / "test" / "bees").rename(root / "test" / apart)
    if len({path.name for path in (*(root / "train").iterdir(), *(root / "test").iterdir())}) < 4:
        pytest.skip("this file system takes both forms for one")
    with pytest.raises(DataError, match="different Unicode forms"):
        load_data(root, image_size=16)


def test_data_put_together_by_hand_are_checked_too(root: Path, tmp_path: Path) -> None:
    data: Dataset = load_data(root, image_size=16)
    run = tmp_path / "run"
    run_fit(small_model(3), data, run, recipe=short_recipe(1), curve=False)
    other = replace(data, classes=("ants", "flies", "wasps"))
    with pytest.raises(RunError, match="new: 'flies'; gone: 'bees'"):
        run_fit(small_model(3), other, run, recipe=short_recipe(1), curve=False)
    assert np.array_equal(data.train.labels, other.train.labels)
