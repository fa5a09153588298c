"""Read boxes in YOLO's format: a data.yaml, folders of images, and a text file of labels for each image."""

from __future__ import annotations

import math
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError, counted
from .annotated_boxes import AnnotatedImages, SaidBox, SaidImage, class_name, gather, path_within, read_text_file
from .read_image import printable
from .split_names import SPLIT_NAMES
from .walk_folders import entries, is_folder, walk_images

EXPECTED = "a data.yaml with names, train and val, as YOLO reads it"
MOST_YAML_BYTES, MOST_LABEL_BYTES, MOST_CLASSES = 1 << 20, 64 << 20, 100_000
_NOTHING = ("", "~", "null")  # how YAML says that there is no value
_ROUNDING = 0.01  # that a fraction may be below 0 or above 1
_LINE = "expected a class and x y width height of the box, or a class and the corners x y x y x y ... of an outline"


def yolo_file(root: Path) -> Path | None:
    """The YAML file of a folder that says names and training images; None where there is none.

    Raises:
        DataError: several files do.
    """
    if root.is_file():
        return root
    found = [Path(e.path) for e in entries(root) if not is_folder(e) and e.name.lower().endswith((".yaml", ".yml"))]
    found = [path for path in found if _speaks_of_boxes(path)]
    named = [path for path in found if path.stem.lower() == "data"]
    if len(found) > 1 and len(named) != 1:
        shown = " and ".join(printable(path.name) for path in found[:2])
        raise DataError(f"{printable(root)} has {shown}: give the file that is meant.")
    return next(iter(named or found), None)


def read_yolo(source: str | Path, *, skip_broken: bool = False) -> AnnotatedImages:
    """Read a folder with a data.yaml, or the YAML file itself.

    Paths mean what they mean to Ultralytics: they are relative to `path`, which is relative to the YAML file, lists of images are
    text files, and labels lie in `labels/` where images lie in `images/`, else beside them. An image without a file of labels has
    no objects, and of an outline the box around it is taken. `path` counts only where it lies in the folder of the YAML file.

    Args:
        source: the folder or the file.
        skip_broken: leave out images that cannot be read instead of an error.

    Raises:
        DataError: not such files; names the file and the line.
    """
    source = Path(source)
    file = yolo_file(source)
    if file is None:
        raise DataError(f"{printable(source)} has no boxes in YOLO's format: expected {EXPECTED}.")
    root, said = file.parent, _read_yaml(file)
    classes, place = _names(said, printable(file)), printable(file)
    base, notes = _base(said, root, place)
    splits: dict[str, dict[str, SaidImage]] = {}
    repeated = 0
    for split, path, found in _listed_images(said, root, base, place):
        if found is None and split == "train":
            raise DataError(f"{place} says train: {path!r}, which is not there: expected a folder of images.")
        if found is None:
            notes.append(f"{path!r} is not there, so it adds no images for {split}.")
        for image in found or ():
            splits.setdefault(split, {})[image], times = _read_labels(image, root, classes)
            repeated += times
    if "train" not in splits:
        raise DataError(f"{place} names no images for train: expected {EXPECTED}.")
    if repeated:
        notes.append(f"{counted(repeated, 'line', 'repeat')} an earlier one: left out.")
    _check_shared(image for images in splits.values() for image in images)
    listed = {split: list(images.values()) for split, images in splits.items()}
    return gather(root, classes, listed, are_fractions=True, skip_broken=skip_broken, notes=notes)


