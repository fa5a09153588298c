"""Read boxes in COCO's JSON format, with the images where COCO, Roboflow and others put them."""

from __future__ import annotations

import json
import math
import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DataError
from .annotated_boxes import AnnotatedImages, SaidBox, SaidImage, class_name, gather, path_within, read_text_file
from .class_names import quoted
from .read_image import printable
from .split_names import PART, SPLIT_NAMES, likely_split
from .walk_folders import entries, is_folder, subfolders

MOST_BYTES = 1 << 30
MOST_VALUES = 100_000_000
MOST_CONTAINERS = 20_000_000
EXPECTED = "a JSON file in COCO's format, with images, annotations and categories"
_PARTS = ("images", "annotations", "categories")
_UNUSED = frozenset({"segmentation", "keypoints", "caption", "attributes", "license", "coco_url", "flickr_url"})
_PREFIX = "instances_"
_TRIED = 50  # images that show in which folder all of them are


def coco_files(root: Path) -> list[tuple[str, Path]]:
    """The split and the file of each JSON file of boxes, in the order of their paths; none where there is none.

    They are looked for as `annotations/instances_*.json`, as other files in COCO's format in `annotations/`, in the
    folders of splits, and in the folder itself. A single file has the split "".

    Raises:
        DataError: several files of which one names no split, or two name the same.
    """
    if root.is_file():
        return [("", root)]
    found = [(_split_of(path.stem), path) for path in _in_annotations(root)]
    if not found:
        folders = [name for name in subfolders(root) if likely_split(name) not in (None, PART)]
        found = [(likely_split(name), path) for name in folders for path in _json_files(root / name)]
    if not found:
        found = [(_split_of(path.stem), path) for path in _json_files(root)]
    if len(found) < 2:
        return [("", path) for _, path in found]
    for split, path in found:
        if split in (None, PART):
            raise DataError(
                f"{printable(path)} names no split and {printable(found[0][1].parent)} has {len(found)} such files: call them "
                "train.json, val.json and test.json, or give one file."
            )
    twice = [split for split, count in Counter(split for split, _ in found).items() if count > 1]
    if twice:
        names = quoted([str(path.relative_to(root)) for split, path in found if split == twice[0]])
        raise DataError(f"{printable(root)} has several files for {twice[0]} ({names}): keep one, or give one file.")
    return [(str(split), path) for split, path in found]


def read_coco(source: str | Path, *, skip_broken: bool = False) -> AnnotatedImages:
    """Read a folder or one JSON file of boxes in COCO's format.

    As COCO's own tools do it, crowds are kept and marked, and images without objects are kept. Categories are one list over
    all files, in the order of their ids in the first.

    Args:
        source: a folder (see `coco_files`), or one JSON file, whose images lie beside it or where COCO has them.
        skip_broken: leave out images that cannot be read instead of an error.

    Raises:
        DataError: the JSON is not in that format, names images that are not there, or boxes that cannot be; names the file
            and the annotation.
    """
    source = Path(source)
    files = coco_files(source)
    if not files:
        raise DataError(f"{printable(source)} has no boxes in COCO's format: expected {EXPECTED}.")
    root = source if source.is_dir() else _above(source)
    classes: dict[str, None] = {}
    splits: dict[str, list[SaidImage]] = {}
    for split, path in files:
        names, images = _read_file(path)
        classes.update(dict.fromkeys(names))
        splits[split] = _with_folders(images, root, path, split, [one for one, _ in files])
    return gather(root, list(classes), splits, skip_broken=skip_broken)


def _above(file: Path) -> Path:
    folder = file.resolve().parent
    return folder.parent if folder.name.lower() == "annotations" else folder


def _split_of(stem: str) -> str | None:
    return likely_split(stem.removeprefix(_PREFIX))


def _in_annotations(root: Path) -> list[Path]:
    place = root / "annotations"
    if not place.is_dir():
        return []
    named = [Path(e.path) for e in entries(place) if e.name.startswith(_PREFIX) and e.name.lower().endswith(".json")]
    return [path for path in named if path.is_file()] or _json_files(place)


def _json_files(folder: Path) -> list[Path]:
    """The JSON files in a folder that speak of images, annotations and categories."""
    names = [e for e in entries(folder) if e.name.lower().endswith(".json") and not is_folder(e)]
    return [Path(e.path) for e in names if _speaks_of_boxes(Path(e.path))]


def _speaks_of_boxes(path: Path) -> bool:
    try:
        content = read_text_file(path, MOST_BYTES, EXPECTED)
    except DataError:
        return False
    return all(f'"{part}"'.encode() in content for part in _PARTS)


# --- one file ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _File:
    """The entries of one file, and how it is called in messages."""

    name: str
    images: Sequence[Any]
    annotations: Sequence[Any]
    categories: Sequence[Any]

    def error(self, what: str) -> DataError:
        return DataError(f"{self.name}: {what}.")


def _read_file(path: Path) -> tuple[list[str], list[SaidImage]]:
    """Names of the categories by their ids, and the images with their boxes; paths as they are written."""
    file = _parse(path)
    categories: dict[Any, str] = {}
    for position, entry in enumerate(file.categories):
        number = _id(file, entry, "category", position)
        if number in categories:
            raise file.error(f"two categories have the id {number!r}, expected one each")
        categories[number] = class_name(entry.get("name"), f"category {number!r} of {file.name}")
    if len(set(categories.values())) < len(categories):
        twice = next(name for name, count in Counter(categories.values()).items() if count > 1)
        raise file.error(f"two categories are called {twice!r}: rename or join them")
    images: dict[Any, SaidImage] = {}
    for position, entry in enumerate(file.images):
        number = _id(file, entry, "image", position)
        if number in images:
            raise file.error(f"two images have the id {number!r}, expected one each")
        name = path_within(entry.get("file_name"), "", f"image {number!r} of {file.name}")
        images[number] = SaidImage(name, [], file.name, "annotation", _said_size(entry))
    boxes: dict[Any, list[SaidBox]] = {number: [] for number in images}
    for position, entry in enumerate(file.annotations):
        image, box = _box(file, entry, position, images, categories)
        boxes[image].append(box)
    ordered = sorted(categories, key=lambda number: (isinstance(number, str), number))
    return [categories[number] for number in ordered], [replace(images[n], boxes=boxes[n]) for n in images]


