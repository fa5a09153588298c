"""Data sets of torch and Hugging Face, and lists, as data sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_folders import MakeFolder
from PIL import Image
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import attngraft as ag
from attngraft.data import ClassLabels, Dataset, LabelSets, Values, load_data
from attngraft.errors import DataError


def load(source: Any, **options: Any) -> Dataset:
    return load_data(source, image_size=16, **options)


def noise(seed: int, mode: str = "RGB", size: tuple[int, int] = (20, 16)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def pairs(targets: list[Any]) -> list[tuple[Image.Image, Any]]:
    return [(noise(i), target) for i, target in enumerate(targets)]


def everything(data: Dataset) -> dict[str, Any]:
    """Target by pixel hash, of all splits."""
    parts = [part for part in (data.train, data.val, data.test) if part is not None]
    return {h: np.asarray(part.targets.get(i)).tolist() for part in parts for i, h in enumerate(part.pixel_hashes)}


class Features(dict[str, Any]):
    """As in Hugging Face's library: a feature by column."""


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class Sequence:
    def __init__(self, feature: ClassLabel) -> None:
        self.feature = feature


class HuggingFace:
    """Rows as dicts, columns by name."""

    def __init__(self, rows: list[dict[str, Any]], features: dict[str, Any]) -> None:
        self.rows, self.features = rows, Features(features)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int | str) -> Any:
        return [row[at] for row in self.rows] if isinstance(at, str) else self.rows[at]


# --- sources -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [None, v2.ToImage(), v2.PILToTensor()], ids=["pil", "image", "tensor"])
def test_a_data_set_of_torchvision_is_the_folder_that_it_reads(make_folder: MakeFolder, transform: Any):
    root = make_folder({"train/ants": 4, "train/bees": 3, "test/ants": 2, "test/bees": 2})
    parts = tuple(ImageFolder(root / split, transform=transform) for split in ("train", "test"))
    found, expected = load(parts), load(root)
    assert (found.classes, found.task, found.name) == (("ants", "bees"), "classification", "ImageFolder")
    assert found.fingerprint == expected.fingerprint
    assert found.test.ids == ("test/000000", "test/000001", "test/000002", "test/000003")
    assert found.origin is None


