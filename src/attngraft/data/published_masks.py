"""Published data sets with masks, in the file formats of torchvision: Pascal VOC and Oxford-IIIT Pet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from .build_dataset import LoadOptions, Pool
from .masks import IGNORED, MaskCoding, MaskFiles
from .read_image import printable
from .torchvision_sets import download_set

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)


@dataclass(frozen=True)
class PublishedMasks:
    """A data set with masks that torchvision knows.

    Attributes:
        description: one line.
        torchvision_name: the class in `torchvision.datasets`.
        options: of that class, but for the root, one set for each download.
        folder: where its files lie below the root.
        url: an address that must answer before a download is tried.
        scan: folder -> the images and masks, by their names.
        coding: of the masks' values.
    """

    description: str
    torchvision_name: str
    options: dict[str, str]
    folder: str
    url: str
    scan: Callable[[Path], Pool]
    coding: MaskCoding


def find_published(name: str, published: PublishedMasks, options: LoadOptions) -> tuple[Pool, Path]:
    """The images and masks of a published set, by their names, and the folder they are in.

    Raises:
        DataError: it is not there and may not or cannot be downloaded.
    """
    folder = options.root / published.folder
    if not folder.is_dir():
        if not options.download:
            raise DataError(
                f"{name} is missing in {folder}: put its files there, give another place with --root (root=...), or fetch it "
                "with --download (download=True)."
            )
        download_set(name, published.torchvision_name, published.url, published.folder, options.root, published.options)
    return published.scan(folder), folder


def _scan_voc(folder: Path) -> Pool:
    """The lists of the segmentation task; its validation images are those that papers report on."""
    rows = [
        (split, f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png")
        for split, file in (("train", "train.txt"), ("test", "val.txt"))
        for name in _lines(folder / "ImageSets" / "Segmentation" / file)
    ]
    return _pool("voc-segmentation", VOC_CLASSES, rows)


def _scan_pets(folder: Path) -> Pool:
    """The lists of its authors; masks are trimaps: pet, background, and a border that does not count."""
    rows = [
        (split, f"images/{line.split()[0]}.jpg", f"annotations/trimaps/{line.split()[0]}.png")
        for split, file in (("train", "trainval.txt"), ("test", "test.txt"))
        for line in _lines(folder / "annotations" / file)
    ]
    return _pool("oxford-pets", ("background", "pet"), rows)


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{printable(file)} cannot be read ({error}): get the data set again.") from None
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _pool(name: str, classes: tuple[str, ...], rows: list[tuple[str, str, str]]) -> Pool:
    return Pool(
        name=name,
        classes=classes,
        ids=tuple(image for _, image, _ in rows),
        targets=MaskFiles(tuple(mask for _, _, mask in rows)),
        splits=np.array([split for split, _, _ in rows]),
    )


PUBLISHED_MASKS = {
    "voc-segmentation": PublishedMasks(
        "photographs with 20 kinds of objects and masks (Pascal VOC 2012)",
        "VOCSegmentation",
        {"year": "2012", "image_set": "trainval"},
        "VOCdevkit/VOC2012",
        "http://host.robots.ox.ac.uk/pascal/VOC/",
        _scan_voc,
        MaskCoding(VOC_CLASSES),
    ),
    "oxford-pets": PublishedMasks(
        "photographs of cats and dogs with masks of the animal (Oxford-IIIT Pet)",
        "OxfordIIITPet",
        {"target_types": "segmentation"},
        "oxford-iiit-pet",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        _scan_pets,
        MaskCoding(("background", "pet"), values=((2, 0), (1, 1), (3, IGNORED))),
    ),
}