def _parse(path: Path) -> _File:
    content = read_text_file(path, MOST_BYTES, EXPECTED)
    name = printable(path)
    containers, values = content.count(b"[") + content.count(b"{"), content.count(b",")
    if containers > MOST_CONTAINERS or values > MOST_VALUES:
        raise DataError(f"{name} has about {containers + values:,} values, more than are read: split it.")
    try:
        document = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_unused)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON ({str(error)[:100]}): expected {EXPECTED}.") from None
    parts = [document.get(part) if isinstance(document, dict) else None for part in _PARTS]
    for part, found in zip(_PARTS, parts, strict=True):
        if not isinstance(found, list):
            raise DataError(f"{name} has no list of {part}: expected {EXPECTED}.")
        position = next((i for i, entry in enumerate(found) if not isinstance(entry, dict)), None)
        if position is not None:
            raise DataError(f"{name}: entry {position} of {part} is no object: expected {EXPECTED}.")
    return _File(name, *parts)  # type: ignore[arg-type]


def _without_unused(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Outlines take most of the memory, so they are dropped as soon as they are read."""
    return {key: value for key, value in pairs if key not in _UNUSED}


def _id(file: _File, entry: Mapping[str, Any], what: str, position: int, key: str = "id") -> Any:
    number = entry.get(key)
    if isinstance(number, bool) or not isinstance(number, (int, str)):
        shown = "no" if number is None else f"a {type(number).__name__} as"
        raise file.error(f"the {what} at position {position} has {shown} {key}, expected a number")
    return number


def _box(
    file: _File, entry: Mapping[str, Any], position: int, images: Mapping[Any, Any], categories: Mapping[Any, str]
) -> tuple[Any, SaidBox]:
    image = _id(file, entry, "annotation", position, "image_id")
    category = _id(file, entry, "annotation", position, "category_id")
    number = entry.get("id")
    shown = repr(number)[:40] if isinstance(number, (int, str)) else f"at position {position}"
    if image not in images:
        raise file.error(f"annotation {shown} is of image {image!r}, which is not among the images")
    if category not in categories:
        raise file.error(f"annotation {shown} is of category {category!r}, which is not among the categories")
    said = entry.get("bbox")
    values = [_number(value) for value in said] if isinstance(said, list) else []
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise file.error(f"annotation {shown} has no bbox of four finite numbers, x y width height")
    x, y, width, height = values
    if width < 0 or height < 0:
        raise file.error(f"annotation {shown} has a bbox of {width:g} x {height:g}, expected no negative size")
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise file.error(f"annotation {shown} has an iscrowd that is not 0 or 1")
    area = entry.get("area")
    if area is not None and not 0 <= _number(area) < math.inf:
        raise file.error(f"annotation {shown} has an area that is no finite number of pixels")
    return image, SaidBox(
        (x, y, x + width, y + height), categories[category], shown, bool(crowd), None if area is None else float(area)
    )


def _number(value: Any) -> float:
    """NaN for what is no number."""
    try:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan


def _said_size(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    width, height = _number(entry.get("width")), _number(entry.get("height"))
    return (width, height) if math.isfinite(width) and math.isfinite(height) else None


# --- where the images are ---------------------------------------------------------------------------------------------
def _with_folders(
    images: Sequence[SaidImage], root: Path, file: Path, split: str, splits: Sequence[str]
) -> list[SaidImage]:
    """The images with paths relative to the root: the folder is the one that has most of the first images.

    Raises:
        DataError: one of them is not there.
    """
    tried = images[:_TRIED]
    folders = _folders(root, file, split, splits)
    hits = [sum(os.path.isfile(root / folder / image.path) for image in tried) for folder in folders]
    base = folders[hits.index(max(hits))] if any(hits) else "."
    found = [replace(image, path=path_within(image.path, base, printable(file))) for image in images]
    missing = [image.path for image in found if not os.path.isfile(root / image.path)]
    if missing:
        raise DataError(
            f"{printable(file)}: {len(missing)} of {len(images)} images are not there ({printable(missing[0])}): put them into "
            f"{printable(root / base)}, or take them out of the file."
        )
    return found


def _folders(root: Path, file: Path, split: str, splits: Sequence[str]) -> list[str]:
    """Where the images of a file may be, likeliest first; never in a folder of another split."""
    beside = _relative(file.parent, root)
    own = [file.stem.removeprefix(_PREFIX), file.stem, *(name for name, of in SPLIT_NAMES.items() if of == split)]
    names = [*dict.fromkeys(own), ""]
    tops = dict.fromkeys([beside, "."] if Path(beside).name.lower() != "annotations" else [".", beside])
    found = [f"{top}/{middle}/{name}" for top in tops for middle in ("", "images") for name in names]
    if len(splits) == 1:
        found += subfolders(root)
    return list(dict.fromkeys(posixpath.normpath(folder.strip("/") or ".") for folder in found))


def _relative(folder: Path, root: Path) -> str:
    try:
        return folder.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return "."
