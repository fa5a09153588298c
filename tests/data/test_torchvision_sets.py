"""Published data sets, from tiny copies in their own file formats."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from image_folders import MakeFolder

from attngraft.data import describe_sources, load_data
from attngraft.errors import DataError

RNG = np.random.default_rng(0)


def write_idx(path: Path, array: np.ndarray) -> None:
    """The MNIST format: two zero bytes, 8 for uint8, the number of axes, their lengths big-endian, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(raw: Path) -> np.ndarray:
    images = RNG.integers(0, 256, size=(30, 28, 28), dtype=np.uint8)
    labels = np.arange(30) % 10
    for prefix, part in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels[part])
    return images


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")])
def test_mnist(tmp_path: Path, name: str, folder: str) -> None:
    images = write_mnist(tmp_path / folder)
    data = load_data(name, image_size=28, root=tmp_path)
    assert [len(data.train), len(data.test), data.val] == [20, 10, None]
    assert len(data.classes) == 10
    assert data.train.labels.tolist() == [i % 10 for i in range(20)]
    assert data.train.ids[3] == f"{name}/train/00003"
    np.testing.assert_array_equal(data.test.image(0).numpy(), np.repeat(images[20][None], 3, axis=0))
    assert data.mirrorable == (name == "fashion-mnist")


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = RNG.integers(0, 256, size=(30, 3, 32, 32), dtype=np.uint8)
    batch = {"data": pixels.reshape(30, -1), "labels": [i % 10 for i in range(30)]}
    contents = {
        "data_batch_1": {key: value[:20] for key, value in batch.items()},
        "test_batch": {key: value[20:] for key, value in batch.items()},
        "batches.meta": {"label_names": list("abcdefghij")},
    }
    digests = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        digests[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", digests["data_batch_1"]]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", digests["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": digests["batches.meta"]}
    monkeypatch.setattr(kind, "meta", meta)
    return pixels


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = write_cifar10(tmp_path, monkeypatch)
    data = load_data("cifar10", image_size=32, root=tmp_path, val_fraction=0.5)
    assert data.val is not None
    assert [len(data.train), len(data.val), len(data.test)] == [10, 10, 10]
    assert data.classes == tuple("abcdefghij")
    np.testing.assert_array_equal(data.test.image(4).numpy(), pixels[24])
    assert len(load_data("cifar10", image_size=32, root=tmp_path, limit=10).train) == 10


def test_the_environment_names_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    monkeypatch.setenv("ATTNGRAFT_DATA", str(tmp_path))
    assert len(load_data("mnist", image_size=28).train) == 20


def test_damaged_files_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(b"cut off")
    with pytest.raises(DataError, match="missing or damaged"):
        load_data("cifar10", image_size=32, root=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist", "imagenet"])
def test_a_missing_set_says_where_it_is_expected(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        load_data(name, image_size=32, root=tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "--root" in message
    assert "\n" not in message
    assert ("--download" in message) == (name != "imagenet")


def test_a_download_without_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attngraft.data.torchvision_sets.is_reachable", lambda url: False)
    with pytest.raises(DataError, match="does not answer"):
        load_data("mnist", image_size=28, root=tmp_path, download=True)


def test_a_download_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Error\ndownloading")

    monkeypatch.setattr("attngraft.data.torchvision_sets.is_reachable", lambda url: True)
    monkeypatch.setattr("torchvision.datasets.MNIST.download", fail)
    with pytest.raises(DataError, match=r"the download of mnist failed \(Error downloading\)"):
        load_data("mnist", image_size=28, root=tmp_path, download=True)


def test_imagenet_is_a_pair_of_folders(make_folder: MakeFolder, tmp_path: Path) -> None:
    make_folder({f"{split}/{wnid}": 2 for split in ("train", "val") for wnid in ("n01", "n02")}, name="imagenet")
    data = load_data("imagenet", image_size=32, root=tmp_path)
    assert data.classes == ("n01", "n02")
    assert [len(data.train), len(data.test)] == [4, 4]
    with pytest.raises(DataError, match="licence"):
        load_data("imagenet", image_size=32, root=tmp_path / "elsewhere", download=True)


def test_built_in_sources() -> None:
    arrays = ("cifar10", "cifar100", "fashion-mnist", "mnist")
    assert describe_sources() == tuple(
        sorted((*arrays, "cluttered-digits", "imagenet", "oxford-pets", "voc-segmentation"))
    )
