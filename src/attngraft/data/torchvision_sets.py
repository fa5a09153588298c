"""Published data sets in the file formats of torchvision."""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..connectivity import is_reachable
from ..errors import DataError

_READ_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class PublishedSet:
    """A data set that torchvision knows.

    Attributes:
        description: one line.
        torchvision_name: the class in `torchvision.datasets`.
        folder: where its files lie below the root.
        url: an address that must answer before a download is tried.
        mirrorable: see `Dataset`.
    """

    description: str
    torchvision_name: str
    folder: str
    url: str
    mirrorable: bool = True


PUBLISHED: Mapping[str, PublishedSet] = MappingProxyType(
    {
        "cifar10": PublishedSet(
            "60,000 colour images of 32 x 32 pixels in 10 classes",
            "CIFAR10",
            "cifar-10-batches-py",
            "https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        "cifar100": PublishedSet(
            "60,000 colour images of 32 x 32 pixels in 100 classes",
            "CIFAR100",
            "cifar-100-python",
            "https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        "mnist": PublishedSet(
            "70,000 handwritten digits of 28 x 28 pixels",
            "MNIST",
            "MNIST/raw",
            "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
            mirrorable=False,
        ),
        "fashion-mnist": PublishedSet(
            "70,000 grey images of clothes of 28 x 28 pixels in 10 classes",
            "FashionMNIST",
            "FashionMNIST/raw",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
        ),
    }
)


def read_arrays(
    name: str, published: PublishedSet, root: Path, *, download: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read a published set of small images.

    Returns:
        images (N, H, W, 3) or (N, H, W) uint8, labels (N,) int64, splits (N,) "train" or "test", class names.

    Raises:
        DataError: it is not there and may not or cannot be downloaded.
    """
    parts = [_open(name, published, root, train=train, download=download) for train in (True, False)]
    images = np.concatenate([np.asarray(part.data, dtype=np.uint8) for part in parts])
    labels = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in parts])
    splits = np.repeat(np.array(["train", "test"]), [len(part.data) for part in parts])
    return images, labels, splits, tuple(parts[0].classes)


def find_imagenet(root: Path, *, download: bool) -> Path:
    """The folder with ImageNet's train and val folders.

    Raises:
        DataError: it is not there; its licence does not allow a download from here.
    """
    for folder in (root / "imagenet", root):
        if (folder / "train").is_dir() and (folder / "val").is_dir():
            return folder
    refusal = "its licence does not allow downloading it for you: " if download else ""
    raise DataError(
        f"imagenet is not in {root / 'imagenet'}: {refusal}get it from https://image-net.org and put one folder per "
        "class into the folders train and val there, or give another place with --root (root=...)."
    )


def download_set(
    name: str, torchvision_name: str, url: str, folder: str, root: Path, options: Mapping[str, str]
) -> None:
    """Download a data set that torchvision knows.

    Raises:
        DataError: it cannot be downloaded.
    """
    import torchvision.datasets

    kind = getattr(torchvision.datasets, torchvision_name)
    _download(name, url, folder, lambda: kind(root, download=True, **options))


def _open(name: str, published: PublishedSet, root: Path, *, train: bool, download: bool) -> Any:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, published.torchvision_name)
    try:
        with _quietly():
            return kind(root, train=train, download=False)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        if not download:
            raise DataError(
                f"{name} is missing or damaged in {root / published.folder}: put its files there, give another place "
                "with --root (root=...), or fetch it with --download (download=True)."
            ) from error
    return _download(name, published.url, published.folder, lambda: kind(root, train=train, download=True))


def _download(name: str, url: str, folder: str, fetch: Callable[[], Any]) -> Any:
    advice = f"get {name} on a machine with internet access and put its files into the folder {folder}"
    if not is_reachable(url):
        raise DataError(f"{name} cannot be downloaded, {url} does not answer: {advice} below the data root.")
    try:
        with _quietly(), _read_timeout():
            return fetch()
    except Exception as error:  # the network, the disk or a changed file: torchvision raises many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"the download of {name} failed ({reason}): {advice} below the data root.") from error


@contextlib.contextmanager
def _read_timeout() -> Iterator[None]:
    """torchvision downloads without a timeout; a connection that dies would block for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_READ_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without torchvision's remarks on standard output, which may be a program's JSON."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