def test_floats_of_8_bit_images_are_8_bit_images_again(make_folder: MakeFolder):
    root = make_folder({"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    scaled = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    parts = {split: ImageFolder(root / split, transform=scaled) for split in ("train", "test")}
    assert load(parts).fingerprint == load(root).fingerprint


def test_one_data_set_is_split_by_chance_and_subsets_know_their_classes(make_folder: MakeFolder):
    root = make_folder({"a": 10, "b": 10, "c": 10})
    folder = ImageFolder(root)
    data = load(folder)
    assert len(data.test) == 6
    some = load(Subset(folder, [*range(8), *range(12, 20)]))
    assert some.classes == ("a", "b")
    assert "classes that no sample has are left out: 'c'." in some.report.notes
    both = load(ConcatDataset([Subset(folder, range(15)), Subset(folder, range(15, 30))]))
    assert everything(both) == everything(data)


@pytest.mark.parametrize("container", [tuple, dict])
def test_splits_as_a_tuple_or_by_name(container: type):
    parts = [pairs([0, 1] * 5), [(noise(50 + i), i % 2) for i in range(4)], [(noise(90 + i), i % 2) for i in range(6)]]
    source = tuple(parts) if container is tuple else dict(zip(("train", "validation", "test"), parts, strict=True))
    data = load(source)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (10, 4, 6)


def test_arrays_tensors_and_images_are_the_same_pixels():
    rgb = [np.array(noise(i)) for i in range(8)]
    labels = [i % 2 for i in range(8)]
    made = [
        [(Image.fromarray(pixels), label) for pixels, label in zip(rgb, labels, strict=True)],
        list(zip(rgb, labels, strict=True)),
        [(torch.from_numpy(pixels).permute(2, 0, 1), label) for pixels, label in zip(rgb, labels, strict=True)],
        TensorDataset(torch.from_numpy(np.stack(rgb)).permute(0, 3, 1, 2), torch.tensor(labels)),
        [{"img": pixels, "label": np.int64(label)} for pixels, label in zip(rgb, labels, strict=True)],
    ]
    assert len({load(source).fingerprint for source in made}) == 1


def test_a_hugging_face_data_set_names_its_classes():
    rows = [{"image": noise(i), "id": i, "label": i % 2} for i in range(12)]
    data = load({"train": HuggingFace(rows, {"image": object(), "id": object(), "label": ClassLabel(["ant", "bee"])})})
    assert data.classes == ("ant", "bee")
    assert len(data.test) == 2


def test_a_hugging_face_data_set_of_label_lists_and_of_numbers():
    sets = [[0, 2], [], [1], [2]] * 5
    rows = [{"img": noise(i), "tags": labels} for i, labels in enumerate(sets)]
    data = load(HuggingFace(rows, {"img": object(), "tags": Sequence(ClassLabel(["cat", "dog", "owl"]))}))
    assert (data.task, data.classes) == ("multilabel", ("cat", "dog", "owl"))
    assert [1, 0, 1] in everything(data).values()
    numbers = [{"image": noise(i), "label": i / 2} for i in range(20)]
    assert load(HuggingFace(numbers, {"image": object(), "label": object()})).task == "regression"


# --- targets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "task", "names", "kind"),
    [
        ([0, 1] * 5, "classification", ("0", "1"), ClassLabels),
        (["b", "a"] * 5, "classification", ("a", "b"), ClassLabels),
        ([torch.tensor(0), torch.tensor(1)] * 5, "classification", ("0", "1"), ClassLabels),
        ([True, False] * 5, "classification", ("0", "1"), ClassLabels),
        ([0.5, 1.0] * 5, "regression", ("target",), Values),
        ([torch.tensor([0.5, 2.0])] * 10, "regression", ("target_0", "target_1"), Values),
        ([(0.5, 2.0), (1.0, 3.0)] * 5, "regression", ("target_0", "target_1"), Values),
        ([torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1])] * 5, "multilabel", ("0", "1", "2"), LabelSets),
        ([np.array([0.0, 1.0]), np.array([1.0, 0.0])] * 5, "multilabel", ("0", "1"), LabelSets),
        ([["x", "y"], ["y"], [], ["z"]] * 3, "multilabel", ("x", "y", "z"), LabelSets),
        ([[0, 2], [1], []] * 3, "multilabel", ("0", "1", "2"), LabelSets),
        ([[1, 0], [0, 1]] * 5, "multilabel", ("0", "1"), LabelSets),
    ],
)
def test_the_targets_name_the_task(targets: list[Any], task: str, names: tuple[str, ...], kind: type):
    data = load(pairs(targets))
    assert (data.task, data.classes) == (task, names)
    assert isinstance(data.train.targets, kind)
    assert any(note.startswith(f"the task is {task}, by the targets of list") for note in data.report.notes)


def test_the_task_can_be_given():
    data = load(pairs([0, 1, 2, 3] * 3), task="regression")
    assert (data.task, data.classes) == ("regression", ("target",))
    assert not any("the task is" in note for note in data.report.notes)


class Broken(list[Any]):
    def __getitem__(self, at: Any) -> Any:
        if at == 3:
            raise OSError("no such image")
        return super().__getitem__(at)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from pairs([0, 1])


