"""Registry of data sources, and `load_data`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..config import ImageSize, Resize, parse_named
from ..errors import ConfigError, DataError, counted, nearest
from ..option_names import nearest_option
from ..registry import Registry
from .box_folders import has_boxes, load_boxes
from .box_formats import LAYOUT
from .build_dataset import (
    LoadOptions,
    Pool,
    assemble,
    check_classes,
    thin_splits,
)
from .dataset import Dataset, Origin
from .depth import DepthOption, parse_depth
from .digits import CANVAS, MOST_IMAGES, SAME_DIGIT, TEST_COUNT, TRAIN_COUNT, render_splits
from .folder_checks import ARCHIVES
from .folders import scan_folder, training_folders
from .image_groups import column_of
from .image_table import ImageTable, is_image_table, read_image_table
from .leaks import SPLITS
from .mask_folders import has_masks, scan_masks, with_masks
from .masks import Masks, read_coding, resized_mask
from .object_boxes import Boxes, Objects
from .pixel_store import (
    Progress,
    decode_array,
    decode_files,
    decode_to_scale,
    short_side_limit,
)
from .published_masks import PUBLISHED_MASKS, PublishedMasks, find_published
from .python_datasets import is_python_dataset, load_samples
from .read_image import PIXEL_CAP, extensions_of, printable
from .split_names import split_of
from .targets import ClassLabels, Targets
from .torchvision_sets import (
    PUBLISHED,
    PublishedSet,
    find_imagenet,
    read_arrays,
)
from .walk_folders import subfolders


@dataclass(frozen=True)
class Source:
    """A built-in source.

    Attributes:
        description: one line on what it is.
        load: called with the options of `load_data` and those of the source, by name.
        options: names of those that it takes, which are numbers of images.
        switches: names of those that are on where they are named, as in "cluttered-digits:masks".
    """

    description: str
    load: Callable[..., Pool]
    options: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()


SOURCES: Registry[Source] = Registry("data source")


def load_data(
    source: str | Path | Any,
    *,
    image_size: ImageSize,
    split_seed: int = 0,
    val_fraction: float = 0.0,
    test_fraction: float = 0.2,
    skip_broken: bool = False,
    pixel_cap: int = PIXEL_CAP,
    cache_dir: str | Path | None = None,
    root: str | Path | None = None,
    download: bool = False,
    limit: int | None = None,
    fix_leaks: bool = False,
    task: str | None = None,
    group_by: str | None = None,
    splits: str | None = None,
    channels: int = 3,
    resize: Resize = "crop",
    depth: DepthOption = "auto",
    sampled_first: bool = True,
    ignore_index: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load and decode a data set.

    Args:
        source: a folder of class folders (with or without train, val and test folders above them), or of images/ and
            masks/ for segmentation, or with annotated boxes in the format of COCO, YOLO or Pascal VOC, or their JSON or
            YAML file; a CSV file with the columns path,label or path,labels or path and numeric targets, or a folder
            with train.csv and others; or the name of a built-in source ("./name" is always a path), with options where it has some, as in
            "cluttered-digits:test=2000". Or a map-style data set of (image, target), as of
            torch or Hugging Face; a tuple (train, test) or (train, val, test) of them, or a mapping by split.
        image_size: S in pixels that training and evaluation will use at most; larger images are stored shrunk.
        split_seed: decides the splits that the data does not bring along, and what `cluttered-digits` looks like.
        val_fraction: part of the training images of each class to set aside for validation, 0 for none.
        test_fraction: part of each class to test on where the data has no test or validation images.
        skip_broken: leave out files that cannot be read, and report them, instead of an error.
        pixel_cap: largest width x height of a file that is decoded.
        cache_dir: where decoded images go when they are too many for memory.
        root: where published data sets lie; by default $ATTNGRAFT_DATA or ~/.cache/attngraft.
        download: fetch a published data set that is not there.
        limit: at most this many images in each split, one per class at least.
        fix_leaks: keep images that are equal, or saved again, on one side: together where a split is made by chance,
            moved to the first of train, val and test elsewhere.
        task: "classification", "multilabel" or "regression" for a CSV file or a data set in Python, "segmentation" for
            images and masks, "detection" for boxes; by columns, targets or folders where not given.
        group_by: what makes images belong together, so that statistics count groups and splits keep them on one side:
            "folder", "copies" (nearly equal images), "column:NAME" of a CSV file, or a regular expression on the paths,
            whose first group or whole match is the name.
        splits: which folders of a folder are its splits, as "train=FOLDER,test=FOLDER" (also val, and several of one
            split), where their names do not say; or "none" where all folders are classes.
        channels: 3 for 8-bit RGB; others, see `read_image`.
        resize: how images will be brought to the input; "crop" notes how much is cut off where that is much.
        depth: black and white of images of more than 8 bits: "auto" for what the values of the training images ask for
            (of all images, where they are split by chance), a number of bits, (low, high) or "low:high", or a `Depth`.
        ignore_index: the value in masks of pixels that neither train nor count, 255 where not given.
        sampled_first: where the splits are made by chance and there is a limit, draw as many images as they need before
            any is read. False reads all of them first, as earlier versions did.
        progress: called with (images done, images in all).

    Raises:
        DataError: the data cannot be found, read or split; one sentence that says what to do.
        ConfigError: an option out of range.
    """
    home = Path(root).expanduser() if root else data_root()
    options = LoadOptions(
        image_size=image_size,
        root=home,
        cache_dir=Path(cache_dir).expanduser() if cache_dir else data_root() / "decoded",
        split_seed=split_seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        skip_broken=skip_broken,
        pixel_cap=pixel_cap,
        download=download,
        limit=limit,
        fix_leaks=fix_leaks,
        task=task,
        group_by=group_by,
        splits=splits,
        channels=channels,
        resize=resize,
        depth=parse_depth(depth),
        sampled_first=sampled_first,
        ignore_index=ignore_index,
        progress=progress,
    )
    if is_python_dataset(source):
        _check_is_folder(splits, "data of Python")
        return assemble(load_samples(source, options), options)
    if not str(source):
        raise DataError("the data source is empty: give a folder, a CSV file or the name of a built-in data set.")
    builtin = find_source(source)
    path = Path(source).expanduser()
    place = str(path.absolute()) if builtin is None else str(source)
    origin = Origin(
        *(place, split_seed, val_fraction, test_fraction, limit, skip_broken, fix_leaks, task, group_by, splits),
        sampled_first=sampled_first and limit is not None,
        ignore_index=ignore_index,
    )
    if builtin is not None:
        _check_is_folder(splits, str(source))
        pool = builtin(options)
    elif isinstance(source, str) and not path.exists():
        raise unknown_source(source)
    elif task in (None, Boxes.task) and has_boxes(path, has_masks=task is None and path.is_dir() and has_masks(path)):
        _check_is_folder(splits, "images with boxes, whose folders or files say it")
        pool = load_boxes(path, options, lambda named, folder: _decoded(named, folder, options))
    elif task in (None, Masks.task) and path.is_dir() and has_masks(path):
        _check_is_folder(splits, "images and masks, whose folders say it")
        coding = read_coding(path, ignore_index)
        pool = with_masks(_decoded(scan_masks(path, extensions_of(channels)), path, options), path, coding)
    else:
        tables = tables_of(path)
        if tables:
            _check_is_folder(splits, "a CSV file, whose column split says it")
        pool = load_tables(tables, path, options) if tables else load_folder(path, options)
    if task not in (None, pool.targets.task):
        expected = {Masks.task: "images/ and masks/", Boxes.task: LAYOUT.removeprefix("expected ")}.get(
            task or "", "a CSV file"
        )
        raise DataError(
            f"{printable(source)} is labelled for {pool.targets.task}: expected {expected} for the task '{task}'."
        )
    return replace(assemble(pool, options), origin=origin)


