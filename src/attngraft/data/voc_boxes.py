"""Read boxes in Pascal VOC's format: one XML file for each image."""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.parsers import expat

from ..errors import DataError, counted
from .annotated_boxes import AnnotatedImages, SaidBox, SaidImage, class_name, gather, read_text_file
from .read_image import printable
from .split_names import split_of
from .walk_folders import entries, is_folder, is_image, subfolders

EXPECTED = "XML files of Pascal VOC, in Annotations/ with the images in JPEGImages/, or beside the images"
MOST_BYTES, MOST_DEPTH = 16 << 20, 32
_ANNOTATIONS, _IMAGES = "Annotations", ("JPEGImages", "images", "Images")
_LISTS = {"train": "train", "val": "val", "test": "test", "trainval": "train"}
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def voc_folders(root: Path) -> list[tuple[str, str]]:
    """(split, folder relative to the root) of each folder with XML files beside images or in Annotations/; none if none.

    A folder of its own (VOC2012/ in VOCdevkit/) and the folders of splits (train/, valid/, test/) are looked into.
    """
    if _has_xml(root):
        return [("", ".")]
    inner = [name for name in subfolders(root) if _has_xml(root / name)]
    splits = [(str(split_of(name)), name) for name in inner if split_of(name)]
    return splits or [("", name) for name in inner if len(inner) == 1]


def read_voc(source: str | Path, *, skip_broken: bool = False) -> AnnotatedImages:
    """Read a folder of XML files in Pascal VOC's format; classes are sorted by name.

    Objects marked as difficult need not be found, so they are kept as crowds. Splits are those of `ImageSets/Main`, or the folders of
    splits. Boxes count pixels from 1 with both ends included, as VOC does it, unless one of them begins at 0.

    Args:
        source: the folder.
        skip_broken: leave out images that cannot be read instead of an error.

    Raises:
        DataError: not such files, or images that are not there; names the file and the line.
    """
    root = Path(source)
    folders = voc_folders(root)
    if not folders:
        raise DataError(f"{printable(root)} has no boxes in Pascal VOC's format: expected {EXPECTED}.")
    notes: list[str] = []
    splits: dict[str, list[SaidImage]] = {}
    for split, folder in folders:
        place = _Place(root, folder)
        for part, stems in place.splits(notes).items():
            splits.setdefault(split or part, []).extend(place.read(stem) for stem in stems)
    boxes = [box for images in splits.values() for image in images for box in image.boxes]
    if any(min(box.corners[:2]) < 1 for box in boxes):
        notes.append("boxes begin at 0, so their ends count as excluded.")
    else:
        splits = {split: [_from_zero(image) for image in images] for split, images in splits.items()}
    return gather(root, sorted({box.label for box in boxes}), splits, skip_broken=skip_broken, notes=notes)


def _from_zero(image: SaidImage) -> SaidImage:
    """With the first pixel as 0 and ends excluded."""
    boxes = [box._replace(corners=(box.corners[0] - 1, box.corners[1] - 1, *box.corners[2:])) for box in image.boxes]
    return replace(image, boxes=boxes)


def _has_xml(folder: Path) -> bool:
    place = folder / _ANNOTATIONS if (folder / _ANNOTATIONS).is_dir() else folder
    return any(_is_xml(entry.name) and not is_folder(entry) for entry in entries(place))


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


