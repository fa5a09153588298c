"""Images for a trained model, with labels from class folders or CSV files, or without labels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..config import DEFAULT_DEPTH, Depth, ImageSize
from ..errors import ConfigError, DataError, counted
from .build_dataset import LoadOptions, assemble
from .class_names import unknown_classes
from .dataset import ImageSet
from .folders import has_splits
from .image_groups import check_group_by, column_of, grouped
from .pixel_store import Progress, decode_files, short_side_limit
from .read_image import PIXEL_CAP, printable
from .sources import data_root, find_source, load_data, load_tables, tables_of
from .splits import evenly_spread
from .targets import ClassLabels
from .walk_folders import list_images

UNLABELLED = -1


def load_images(
    source: str | Path | Iterable[str | Path],
    classes: Sequence[str],
    *,
    image_size: ImageSize,
    channels: int = 3,
    depth: Depth = DEFAULT_DEPTH,
    split_seed: int = 0,
    skip_broken: bool = False,
    limit: int | None = None,
    group_by: str | None = None,
    cache_dir: Path | None = None,
    root: Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
) -> ImageSet:
    """Read images for a model that knows these classes.

    Args:
        source: the name of a built-in data set or a folder with train and test folders (its test images, or
            validation images where it has no others); a folder of class folders (all images; some classes may be
            missing); a CSV file with path,label (its test images, or all where it has no splits), or a folder of such
            files; image files, or a folder of them without classes (labels are then -1).
        classes: of the model, in the order of its logits.
        image_size: side of the model's input in pixels.
        channels, depth: see `read_image`.
        split_seed: for built-in data sets that are split by chance.
        skip_broken: leave out files that cannot be read, instead of an error.
        limit: at most this many images, evenly spread over the source.
        group_by: what makes images belong together, as for `load_data`.
        cache_dir: where decoded images go when they are too many for memory.
        root: where published data sets lie.
        download: fetch one that is not there.
        progress: called with (images done, images in all).

    Raises:
        DataError: no images, one that cannot be read, or classes that the model does not know.
        ConfigError: limit < 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}: expected at least 1 image.")
    if group_by is not None:
        check_group_by(group_by)
    if isinstance(source, (str, Path)) and _is_data_set(source, classes):
        dataset = load_data(
            source,
            image_size=image_size,
            channels=channels,
            depth=depth,
            split_seed=split_seed,
            skip_broken=skip_broken,
            cache_dir=cache_dir,
            root=root,
            download=download,
            progress=progress,
        )
        return _thinned(grouped(relabelled(dataset.test, dataset.classes, classes), group_by), limit)
    if isinstance(source, (str, Path)) and is_listed(Path(source).expanduser()):
        options = LoadOptions(
            image_size=image_size,
            channels=channels,
            depth=depth,
            split_seed=split_seed,
            skip_broken=skip_broken,
            cache_dir=cache_dir or data_root() / "decoded",
            root=data_root(),
            task="classification",
            group_by=group_by if column_of(group_by) else None,
            progress=progress,
        )
        listed = _of_tables(Path(source).expanduser(), classes, options)
        return _thinned(listed if column_of(group_by) else grouped(listed, group_by), limit)
    sources = _paths([source] if isinstance(source, (str, Path)) else source)
    paths = list_images(sources, channels)
    folder = sources[0] if isinstance(source, (str, Path)) and sources[0].is_dir() else None
    names = [path.relative_to(folder).as_posix() if folder else str(path) for path in paths]
    chosen = evenly_spread(len(paths), len(paths) if limit is None else limit)
    paths, names = tuple(paths[i] for i in chosen), [names[i] for i in chosen]
    labels = _labels_by_folder(names, classes, folder) if folder else _unlabelled(len(names))
    images = decode_images(
        paths,
        names,
        labels,
        image_size=image_size,
        channels=channels,
        depth=depth,
        skip_broken=skip_broken,
        cache_dir=cache_dir,
        progress=progress,
    )
    return grouped(images, group_by)