def _check_is_folder(splits: str | None, source: str) -> None:
    if splits is not None:
        raise ConfigError(
            f"splits is {splits!r}, which says what the folders of a folder are, and the data is {source}."
        )


def tables_of(path: Path) -> dict[str, Path]:
    """The CSV files of a source by split, "" for one file; none where it is a folder of class folders.

    Raises:
        DataError: a file that is no CSV, or two files for one split.
    """
    if path.is_file():
        if path.suffix.lower() != ".csv":
            is_archive = path.name.lower().endswith(ARCHIVES)
            advice = "unpack it, and give the folder" if is_archive else "expected a CSV file or a folder of images"
            raise DataError(f"{printable(path)} is {'an archive' if is_archive else 'a file'}: {advice}.")
        return {"": path}
    found: dict[str, Path] = {}
    for file in sorted(path.glob("*.[cC][sS][vV]")) if path.is_dir() else ():
        split = split_of(file.stem)
        if split in found:
            raise DataError(f"{printable(path)} has both {found[split].name} and {file.name}: keep one.")
        if split is not None:
            found[split] = file
    has_classes = any(subfolders(path / name) for name in training_folders(path)) if found else False
    if "train" not in found or has_classes or not is_image_table(found["train"]):
        return {}
    return {split: found[split] for split in SPLITS if split in found}


