"""Read map-style data sets of (image, target): those of torch and torchvision, lists, and those of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..config import Depth
from ..errors import DataError, counted, one_line
from .any_image import decode_any
from .build_dataset import LoadOptions, Pool, strata_of
from .class_names import quoted
from .depth import DeepValues, Levels
from .pixel_store import decode_to_scale, keep_images, short_side_limit
from .read_image import UnreadableImageError, printable
from .split_names import split_of
from .splits import thin
from .targets import ClassLabels, LabelSets, Targets, Values

_IMAGE_KEYS = ("image", "img", "pixel_values", "picture", "photo")
_TARGET_KEYS = ("label", "labels", "target", "targets", "fine_label", "class")
_REPORTED = 128  # images between two reports of progress


def is_python_dataset(source: Any) -> bool:
    """Whether a data source is an object that should have samples, or some of them by split, and no place or name."""
    return not isinstance(source, (str, PathLike))


def load_samples(source: Any, options: LoadOptions) -> Pool:
    """Read every sample once.

    Args:
        source: a map-style data set; a tuple (train, test) or (train, val, test) of them; or a mapping by split.
        options: as for other sources.

    Raises:
        DataError: no such object, samples that are no (image, target), or targets that no task has.
    """
    parts = {split: _Samples(dataset) for split, dataset in _by_split(source).items()}
    chosen = {split: part.positions(options, is_split=len(parts) > 1) for split, part in parts.items()}
    total, targets = sum(map(len, chosen.values())), [None] * sum(map(len, chosen.values()))

    def images(depth: Depth) -> Iterator[tuple[np.ndarray | str, Levels | None]]:
        done = 0
        for split, part in parts.items():
            for position in chosen[split]:
                image, targets[done], problem = part.sample(position)
                yield _decoded(image, options, depth) if problem is None else (problem, None)
                done += 1
                if options.progress is not None and (done % _REPORTED == 0 or done == total):
                    options.progress(done, total)

    limit = short_side_limit(options.image_size)
    keep = partial(keep_images, limit=limit, cache_dir=options.cache_dir, channels=options.channels)
    splits = np.array([split for split in parts for _ in chosen[split]])
    decoded, depth, said = decode_to_scale(lambda depth: keep(images(depth), depth=depth), options.depth, splits)
    ids = [f"{split or 'sample'}/{position:06d}" for split in parts for position in chosen[split]]
    first = next(iter(parts.values()))
    if decoded.failures and not (options.skip_broken and len(decoded.kept)):
        at, reason = decoded.failures[0]
        raise DataError(
            f"{len(decoded.failures)} of {total} samples of {first.name} cannot be read ({ids[at]}: {reason}): mend the "
            "data set, or leave them out with skip_broken=True."
        )
    kept = decoded.kept.tolist()
    names, found, notes = read_targets([targets[i] for i in kept], first.names, options.task, first.name)
    return Pool(
        name=first.name,
        classes=names,
        ids=tuple(ids[i] for i in kept),
        targets=found,
        splits=splits[kept],
        pixel_hashes=decoded.hashes,
        store=decoded.store,
        skipped=tuple((ids[at], reason) for at, reason in decoded.failures),
        notes=(*notes, *said),
        depth=depth,
    )


def _decoded(image: Any, options: LoadOptions, depth: Depth) -> tuple[np.ndarray | str, Levels | None]:
    """The pixels of an image, or the reason why there are none, and its levels."""
    deep = DeepValues(depth)
    try:
        pixels = decode_any(image, channels=options.channels, pixel_cap=options.pixel_cap, deep=deep)
    except UnreadableImageError as error:
        is_file = isinstance(image, (str, PathLike))
        return f"{printable(str(image))}: {error.reason}" if is_file else error.reason, deep.levels
    return pixels, deep.levels


def _by_split(source: Any) -> dict[str, Any]:
    """The data sets by the name of their split, "" for a single one.

    Raises:
        DataError: other numbers or names of splits.
    """
    if isinstance(source, tuple):
        if len(source) not in (2, 3):
            raise DataError(
                f"got a tuple of {counted(len(source), 'data set')}: expected (train, test) or (train, val, test)."
            )
        return dict(zip(("train", "test") if len(source) == 2 else ("train", "val", "test"), source, strict=True))
    if not isinstance(source, Mapping):
        return {"": source}
    found: dict[str, Any] = {}
    for key, dataset in source.items():
        split = split_of(str(key))
        if split is None or split in found:
            raise DataError(f"got the splits {', '.join(map(str, source))}: expected train, val and test, each once.")
        found[split] = dataset
    if "train" not in found:
        raise DataError(f"got the splits {', '.join(map(str, source)) or 'none'}: expected train among them.")
    return {split: found[split] for split in ("train", "val", "test") if split in found}


class _Samples:
    """A data set of somebody else: what it is called, its samples, and the names of its outputs.

    Raises:
        DataError: it has no length, no samples, or samples without an image and a target.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.name = type(_inner(dataset)).__name__
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(f"{self.name} has no length or no samples by number: expected a map-style data set.")
        if not len(dataset):
            raise DataError(f"{self.name} is empty: expected (image, target) samples.")
        self.features: Any = getattr(dataset, "features", None)
        self.keys = _keys(dataset[0], self.features if isinstance(self.features, Mapping) else {}, self.name)

    def sample(self, position: int) -> tuple[Any, Any, str | None]:
        """Image, target, and why there are none."""
        try:
            item = self.dataset[position]
            return item[self.keys[0]], item[self.keys[1]], None
        except DataError:
            raise
        except Exception as error:  # whatever the data set of somebody else raises
            return None, None, one_line(" ".join(str(error).split())) or type(error).__name__

    def positions(self, options: LoadOptions, *, is_split: bool) -> Sequence[int]:
        """Which samples to read: with a limit not all, where the targets are known beforehand and the splits, too."""
        count = len(self.dataset)
        if options.limit is None or not is_split or options.limit >= count:
            return range(count)
        known: Any = getattr(self.dataset, "targets", None)
        if isinstance(self.features, Mapping):
            known = self.dataset[self.keys[1]]
        strata = np.zeros(count, dtype=np.int64)
        if known is not None and len(known) == count:
            strata = strata_of(read_targets(list(known), None, None, self.name)[1])
        return thin(strata, [str(i) for i in range(count)], limit=options.limit, seed=options.split_seed).tolist()

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the outputs; None where the data set does not say."""
        feature = self.features.get(self.keys[1]) if isinstance(self.features, Mapping) else None
        feature = getattr(feature, "feature", feature)  # of lists of labels
        found = getattr(feature, "names", None) or getattr(_inner(self.dataset), "classes", None)
        return tuple(map(str, found)) if found is not None else None


def _inner(dataset: Any) -> Any:
    """The data set below subsets and concatenations."""
    for _ in range(10):
        below = getattr(dataset, "dataset", None)
        below = below if below is not None else next(iter(getattr(dataset, "datasets", None) or ()), None)
        if below is None or not hasattr(below, "__getitem__"):
            break
        dataset = below
    return dataset


def _keys(item: Any, features: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """Where a sample has its image and its target.

    Raises:
        DataError: it is not known.
    """
    if isinstance(item, (tuple, list)) and len(item) >= 2:
        return 0, 1
    if not isinstance(item, Mapping):
        raise DataError(
            f"the first sample of {name} is {type(item).__name__}: expected (image, target) or a dict of both."
        )
    images = [key for key in (*_IMAGE_KEYS, *item) if key in item and (key in _IMAGE_KEYS or _is_image(item[key]))]
    others = [key for key in item if key not in images]
    labels = [key for key, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    targets = [key for key in _TARGET_KEYS if key in item] or labels or (others if len(others) == 1 else [])
    if not images or not targets:
        raise DataError(
            f"the samples of {name} have {', '.join(map(repr, item))}: expected an image and a label; give pairs of them."
        )
    return images[0], targets[0]


def _is_image(value: Any) -> bool:
    return isinstance(value, Image.Image) or (isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim >= 2)


# --- targets -----------------------------------------------------------------------------------------------------


def read_targets(
    raw: Sequence[Any], names: Sequence[str] | None, task: str | None, source: str
) -> tuple[tuple[str, ...], Targets, list[str]]:
    """The targets of samples, the names of the outputs, and notes.

    Whole numbers and texts are classes; vectors of 0 and 1 and lists of labels are several labels; floats are values.

    Args:
        raw: one per sample.
        names: of the outputs, where the data set says.
        task: instead of what the targets look like.
        source: the name of the data set, for messages.

    Raises:
        DataError: targets that no task has, or that the given task does not have.
    """
    plain = [_plain(target) for target in raw]
    inferred = _task_of(plain)
    chosen = task or inferred
    if chosen not in _READERS or inferred not in _CONVERTIBLE[chosen]:
        raise DataError(
            f"the first target of {source} is {str(raw[0])[:60]} ({type(raw[0]).__name__}): expected "
            f"{_EXPECTED.get(chosen or '', 'a class, a vector of 0 and 1, or numbers')}, the same kind for every sample."
        )
    try:
        found, values = _READERS[chosen](plain, names)
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(f"the targets of {source} cannot be read ({one_line(str(error))}).") from None
    notes = [] if task else [f"the task is {chosen}, by the targets of {source}; task= chooses another."]
    return *_without_unused(found, values, notes), notes


def _plain(target: Any) -> Any:
    """Numbers and texts as Python's own, vectors as arrays, tuples and lists as lists."""
    if isinstance(target, torch.Tensor):
        target = target.detach().cpu().numpy()
    if isinstance(target, (np.ndarray, np.generic)) and target.ndim == 0:
        return target.item()
    return list(target) if isinstance(target, tuple) else target