class _Place:
    """A folder with XML files and images: which of them belong together."""

    def __init__(self, root: Path, folder: str) -> None:
        self.root, self.folder = root, folder
        self.annotations = self._first([_ANNOTATIONS])
        self.images = self._first(_IMAGES) if self.annotations != folder else folder
        found = entries(root / self.annotations)
        self.files = {posixpath.splitext(e.name)[0]: e.name for e in found if _is_xml(e.name) and not is_folder(e)}
        self.named: dict[str, list[str]] = {}
        for entry in entries(root / self.images):
            if not _is_xml(entry.name) and not is_folder(entry) and is_image(entry.path):
                self.named.setdefault(posixpath.splitext(entry.name)[0], []).append(entry.name)
        self.names = {name for names in self.named.values() for name in names}

    def _first(self, names: Sequence[str]) -> str:
        inner = (posixpath.normpath(f"{self.folder}/{name}") for name in names)
        return next((name for name in inner if (self.root / name).is_dir()), self.folder)

    def splits(self, notes: list[str]) -> dict[str, list[str]]:
        """The stems of the XML files of each split; notes what is in none."""
        lists = self.root / self.folder / "ImageSets" / "Main"
        there = {name for name in _LISTS if os.path.isfile(lists / f"{name}.txt")}
        there -= {"trainval"} if there & {"train", "val"} else set()
        found = {_LISTS[name]: list(self._in_list(lists / f"{name}.txt")) for name in _LISTS if name in there}
        found = {split: stems for split, stems in found.items() if stems} or {"": list(self.files)}
        rest = len(set(self.files).difference(*found.values()))
        if rest:
            notes.append(f"{counted(rest, 'annotated image', 'are')} in no list of ImageSets/Main: left out.")
        bare = [names[0] for stem, names in self.named.items() if stem not in self.files]
        if bare:
            notes.append(f"{counted(len(bare), 'image', 'have')} no XML file: left out ({printable(bare[0])}).")
        return found

    def _in_list(self, file: Path) -> Iterator[str]:
        content = read_text_file(file, MOST_BYTES, "a list of images").decode("utf-8", "replace")
        for number, line in enumerate(content.splitlines(), start=1):
            stem = line.split()[0] if line.split() else None
            if stem is not None and stem not in self.files:
                raise DataError(
                    f"line {number} of {printable(file)} names {printable(stem[:200])!r}, which has no XML file: add it or take the "
                    "line out."
                )
            if stem is not None:
                yield stem

    def read(self, stem: str) -> SaidImage:
        """The image of one XML file, with its boxes."""
        path = posixpath.normpath(f"{self.annotations}/{self.files[stem]}")
        file = self.root / path
        tree = _parse(file)
        names, said = self.named.get(stem, []), posixpath.basename(tree.text("filename").replace("\\", "/"))
        if len(names) != 1 and said in (names or self.names):
            names = [said]
        if len(names) != 1:
            found = " and ".join(map(printable, names[:2])) or "none"
            place = printable(self.root / self.images)
            raise DataError(f"{printable(file)}: expected one image of that name in {place}, found {found}.")
        boxes = [_box(entry, file) for entry in tree.children if entry.tag == "object"]
        size = next((entry for entry in tree.children if entry.tag == "size"), None)
        width, height = (_float(size.text(side)) if size else math.nan for side in ("width", "height"))
        return SaidImage(
            path=posixpath.normpath(f"{self.images}/{names[0]}"),
            boxes=boxes,
            file=printable(path),
            size=(width, height) if math.isfinite(width + height) else None,
        )


# --- one XML file -----------------------------------------------------------------------------------------------------
@dataclass
class _Element:
    tag: str
    line: int
    content: list[str] = field(default_factory=list)
    children: list[_Element] = field(default_factory=list)

    def text(self, tag: str) -> str:
        """The text of the first child of a name, empty where there is none."""
        return next(("".join(child.content).strip() for child in self.children if child.tag == tag), "")


class _RefusedError(Exception):
    """An XML file that is not read on."""


def _parse(file: Path) -> _Element:
    """The elements of an XML file. A DOCTYPE is refused, as entities can stand for any number of letters or for other files.

    Raises:
        DataError: not such a file.
    """
    parser, top = expat.ParserCreate(), _Element("", 0)
    open_elements = [top]

    def start(tag: str, _: Any) -> None:
        if len(open_elements) > MOST_DEPTH:
            raise _RefusedError("is nested too deep")
        element = _Element(tag, parser.CurrentLineNumber)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def refuse(*_: Any) -> None:
        raise _RefusedError("has a DOCTYPE")

    parser.StartElementHandler, parser.StartDoctypeDeclHandler = start, refuse
    parser.EndElementHandler = lambda _: open_elements.pop()
    parser.CharacterDataHandler = lambda text: open_elements[-1].content.append(text)
    expected = "expected an <annotation> of Pascal VOC"
    try:
        parser.Parse(read_text_file(file, MOST_BYTES, "an XML file of Pascal VOC"), True)
    except expat.ExpatError as error:
        raise DataError(
            f"line {error.lineno} of {printable(file)} is not XML ({expat.ErrorString(error.code)}): {expected}."
        ) from None
    except (_RefusedError, ValueError, LookupError) as error:
        reason = str(error) if isinstance(error, _RefusedError) else "is in an unknown encoding"
        raise DataError(f"line {parser.CurrentLineNumber} of {printable(file)} {reason}: {expected}.") from None
    if top.children[0].tag != "annotation":
        raise DataError(f"{printable(file)} begins with <{top.children[0].tag[:60]}>: {expected}.")
    return top.children[0]


def _box(entry: _Element, file: Path) -> SaidBox:
    place = f"line {entry.line} of {printable(file)}"
    frame = next((child for child in entry.children if child.tag == "bndbox"), None)
    said = [frame.text(side) if frame else "" for side in _SIDES]
    corners = [_float(text) for text in said]
    if not all(map(math.isfinite, corners)):
        shown = ", ".join(f"{side} {text[:20]!r}" for side, text in zip(_SIDES, said, strict=True))
        raise DataError(f"{place}: the object has a bndbox of {shown}, expected four numbers of pixels.")
    difficult = entry.text("difficult") or "0"
    if difficult not in ("0", "1"):
        raise DataError(f"{place}: difficult is {difficult[:20]!r}, expected 0 or 1.")
    return SaidBox(
        (corners[0], corners[1], corners[2], corners[3]),
        class_name(entry.text("name"), place),
        entry.line,
        crowd=difficult == "1",
    )


def _float(text: str) -> float:
    """NaN for what is no number."""
    try:
        return float("" if "_" in text else text)
    except ValueError:
        return math.nan
