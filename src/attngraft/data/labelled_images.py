"""Load all labelled images of a source as one set, for a model in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..config import DEFAULT_DEPTH, Depth, ImageSize
from ..errors import DataError
from .build_dataset import LoadOptions, Pool, check_at_least_1
from .class_names import unknown_classes
from .dataset import ImageSet
from .folders import scan_labelled
from .image_groups import column_of, groups_of
from .image_table import read_groups, read_labels
from .inference_images import decode_images, relabelled
from .pixel_store import Progress
from .read_image import extensions_of, printable
from .sources import data_root, find_source, unknown_source
from .splits import thin
from .targets import ClassLabels


def load_labelled(
    source: str | Path,
    classes: Sequence[str],
    *,
    image_size: ImageSize,
    channels: int = 3,
    depth: Depth = DEFAULT_DEPTH,
    extend: bool = False,
    partly: bool = False,
    skip_broken: bool = False,
    limit: int | None = None,
    group_by: str | None = None,
    cache_dir: Path | None = None,
    root: Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
) -> tuple[ImageSet, tuple[str, ...]]:
    """Read every labelled image of a source, whatever its split.

    Args:
        source: a folder of class folders, alone or below train, val and test folders; a CSV file with the columns
            path,label (a header is optional, paths are relative to the file), or a folder of such files and nothing
            else; or the name of a built-in data set. Classes may be missing, and one image of a class is enough.
        classes: names that are known, in the order of the labels; labels count them.
        image_size: side of the model's input in pixels; larger images are stored shrunk.
        channels, depth: see `read_image`.
        extend: append the names that are not known, sorted, instead of an error.
        partly: leave out the images of a CSV file that have no label as yet, instead of an error.
        skip_broken: leave out files that cannot be read, instead of an error.
        limit: at most this many images, with the classes in proportion and at least one of each.
        group_by: what makes images belong together, as for `load_data`.
        cache_dir: where decoded images go when they are too many for memory.
        root: where published data sets lie.
        download: fetch one that is not there.
        progress: called with (images done, images in all).

    Returns:
        The images, and the classes that their labels count.

    Raises:
        DataError: no images, one that cannot be read, or classes that are not known.
        ConfigError: image_size or limit < 1.
    """
    check_at_least_1(image_size=image_size, limit=limit)
    if isinstance(source, str) and (load := find_source(source)) is not None:
        options = LoadOptions(
            image_size=image_size,
            channels=channels,
            depth=depth,
            root=data_root() if root is None else Path(root).expanduser(),
            cache_dir=_cache(cache_dir),
            skip_broken=skip_broken,
            download=download,
            limit=limit,
            progress=progress,
        )
        pool = load(options)
        images, known = _built_in(pool, tuple(classes), limit, extend)
        return _in_groups(images, group_by or pool.group_by, ()), known
    place = Path(source).expanduser()
    if isinstance(source, str) and not place.exists():
        raise unknown_source(source)
    base, names, labels, places = _listed(place, classes, partly, channels)
    known = _known_classes(labels, classes, extend, places)
    numbers = ClassLabels.named(labels, known).labels
    kept = np.arange(len(names)) if limit is None else thin(numbers, names, limit=limit, seed=0)
    images = decode_images(
        [base / names[i] for i in kept],
        [names[i] for i in kept],
        numbers[kept],
        image_size=image_size,
        channels=channels,
        depth=depth,
        skip_broken=skip_broken,
        cache_dir=_cache(cache_dir),
        progress=progress,
    )
    return _in_groups(images, group_by, [place] if place.is_file() else _tables_in(place)), known


def labels_of(source: str | Path, classes: Sequence[str], channels: int = 3) -> dict[Path, str]:
    """The class of every labelled image file of a source, by its resolved path; no image is read.

    Args:
        source: a folder of class folders, a CSV file with path,label, or a folder of such files.
        classes: names that are known.
        channels: of the images, for which files count as images.

    Raises:
        DataError: no images, or classes that are not known.
    """
    base, names, labels, places = _listed(Path(source).expanduser(), classes, True, channels)
    strange = sorted(set(labels) - set(classes))
    if strange:
        where = places[labels.index(strange[0])]
        raise DataError(
            unknown_classes(where, strange, list(classes), "correct it, or leave the image without a label")
        )
    return {(base / name).resolve(): label for name, label in zip(names, labels, strict=True)}


def check_labels(source: str | Path) -> None:
    """Raise DataError for labels that are not there or cannot be read, before anything is known of the classes."""
    place = Path(source).expanduser()
    if not place.is_dir() or _tables_in(place):
        _listed(place, (), True, 3)


def _in_groups(images: ImageSet, rule: str | None, tables: Sequence[Path]) -> ImageSet:
    """The images with the groups of a rule, which may be a column of their tables."""
    column = column_of(rule)
    if rule is None:
        return images
    if column is None or not tables:
        return replace(images, groups=groups_of(images, rule))
    known = {path: group for table in tables for path, group in read_groups(table, column).items()}
    missing = [name for name in images.ids if not known.get(name)]
    if missing:
        raise DataError(
            f"{printable(tables[0])} has nothing in the column {column!r} for {printable(missing[0])}: every image needs a group."
        )
    return replace(images, groups=np.array([known[name] for name in images.ids], dtype=np.str_))


def _listed(
    place: Path, classes: Sequence[str], partly: bool, channels: int
) -> tuple[Path, list[str], list[str], list[str]]:
    """The folder that paths are relative to, the path of every image, its class, and what says so."""
    if place.is_file() and place.suffix.lower() != ".csv":
        raise DataError(f"{printable(place)} is a file: give a folder of class folders, or a .csv with path,label.")
    tables = [place] if place.is_file() else _tables_in(place)
    base = tables[0].parent if tables else place
    if tables:
        read = [read_labels(table, partly=partly) for table in tables]
        names, labels, places = ([item for one in read for item in one[column]] for column in range(3))
    else:
        names, labels = scan_labelled(place, classes, extensions_of(channels))
        places = [printable(place)] * len(names)
    if not names:
        what = "with a label" if tables else "in class folders"
        raise DataError(f"there are no images {what} in {printable(place)}: give a source that has some.")
    return base, names, labels, places


def _tables_in(folder: Path) -> list[Path]:
    """The CSV files of a folder that holds nothing else."""
    # office programs put a hidden file beside a table that is open
    found = [path for path in sorted(folder.iterdir()) if path.name[0] != "."] if folder.is_dir() else []
    return found if found and all(path.is_file() and path.suffix.lower() == ".csv" for path in found) else []


def _built_in(
    pool: Pool, classes: tuple[str, ...], limit: int | None, extend: bool
) -> tuple[ImageSet, tuple[str, ...]]:
    own = [pool.classes[label] for label in np.unique(pool.images.labels)]
    known = _known_classes(own, classes, extend, [pool.name] * len(own))
    images = pool.images
    if limit is not None:
        images = images.select(thin(images.labels, images.ids, limit=limit, seed=0))
    return relabelled(images, pool.classes, known), known


def _known_classes(
    found: Sequence[str], classes: Sequence[str], extend: bool, places: Sequence[str]
) -> tuple[str, ...]:
    """The classes that labels will count.

    Args:
        found: the class of every image, and in `places` what says so.

    Raises:
        DataError: some are not known and may not be added.
    """
    strange = sorted(set(found) - set(classes))
    if strange and not extend:
        advice = "give images of these, or let it learn new ones with --classes extend (extend=True)"
        where = places[list(found).index(strange[0])]
        raise DataError(unknown_classes(where, strange, list(classes), advice))
    return (*classes, *strange)


def _cache(given: Path | None) -> Path:
    return data_root() / "decoded" if given is None else Path(given).expanduser()