def find_source(source: object) -> Callable[[LoadOptions], Pool] | None:
    """What loads a built-in source, NAME[:option=value,...]; None for anything else.

    Raises:
        ConfigError: an option that the source lacks, or that is no number of images.
    """
    if not isinstance(source, str) or source.partition(":")[0] not in SOURCES:
        return None
    found = SOURCES[source.partition(":")[0]]
    name, switched, given = _switches(source, found)
    for option, value in given.items():
        if option not in found.options:
            hint = nearest_option(option, found.options) if found.options else f"{name} takes none."
            raise ConfigError(f"unknown option '{option}' in {printable(source)}: {hint}")
        if type(value) is not int or not 1 <= value <= MOST_IMAGES:
            raise ConfigError(f"{option} is {value!r} in {printable(source)}: expected 1 to {MOST_IMAGES:,} images.")
    return partial(found.load, **given, **dict.fromkeys(switched, True))


def _switches(source: str, found: Source) -> tuple[str, list[str], dict[str, Any]]:
    """NAME[:switch,option=value,...] as name, switches and options."""
    name, _, tail = source.partition(":")
    parts = [part.strip() for part in tail.split(",")] if tail else []
    known = found.switches
    switched = [part for part in parts if part in known]
    for part in parts:
        if known and "=" not in part and part not in (*known, *found.options):
            raise ConfigError(f"unknown option '{part}' in {printable(source)}: {nearest_option(part, known)}")
    rest = ",".join(part for part in parts if part not in known)
    return name, switched, parse_named(f"{name}:{rest}" if rest else name)[1]


def unknown_source(source: str) -> DataError:
    """The error for a text that is neither a path nor a name."""
    hint = nearest(source, SOURCES)
    return DataError(
        f"{printable(source)} is neither a folder, a CSV file nor a built-in data source: {hint}.".replace("?.", "?")
    )


def describe_sources() -> tuple[str, ...]:
    """Names of the built-in sources, sorted."""
    return tuple(sorted(SOURCES))


def data_root() -> Path:
    """The folder for published data sets and caches: $ATTNGRAFT_DATA or ~/.cache/attngraft."""
    given = os.environ.get("ATTNGRAFT_DATA")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "attngraft"


def load_folder(folder: Path, options: LoadOptions) -> Pool:
    """Find and decode the images of a folder.

    Raises:
        DataError: see `scan_folder`; or files cannot be read and `skip_broken` is off.
    """
    return _decoded(scan_folder(folder, extensions_of(options.channels), options.splits), folder, options)