def decode_images(
    paths: Sequence[Path],
    names: Sequence[str],
    labels: np.ndarray,
    *,
    image_size: ImageSize,
    skip_broken: bool,
    cache_dir: Path | None,
    progress: Progress | None,
    channels: int = 3,
    depth: Depth = DEFAULT_DEPTH,
) -> ImageSet:
    """Image files with their ids and labels as an image set.

    Raises:
        DataError: files that cannot be read and may not be left out, or none that can.
    """
    decoded = decode_files(
        paths,
        limit=short_side_limit(image_size),
        pixel_cap=PIXEL_CAP,
        cache_dir=cache_dir or data_root() / "decoded",
        progress=progress,
        channels=channels,
        depth=depth,
    )
    if decoded.failures and (not skip_broken or not len(decoded.kept)):
        index, reason = decoded.failures[0]
        left_out = "give others" if skip_broken else "or leave them out with --skip-broken (skip_broken=True)"
        raise DataError(
            f"{len(decoded.failures)} of {counted(len(paths), 'image')} cannot be read ({printable(names[index])}: {reason}): "
            f"mend or remove them, {left_out}."
        )
    return ImageSet(
        ids=tuple(names[i] for i in decoded.kept),
        targets=ClassLabels(labels[decoded.kept]),
        pixel_hashes=decoded.hashes,
        store=decoded.store,
        rows=np.arange(len(decoded.kept)),
    )


def relabelled(images: ImageSet, own: Sequence[str], known: Sequence[str]) -> ImageSet:
    """The same images with labels that count the classes of a model.

    Raises:
        DataError: images of a class that the model does not know.
    """
    if tuple(own) == tuple(known):
        return images
    present = [own[label] for label in np.unique(images.labels) if label != UNLABELLED]
    _check_known(present, known, "the data")
    index = {name: number for number, name in enumerate(known)}
    # the last entry is for images without a label, which are -1
    lookup = np.array([*(index.get(name, UNLABELLED) for name in own), UNLABELLED], dtype=np.int64)
    return replace(images, targets=ClassLabels(lookup[images.labels]))


def _is_data_set(source: str | Path, classes: Sequence[str]) -> bool:
    """A built-in source, or a folder with splits, unless these are called like classes."""
    if find_source(source) is not None:
        return True
    folder = Path(source).expanduser()
    return folder.is_dir() and has_splits(folder, classes)


def is_listed(place: Path) -> bool:
    """Whether images are listed in CSV files: one file, or a folder with train.csv and others."""
    return place.suffix.lower() == ".csv" if place.is_file() else place.is_dir() and bool(tables_of(place))


def _of_tables(place: Path, classes: Sequence[str], options: LoadOptions) -> ImageSet:
    """The test images of CSV files that know splits, else all images.

    Raises:
        DataError: see `load_tables`, or classes that the model does not know.
    """
    pool = load_tables(tables_of(place), place, options)
    images = assemble(pool, options).test if any(pool.splits) else pool.images
    return relabelled(images, pool.classes, classes or pool.classes)


def _paths(sources: Iterable[str | Path]) -> list[Path]:
    """The files and folders as paths.

    Raises:
        DataError: none, or something else.
    """
    found = list(sources) if isinstance(sources, Iterable) else [sources]
    strange = sorted({type(source).__name__ for source in found if not isinstance(source, (str, Path))})
    if strange or not found:
        raise DataError(f"got {', '.join(strange) or 'no images'}: give image files or folders.")
    return [Path(source).expanduser() for source in found]


def _unlabelled(count: int) -> np.ndarray:
    return np.full(count, UNLABELLED, dtype=np.int64)


def _labels_by_folder(names: Sequence[str], classes: Sequence[str], folder: Path) -> np.ndarray:
    """The first folder of each path is its class; where no image lies in a folder, there are no labels."""
    tops = [name.split("/")[0] if "/" in name else None for name in names]
    if all(top is None for top in tops):
        return _unlabelled(len(names))
    loose = next((name for name, top in zip(names, tops, strict=True) if top is None), None)
    if loose is not None:
        raise DataError(
            f"{printable(folder)} has class folders and also {printable(loose)} beside them: "
            "put every image into the folder of its class, or give a folder of images alone."
        )
    _check_known([top for top in tops if top is not None], classes, printable(folder))
    return ClassLabels.named([top for top in tops if top is not None], classes).labels


def _check_known(found: Collection[str], known: Sequence[str], where: str) -> None:
    if found and not known:
        raise DataError(
            f"{where} has classes, but the model does not say what its own are called: give images without class "
            "folders, or tell the model (attngraft.surgery.note_classes_)."
        )
    strange = sorted(set(found) - set(known))
    if strange:
        raise DataError(unknown_classes(where, strange, known, "give images of these"))


def _thinned(images: ImageSet, limit: int | None) -> ImageSet:
    return images if limit is None or limit >= len(images) else images.select(evenly_spread(len(images), limit))