# --- data.yaml --------------------------------------------------------------------------------------------------------
class _Loader(yaml.BaseLoader):
    """Texts, lists and mappings of texts alone: a class may be called `no`, and a few aliases can mean millions of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


def _speaks_of_boxes(file: Path) -> bool:
    try:
        said = _read_yaml(file)
    except DataError:
        return False
    return "train" in said and ("names" in said or "nc" in said)


def _read_yaml(file: Path) -> Mapping[str, Any]:
    content = read_text_file(file, MOST_YAML_BYTES, EXPECTED)
    try:
        said = yaml.load(content, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1} of {printable(file)}" if mark is not None else printable(file)
        reason = getattr(error, "problem", None) or str(error)[:100] or "it is nested too deep"
        raise DataError(f"{where} is not YAML ({reason}): expected {EXPECTED}.") from None
    if not isinstance(said, dict):
        raise DataError(f"{printable(file)} has no keys: expected {EXPECTED}.")
    return {key: value for key, value in said.items() if not (isinstance(value, str) and value.lower() in _NOTHING)}


def _names(said: Mapping[str, Any], place: str) -> list[str]:
    """The classes by their numbers."""
    names, count = said.get("names"), said.get("nc")
    if names is None and isinstance(count, str) and count.isdecimal() and len(count) < 7 and int(count) <= MOST_CLASSES:
        return [f"class_{number}" for number in range(int(count))]
    if isinstance(names, dict):
        numbers = [str(number) for number in range(len(names))]
        if set(names) != set(numbers):
            raise DataError(f"{place}: the keys of names are not 0 to {len(names) - 1}: number the classes in order.")
        names = [names[number] for number in numbers]
    if not isinstance(names, list) or not names:
        raise DataError(f"{place} has no list of names: expected {EXPECTED}.")
    found = [class_name(name, place) for name in names]
    twice = next((name for name, times in Counter(found).items() if times > 1), None)
    if twice is not None:
        raise DataError(f"{place}: two classes are called {twice!r}: rename or join them.")
    if count is not None and count != str(len(found)):
        raise DataError(f"{place} says nc: {count!r} and has {counted(len(found), 'name')}: expected the same number.")
    return found


def _base(said: Mapping[str, Any], root: Path, place: str) -> tuple[str, list[str]]:
    """The folder that paths are relative to, within the root, and a note where `path` is another one."""
    path = said.get("path")
    if path is None:
        return ".", []
    inner = path_within(path, "", place) if isinstance(path, str) and not _leads_out(path) else None
    if inner is not None and (root / inner).is_dir():
        return inner, []
    if not isinstance(path, str):
        raise DataError(f"{place}: path is no text, expected the folder that the others are relative to.")
    return ".", [f"path is {path[:100]!r} and does not lie beside {place}, so its folder was taken."]


def _leads_out(path: str) -> bool:
    try:
        path_within(path, "", "")
    except DataError:
        return True
    return False


# --- images -----------------------------------------------------------------------------------------------------------
def _listed_images(
    said: Mapping[str, Any], root: Path, base: str, place: str
) -> Iterator[tuple[str, str, list[str] | None]]:
    """Split, path and images of all that is named; None for a path that is not there."""
    for key, split in SPLIT_NAMES.items():
        paths = said.get(key) or []
        for path in paths if isinstance(paths, list) else [paths]:
            yield split, path, _listed(path, root, base, place, key)


def _listed(path: Any, root: Path, base: str, place: str, key: str) -> list[str] | None:
    """The images of a folder, or of a text file that lists some, relative to the root; None where it is not there."""
    if not isinstance(path, str) or not path:
        raise DataError(f"{place}: {key} is no path, expected a folder of images or a text file that lists some.")
    candidates = [path] + [path[3:]] * path.startswith("../")  # as Roboflow writes it and Ultralytics reads it
    inner = [
        path_within(one, base, f"{key} of {place}") for one in candidates if not _leads_out(posixpath.join(base, one))
    ]
    if not inner:
        path_within(path, base, f"{key} of {place}")
    for one in inner:
        if (root / one).is_dir():
            return [posixpath.normpath(f"{one}/{name}") for name in walk_images(root / one)]
        if os.path.isfile(root / one):
            return list(_in_list(root / one, root, base, posixpath.dirname(one)))
    return None


def _in_list(file: Path, root: Path, base: str, beside: str) -> Iterator[str]:
    """The images that a text file names: "./" stands for its own folder, other paths are relative to that or to the base."""
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        place = f"line {number} of {printable(file)}"
        options = [path_within(line.strip(), folder, place) for folder in dict.fromkeys((beside, base))]
        found = next((one for one in options if os.path.isfile(root / one)), None)
        if found is None:
            raise DataError(f"{place}: there is no image {printable(line.strip()[:200])}: add it or take the line out.")
        yield found


def _label_file(image: str) -> str:
    """images/train/a.jpg -> labels/train/a.txt; beside the image where there is no folder called images."""
    before, folder, after = f"/{image}".rpartition("/images/")
    stem = posixpath.splitext(f"{before}/labels/{after}" if folder else f"/{image}")[0]
    return f"{stem[1:]}.txt"


def _check_shared(paths: Iterable[str]) -> None:
    """Refuse two images with one file of labels, such as a.jpg and a.png."""
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(_label_file(path), path)
        if other != path:
            raise DataError(f"{printable(other)} and {printable(path)} have one file of labels: rename one.")


# --- labels -----------------------------------------------------------------------------------------------------------
def _read_labels(image: str, root: Path, classes: Sequence[str]) -> tuple[SaidImage, int]:
    """An image with its boxes, and how many lines repeat earlier ones."""
    name = _label_file(image)
    if not os.path.isfile(root / name):
        return SaidImage(image, [], printable(name)), 0
    boxes: dict[tuple[Any, ...], SaidBox] = {}
    lines = 0
    for number, line in enumerate(_lines(root / name), start=1):
        if line.strip():
            lines += 1
            box = _box(line, number, f"line {number} of {printable(root / name)}", classes)
            boxes.setdefault((box.label, box.corners), box)
    return SaidImage(image, list(boxes.values()), printable(name)), lines - len(boxes)


def _box(line: str, number: int, place: str, classes: Sequence[str]) -> SaidBox:
    try:
        first, *values = [float("" if "_" in word else word) for word in line.split()]
    except ValueError:
        first, values = math.nan, []
    if not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)) or not math.isfinite(first):
        raise DataError(f"{place} reads {line.strip()[:60]!r}: {_LINE}.")
    if not first.is_integer() or not 0 <= first < len(classes):
        known = f"0 to {len(classes) - 1}"
        raise DataError(f"{place} has the class {first:g}: expected one of the {len(classes)} in data.yaml, {known}.")
    if not all(-_ROUNDING <= value <= 1 + _ROUNDING for value in values):
        raise DataError(f"{place} reads {line.strip()[:60]!r}: expected fractions of width and height, from 0 to 1.")
    if len(values) == 4:
        x, y, width, height = values
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:
        corners = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    return SaidBox(corners, classes[int(first)], number)


def _lines(file: Path) -> list[str]:
    content = read_text_file(file, MOST_LABEL_BYTES, "a text file")
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(
            f"{printable(file)} is not a text in UTF-8: expected one line for each object or image."
        ) from None
