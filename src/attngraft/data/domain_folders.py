"""Load a folder of domains (photos, sketches, ...) that share classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import ImageSize
from ..errors import DataError, counted, nearest
from .build_dataset import fingerprint_of
from .class_names import quoted
from .dataset import Dataset, ImageSet
from .folders import training_folders
from .inference_images import relabelled
from .read_image import printable
from .sources import load_data
from .walk_folders import subfolders


@dataclass(frozen=True)
class Domains:
    """Data sets whose labels count one list of classes.

    Attributes:
        classes: of all domains together, sorted.
        datasets: by the name of the domain, in the order asked for.
        shared: (domain/id, domain/id) of images with equal pixels in two domains; each later one with the first.
        notes: sentences, for example which classes a domain lacks.
    """

    classes: tuple[str, ...]
    datasets: dict[str, Dataset]
    shared: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def load_domains(
    folder: str | Path, *, image_size: ImageSize, names: Sequence[str] | None = None, **options: Any
) -> Domains:
    """Load every domain of a folder; labels count the classes of all of them.

    Args:
        folder: holds one folder per domain, each with class folders (with or without train, val and test folders
            above them).
        image_size: as for `load_data`.
        names: which domains, in which order; by default all, by name.
        options: the others of `load_data`.

    Returns:
        The data sets. Where a domain lacks classes of others, no image has their label, its fingerprint counts all
        classes, and a note says so. Each keeps its `Origin`, from which it is loaded with its own classes only.

    Raises:
        DataError: not a folder of domains, an unknown name, or a domain that cannot be loaded.
    """
    place = Path(folder).expanduser()
    found = {name: load_data(place / name, image_size=image_size, **options) for name in _names(place, names)}
    classes = tuple(sorted({name for dataset in found.values() for name in dataset.classes}))
    shared = _shared(found)
    missing = [
        f"{printable(name)} has no images of {quoted([c for c in classes if c not in dataset.classes])}."
        for name, dataset in found.items()
        if len(dataset.classes) < len(classes)
    ]
    repeated = [f"{counted(len(shared), 'image', 'have')} the pixels of an image of another domain."] if shared else []
    if len({dataset.depth for dataset in found.values()}) > 1:
        repeated.append(
            "black and white of images of more than 8 bits differ between domains: depth=... makes them one."
        )
    datasets = {name: _counting(dataset, classes) for name, dataset in found.items()}
    return Domains(classes, datasets, shared, (*missing, *repeated))


def _names(place: Path, wanted: Sequence[str] | None) -> list[str]:
    """The domains to load.

    Raises:
        DataError: there are none, or not the wanted ones.
    """
    layout = "expected one folder per domain, each with class folders"
    if not place.is_dir():
        found = "is a file" if place.exists() else "does not exist"
        raise DataError(f"the folder of domains {printable(place)} {found}: {layout}.")
    present = subfolders(place)
    if training_folders(place) or not present:
        what = "is one data set (it has a train folder)" if present else "has no folders in it"
        raise DataError(f"{printable(place)} {what}: {layout}.")
    flat = next((name for name in present if not subfolders(place / name)), None)
    if flat is not None and flat in (wanted or present):
        raise DataError(f"{printable(place / flat)} has no class folders: {layout}.")
    for name in wanted or ():
        if name not in present:
            raise DataError(f"{printable(place)} has no domain {name!r}: {nearest(name, present)}.".replace("?.", "?"))
    if wanted is not None and (not wanted or len(set(wanted)) < len(wanted)):
        raise DataError(f"got the domains {list(wanted)}: give at least one, and each once.")
    return list(present if wanted is None else wanted)


def _counting(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The same images with labels that count these classes."""

    def counted(images: ImageSet) -> ImageSet:
        return relabelled(images, dataset.classes, classes)

    train, test = counted(dataset.train), counted(dataset.test)
    val = None if dataset.val is None else counted(dataset.val)
    present = {"train": train, "test": test} if val is None else {"train": train, "val": val, "test": test}
    fingerprint = fingerprint_of(classes, present)
    return replace(dataset, train=train, val=val, test=test, classes=classes, fingerprint=fingerprint)


def _shared(datasets: dict[str, Dataset]) -> tuple[tuple[str, str], ...]:
    """Every image whose pixels an earlier domain has too, with the first that has them."""
    first: dict[str, tuple[str, str]] = {}
    pairs = []
    for name, dataset in datasets.items():
        for images in (dataset.train, dataset.val, dataset.test):
            for image_id, digest in zip(images.ids, images.pixel_hashes, strict=True) if images else ():
                owner, owned = first.setdefault(digest, (name, image_id))
                if owner != name:
                    pairs.append((f"{owner}/{owned}", f"{name}/{image_id}"))
    return tuple(pairs)