def _task_of(plain: Sequence[Any]) -> str | None:
    """The task that all targets are for; None where they differ."""
    if all(isinstance(target, (int, str)) for target in plain):
        return "classification" if len({isinstance(target, str) for target in plain}) == 1 else None
    if all(isinstance(target, (int, float)) for target in plain):
        return "regression"
    if all(isinstance(target, list) for target in plain):
        cells = {type(cell) for target in plain for cell in target}
        return "regression" if float in cells else "multilabel" if cells <= {int, str, bool} else None
    if all(isinstance(target, np.ndarray) and target.ndim == 1 for target in plain):
        if len({target.shape for target in plain}) > 1:
            return None
        is_hot = all(np.isin(target, (0, 1)).all() for target in plain) and len(plain[0]) > 1
        return "multilabel" if is_hot else "regression"
    return None


def _read_classes(plain: Sequence[Any], names: Sequence[str] | None) -> tuple[tuple[str, ...], Targets]:
    if isinstance(plain[0], str):
        names = sorted(set(plain))
        return tuple(names), ClassLabels.named(plain, names)
    labels = np.array(plain, dtype=np.int64)
    names = names or tuple(map(str, range(int(labels.max()) + 1)))
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()} and there are {len(names)} classes")
    return tuple(names), ClassLabels(labels)