def load_tables(files: Mapping[str, Path], source: Path, options: LoadOptions) -> Pool:
    """Read CSV files and decode the images that they list.

    Raises:
        DataError: see `read_image_table`; images that are not there, or cannot be read and `skip_broken` is off.
    """
    table = read_image_table(files, options.task, column_of(options.group_by))
    folder = next(iter(files.values())).parent
    if not options.skip_broken:
        _check_files(table, folder)
    name = source.stem if source.is_file() else source.resolve().name
    groups = None if table.groups is None else np.array(table.groups)
    named = Pool(
        name, table.names, table.paths, table.targets, np.asarray(table.splits), groups=groups, notes=table.notes
    )
    if "" not in table.splits:
        check_classes(named, named.splits)  # before hours of decoding
    return _decoded(named, folder, options)


def _check_files(table: ImageTable, folder: Path) -> None:
    missing = [i for i, path in enumerate(table.paths) if not (folder / path).exists()]
    if missing:
        first = missing[0]
        more = f" (and {len(missing) - 1} more of {len(table.paths)})" if len(missing) > 1 else ""
        raise DataError(
            f"{table.places[first]}: there is no file {printable(table.paths[first])}{more} in {printable(folder)}: give paths "
            "that are relative to the CSV file, or leave these images out with --skip-broken (skip_broken=True)."
        )


def _decoded(named: Pool, folder: Path, options: LoadOptions) -> Pool:
    """The images of a pool that is not decoded yet; those that `limit` leaves out are not read.

    Raises:
        DataError: files cannot be read and `skip_broken` is off.
    """
    wanted = thin_splits(named.targets, named.splits, named.ids, options)
    ids = [named.ids[i] for i in wanted]
    read = partial(
        decode_files,
        [folder / image_id for image_id in ids],
        limit=short_side_limit(options.image_size),
        pixel_cap=options.pixel_cap,
        cache_dir=options.cache_dir,
        progress=options.progress,
        channels=options.channels,
    )
    decoded, depth, said = decode_to_scale(lambda depth: read(depth=depth), options.depth, named.splits[wanted])
    skipped = tuple((ids[i], reason) for i, reason in decoded.failures)
    if skipped and not options.skip_broken:
        raise _broken_files(folder, skipped, len(ids))
    kept, notes = wanted[decoded.kept], (*named.notes, *said)
    if options.val_fraction and {"val", "test"} <= set(named.splits.tolist()):
        notes = (*notes, "the data has a validation split of its own, so val_fraction was not used.")
    return replace(
        named,
        ids=tuple(named.ids[i] for i in kept),
        targets=named.targets.select(kept),
        splits=named.splits[kept],
        groups=None if named.groups is None else named.groups[kept],
        pixel_hashes=decoded.hashes,
        store=decoded.store,
        skipped=skipped,
        notes=notes,
        depth=depth,
    )