WRONG = [
    ([], "list is empty"),
    ([1, 2], "the first sample of list is int: expected"),
    ([{"a": 1, "b": 2}], "the samples of list have 'a', 'b': expected an image and a label"),
    (pairs([{"boxes": []}]), "the first target of list is .*expected a class, a vector of 0 and 1, or numbers"),
    (pairs([0, "a"]), "the same kind for every sample"),
    (pairs([[0.5], ["a"]]), "cannot be read"),
    (pairs([0, -1]), "labels run from -1 to 0"),
    (pairs([torch.tensor([0.5]), torch.tensor([0.5, 1.0])]), "the same kind for every sample"),
    (pairs([0.5, float("nan")]), r"the target at position 1 is \[?nan\]?, expected finite numbers"),
    (iter(pairs([0, 1])), "list_iterator has no length or no samples by number"),
    (3, "int has no length"),
    ([("x.png", 0), ("y.png", 1)], "x.png: No such file"),
    ([(np.zeros((4, 4, 5), np.uint8), 0)], r"its shape is 4 x 4 x 5, expected height x width x 3"),
    ([(np.zeros((4, 4, 3), np.int64), 0)], "its values are int64"),
    ([(torch.randn(3, 8, 8), 0)], "give images before they are normalised"),
    (Broken(pairs([0, 1] * 4)), r"1 of 8 samples of Broken cannot be read \(sample/000003: no such image\)"),
    (Stream(), "Stream has no length or no samples by number"),
    ((pairs([0, 1]),), "a tuple of 1 data set: expected"),
    ({"test": pairs([0, 1])}, "got the splits test: expected train among them"),
    ({"train": pairs([0, 1]), "dev": []}, "got the splits train, dev"),
    ((pairs([0, 1] * 4), pairs([0, 0])), "no readable images of '1' in the test split"),
]


@pytest.mark.parametrize(("source", "told"), WRONG)
def test_what_is_no_data_set_is_said_in_one_sentence(source: Any, told: str):
    with pytest.raises(DataError, match=told) as error:
        load(source)
    assert "\n" not in str(error.value)


def test_samples_that_cannot_be_read_can_be_left_out():
    data = load(Broken(pairs([0, 1] * 8)), skip_broken=True)
    assert data.report.skipped == (("sample/000003", "no such image"),)
    assert len(data.train) + len(data.test) == 15


def test_a_limit_reads_no_more_than_it_has_to(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch):
    root = make_folder({"train/a": 12, "train/b": 6, "test/a": 6, "test/b": 6})
    parts = tuple(ImageFolder(root / split) for split in ("train", "test"))
    read: list[int] = []
    inner = ImageFolder.__getitem__
    monkeypatch.setattr(ImageFolder, "__getitem__", lambda self, i: (read.append(i), inner(self, i))[1])
    data = load(parts, limit=6)
    assert (len(data.train), len(data.test)) == (6, 6)
    assert np.bincount(data.train.labels).tolist() == [4, 2]
    assert len(read) <= 14


def test_many_images_go_to_a_cache_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import attngraft.data.python_datasets as module
    from attngraft.data.pixel_store import keep_images

    monkeypatch.setattr(module, "keep_images", lambda *a, **o: keep_images(*a, **o, memory_bytes=100))
    small, large = load(pairs([0, 1] * 4), cache_dir=tmp_path / "c"), load(pairs([0, 1] * 4))
    assert small.train.store.path is not None
    assert torch.equal(small.train.image(3), large.train.image(3)) or small.fingerprint == large.fingerprint
    load(pairs([0, 1] * 4), cache_dir=tmp_path / "c")
    assert len(list((tmp_path / "c").glob("*.pixels"))) == 1


def test_images_of_other_channels():
    data = load(
        [(np.random.default_rng(i).random((6, 12, 12)).astype(np.float32), i % 2) for i in range(8)], channels=6
    )
    assert data.train.image(0).shape == (6, 12, 12)
    grey = load([(noise(i, "L"), i % 2) for i in range(8)])
    same = load([(np.asarray(noise(i, "L")), i % 2) for i in range(8)])
    assert grey.fingerprint == same.fingerprint
    assert grey.train.image(0).shape[0] == 3


def test_images_of_the_user_are_not_changed():
    image = noise(0)
    image.getexif()[0x0112] = 6
    samples = [(image, 0), *((noise(i), i % 2) for i in range(1, 8))]
    first = load(samples)
    assert image.size == (20, 16)
    assert load(samples).fingerprint == first.fingerprint


def test_a_model_is_trained_on_a_python_data_set(tmp_path: Path):
    model = ag.create_backbone("small-cnn", num_classes=2)
    result = ag.fit(
        model,
        (pairs([0, 1] * 8), pairs([0, 1] * 3)),
        recipe="scratch",
        run_dir=tmp_path / "run",
        epochs=1,
        batch_size=8,
        image_size=16,
        device="cpu",
        precision="fp32",
    )
    assert result.run_dir.is_dir()