def _read_label_sets(plain: Sequence[Any], names: Sequence[str] | None) -> tuple[tuple[str, ...], Targets]:
    widths = {len(target) for target in plain}
    cells = {cell for target in plain for cell in (target if isinstance(target, list) else target.tolist())}
    is_hot = len(widths) == 1 and cells <= {0, 1} and widths != {1} and (names is None or widths == {len(names)})
    if is_hot:
        table = np.array(plain, dtype=np.uint8)
        return tuple(names or map(str, range(table.shape[1]))), LabelSets(table)
    if any(isinstance(cell, str) for cell in cells):
        names = sorted(cells)
        plain = [[names.index(cell) for cell in target] for target in plain]
    names = names or tuple(map(str, range(max(map(int, cells), default=0) + 1)))
    table = np.zeros((len(plain), len(names)), dtype=np.uint8)
    for row, target in enumerate(plain):
        if any(cell < 0 for cell in target):
            raise ValueError("a label is negative")
        table[row, list(target)] = 1
    return tuple(names), LabelSets(table)


def _read_values(plain: Sequence[Any], names: Sequence[str] | None) -> tuple[tuple[str, ...], Targets]:
    table = np.array(plain, dtype=np.float64)
    if not np.isfinite(table).all():
        first = int(np.argwhere(~np.isfinite(table))[0][0])
        raise ValueError(f"the target at position {first} is {table[first].tolist()}, expected finite numbers")
    values = Values(table)
    count = values.values.shape[1]
    if names is None or len(names) != count:
        names = ("target",) if count == 1 else tuple(f"target_{k}" for k in range(count))
    return tuple(names), values


def _without_unused(names: tuple[str, ...], targets: Targets, notes: list[str]) -> tuple[tuple[str, ...], Targets]:
    """Leave out classes that no sample has, as a subset of a data set knows the names of all."""
    present = sorted(targets.present or ())
    if not isinstance(targets, ClassLabels) or len(present) == len(names):
        return names, targets
    notes.append(
        f"classes that no sample has are left out: {quoted([n for i, n in enumerate(names) if i not in present])}."
    )
    return tuple(names[i] for i in present), ClassLabels(np.searchsorted(present, targets.labels))


_READERS = {"classification": _read_classes, "multilabel": _read_label_sets, "regression": _read_values}
_EXPECTED = {
    "classification": "a whole number or a text",
    "multilabel": "a vector of 0 and 1 or a list of labels",
    "regression": "one or several numbers",
}
_CONVERTIBLE: Mapping[str, tuple[str | None, ...]] = {
    "classification": ("classification",),
    "multilabel": ("multilabel",),
    "regression": ("regression", "classification", "multilabel"),
}