def _broken_files(folder: Path, skipped: tuple[tuple[str, str], ...], count: int) -> DataError:
    shown = "; ".join(f"{printable(image_id)}: {reason}" for image_id, reason in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return DataError(
        f"{len(skipped)} of {counted(count, 'image')} in {printable(folder)} cannot be read ({shown}{more}): "
        "mend or remove them, or leave them out with --skip-broken (skip_broken=True)."
    )


def mirrorable(source: str) -> bool:
    """Whether a mirror image means the same in the data of a source, as far as that is known: not for digits."""
    name = source.partition(":")[0]
    return name != "cluttered-digits" and (name not in PUBLISHED or PUBLISHED[name].mirrorable)


def _load_digits(
    options: LoadOptions, train: int = TRAIN_COUNT, test: int = TEST_COUNT, masks: bool = False, boxes: bool = False
) -> Pool:
    if masks and boxes:
        raise ConfigError("cluttered-digits has masks or boxes: name one of them.")
    val_count = max(10, round(options.val_fraction * train)) if options.val_fraction else 0
    digits = render_splits(
        seed=options.split_seed,
        val_count=val_count,
        train_count=train,
        test_count=test,
        choose=lambda labels, splits, ids: thin_splits(ClassLabels(labels), splits, ids, options),
        with_masks=masks,
    )
    pixels = with_channels(digits.images, options.channels, "cluttered-digits")
    decoded = decode_array(pixels, limit=short_side_limit(options.image_size))
    scale = decoded.store.shapes[0, 0] / CANVAS
    classes = tuple("0123456789")
    targets: Targets = ClassLabels(digits.labels)
    if digits.masks is not None:
        classes = ("background", *classes)
        sized = [resized_mask(mask, *shape) for mask, shape in zip(digits.masks, decoded.store.shapes, strict=True)]
        targets = Masks.pack(sized, len(classes))
    elif boxes:
        shown = [Objects.of(box, label) for box, label in zip(digits.boxes, digits.labels, strict=True)]
        targets = Boxes.pack([objects.shrunk(scale, scale) for objects in shown], len(classes))
    return Pool(
        name="cluttered-digits",
        classes=classes,
        ids=digits.ids,
        targets=targets,
        splits=np.asarray(digits.splits),
        pixel_hashes=decoded.hashes,
        store=decoded.store,
        boxes=(digits.boxes * scale).astype(np.float32),
        group_by=SAME_DIGIT if digits.repeats else None,
        notes=digits.repeats,
        mirrorable=False,
    )


def _load_published(name: str, published: PublishedSet, options: LoadOptions) -> Pool:
    images, labels, splits, classes = read_arrays(name, published, options.root, download=options.download)
    counts = {split: iter(range(len(images))) for split in ("train", "test")}
    ids = [f"{name}/{split}/{next(counts[split]):05d}" for split in splits]
    wanted = thin_splits(ClassLabels(labels), splits, ids, options)
    pixels = np.stack([images[i] for i in wanted]) if len(wanted) < len(images) else images
    pixels = with_channels(pixels if pixels.ndim == 4 else pixels[..., None], options.channels, name)
    decoded = decode_array(pixels, limit=short_side_limit(options.image_size))
    return Pool(
        name=name,
        classes=classes,
        ids=tuple(ids[i] for i in wanted),
        targets=ClassLabels(labels[wanted]),
        splits=splits[wanted],
        pixel_hashes=decoded.hashes,
        store=decoded.store,
        mirrorable=published.mirrorable,
    )


def _load_published_masks(name: str, published: PublishedMasks, options: LoadOptions) -> Pool:
    pool, folder = find_published(name, published, options)
    return with_masks(_decoded(pool, folder, options), folder, published.coding)


def with_channels(pixels: np.ndarray, channels: int, name: str) -> np.ndarray:
    """Grey or RGB images (N, H, W, 1 or 3) as grey or RGB.

    Raises:
        DataError: another number of channels.
    """
    if channels not in (1, 3):
        raise DataError(f"the images of {name} are RGB or grey: expected 3 or 1 channels instead of {channels}.")
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])[..., None]


def _load_imagenet(options: LoadOptions) -> Pool:
    return load_folder(find_imagenet(options.root, download=options.download), options)


def _register_sources() -> None:
    SOURCES.register(
        "cluttered-digits",
        Source(
            "handwritten digits among fragments of others, built in",
            _load_digits,
            ("train", "test"),
            ("masks", "boxes"),
        ),
    )
    for name, published in PUBLISHED.items():
        SOURCES.register(name, Source(published.description, partial(_load_published, name, published)))
    for name, masks in PUBLISHED_MASKS.items():
        SOURCES.register(name, Source(masks.description, partial(_load_published_masks, name, masks)))
    SOURCES.register("imagenet", Source("ImageNet-1k, from folders train and val that you provide", _load_imagenet))


_register_sources()
