"""Masks: a class for every pixel, from files to the targets of an image set."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from .read_image import PIXEL_CAP, pillow_warnings_ignored, printable

IGNORED = 255  # pixels that neither train nor count
MOST_CLASSES = 255
CLASSES_FILE = "classes.json"


@dataclass(frozen=True, eq=False)
class Masks:
    """One mask per image, at the size of the stored image, compressed.

    Attributes:
        packed: the masks' bytes, uint8, row by row: index into the classes, or `IGNORED`.
        shapes: (N, 2) int64, height and width.
        pixels: (N, K) int64, how many pixels of each class an image has.
        digests: a hash of each mask.
    """

    packed: tuple[bytes, ...]
    shapes: NDArray[np.int64]
    pixels: NDArray[np.int64]
    digests: tuple[str, ...]
    task: ClassVar[str] = "segmentation"
    is_spatial: ClassVar[bool] = True

    @classmethod
    def pack(cls, masks: Sequence[NDArray[np.uint8]], classes: int) -> Masks:
        """Compress masks of K classes."""
        packed = tuple(zlib.compress(np.ascontiguousarray(mask).tobytes(), 1) for mask in masks)
        digests = tuple(blake2b(np.ascontiguousarray(mask).tobytes(), digest_size=8).hexdigest() for mask in masks)
        counts = [np.bincount(mask.ravel(), minlength=256)[:classes] for mask in masks]
        shapes = np.array([mask.shape for mask in masks], dtype=np.int64).reshape(-1, 2)
        return cls(packed, shapes, np.array(counts, dtype=np.int64).reshape(-1, classes), digests)

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def strata(self) -> NDArray[np.int64]:
        """The class of each image that the fewest images have."""
        has = self.pixels > 0
        ranked = np.where(has, has.sum(axis=0), len(has) + 1)
        return ranked.argmin(axis=1).astype(np.int64)

    @property
    def present(self) -> frozenset[int]:
        return frozenset(np.flatnonzero(self.pixels.any(axis=0)).tolist())

    def select(self, positions: Sequence[int] | NDArray[Any]) -> Masks:
        chosen = np.asarray(positions, dtype=np.int64)
        packed, digests = (tuple(values[i] for i in chosen) for values in (self.packed, self.digests))
        return Masks(packed, self.shapes[chosen], self.pixels[chosen], digests)

    def extend(self, others: Sequence[Masks]) -> Masks:
        parts = [self, *others]
        return Masks(
            tuple(mask for part in parts for mask in part.packed),
            np.concatenate([part.shapes for part in parts]),
            np.concatenate([part.pixels for part in parts]),
            tuple(digest for part in parts for digest in part.digests),
        )

    def get(self, position: int) -> torch.Tensor:
        """(H, W) uint8."""
        flat = torch.frombuffer(bytearray(zlib.decompress(self.packed[position])), dtype=torch.uint8)
        return flat.view(*self.shapes[position].tolist())

    def collate(self, positions: Sequence[int] | NDArray[Any]) -> torch.Tensor:
        """(B, H, W) int64, of masks of one size."""
        return torch.stack([self.get(int(position)) for position in positions]).long()

    def digest(self, position: int) -> str:
        return self.digests[position]


@dataclass(frozen=True)
class MaskCoding:
    """How the values of mask files stand for classes.

    Attributes:
        classes: names; () where the files have to say how many there are.
        colours: of the classes, where masks are coloured; () where values are indices.
        ignored: the value of pixels that do not count.
        values: (value, index) of each value, where they are no indices themselves.
    """

    classes: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    ignored: int = IGNORED
    values: tuple[tuple[int, int], ...] = ()


def read_coding(folder: Path, ignored: int | None = None) -> MaskCoding:
    """What `classes.json` in a folder says: a list of names, or a mapping from names to indices or colours.

    Args:
        folder: of the data.
        ignored: the index of pixels that do not count; 255 where None.

    Raises:
        DataError: a file of another kind.
    """
    value = IGNORED if ignored is None else ignored
    path = folder / CLASSES_FILE
    if not path.is_file():
        return MaskCoding(ignored=value)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{printable(path)} cannot be read ({error}): expected names, or names and colours.") from None
    if isinstance(said, list) and all(isinstance(name, str) for name in said):
        said = {name: index for index, name in enumerate(said)}
    expected = 'expected ["sky", "road"], {"sky": 0, "road": 1} or {"sky": [0, 0, 0], "road": [128, 64, 128]}'
    if not isinstance(said, dict) or not 2 <= len(said) <= MOST_CLASSES:
        raise DataError(f"{printable(path)} does not name 2 to {MOST_CLASSES} classes: {expected}.")
    if all(_is_colour(colour) for colour in said.values()):
        colours = tuple((int(r), int(g), int(b)) for r, g, b in said.values())
        if len(set(colours)) < len(colours):
            raise DataError(f"{printable(path)} gives two classes one colour: give each its own.")
        return MaskCoding(tuple(said), colours, value)
    if all(type(index) is int for index in said.values()) and sorted(said.values()) == list(range(len(said))):
        return MaskCoding(tuple(sorted(said, key=lambda name: said[name])), (), value)
    raise DataError(f"{printable(path)} has no indices from 0 on and no colours: {expected}.")


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """Masks that are still in their files; targets of images that are not decoded yet."""

    files: tuple[str, ...]
    task: ClassVar[str] = "segmentation"
    is_spatial: ClassVar[bool] = True
    strata: ClassVar[None] = None
    present: ClassVar[None] = None

    def __len__(self) -> int:
        return len(self.files)

    def select(self, positions: Sequence[int] | NDArray[Any]) -> MaskFiles:
        return MaskFiles(tuple(self.files[int(i)] for i in positions))

    def extend(self, others: Sequence[MaskFiles]) -> MaskFiles:
        return replace(self, files=self.files + tuple(file for other in others for file in other.files))

    def get(self, position: int) -> str:
        return self.files[position]

    def collate(self, positions: Sequence[int] | NDArray[Any]) -> torch.Tensor:
        raise DataError("the masks are not read yet: expected those of decoded images.")

    def digest(self, position: int) -> str:
        return self.files[position]


@dataclass(frozen=True)
class ReadMasks:
    """Masks with the names of their classes, and notes."""

    masks: Masks
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_masks(
    folder: Path, files: Sequence[str], images: Sequence[str], shapes: NDArray[np.int64], coding: MaskCoding
) -> ReadMasks:
    """Read masks at the size at which their images are stored.

    Args:
        folder: that the names are relative to.
        files: of the masks.
        images: files of the images, in the same order.
        shapes: (N, 2) height and width of the stored images.
        coding: of the values.

    Raises:
        DataError: a file that is no mask, of another size than its image, or with an unknown value; names the file.
    """
    masks = []
    for file, image, (height, width) in zip(files, images, shapes.tolist(), strict=True):
        raw = _read(folder / file)
        _check_size(folder / image, folder / file, raw.shape[:2])
        masks.append(resized_mask(_indices(raw, coding, folder / file), height, width))
    notes: list[str] = []
    classes = coding.classes
    if not classes:
        masks, classes, notes = _counted(masks, coding, folder)
    known = len(classes)
    for file, mask in zip(files, masks, strict=True):
        wrong = np.unique(mask[(mask >= known) & (mask != IGNORED)])
        if len(wrong):
            raise _unknown_value(folder / file, int(wrong[0]), known, coding)
    lost = sum(int((mask == IGNORED).sum()) for mask in masks) / max(1, sum(mask.size for mask in masks))
    if lost:
        notes.append(f"{100 * lost:.2g} % of the masks' pixels do not count (index {coding.ignored}).")
    return ReadMasks(Masks.pack(masks, known), classes, tuple(notes))


def _unknown_value(path: Path, value: int, classes: int | None, coding: MaskCoding) -> DataError:
    expected = "the index of a class" if classes is None else f"0 to {classes - 1}, the index of a class,"
    return DataError(
        f"{printable(path)} has the value {value}: expected {expected} or {coding.ignored} for pixels that do not count "
        "(--ignore-index)."
    )


def _read(path: Path) -> NDArray[np.uint8]:
    """(H, W) values or (H, W, 3) colours of a mask file.

    Raises:
        DataError: it cannot be read, is too large, or has more than 8 bits that are used.
    """
    try:
        with pillow_warnings_ignored(), Image.open(path) as image:
            if image.width * image.height > PIXEL_CAP:
                raise DataError(
                    f"{printable(path)} has {image.width} x {image.height} pixels: expected a smaller mask."
                )
            if image.mode in ("1", "L", "P"):
                return np.array(image.convert("L") if image.mode == "1" else image) // (255 if image.mode == "1" else 1)
            if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
                values = np.array(image)
                if values.min() < 0 or values.max() > 255:
                    raise DataError(
                        f"{printable(path)} has the value {values.max()}: expected masks of 8 bits, 0 to 255."
                    )
                return values.astype(np.uint8)
            if image.mode == "LA":
                return np.array(image.getchannel(0))
            colours = np.array(image.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DataError(f"the mask {printable(path)} cannot be read ({error}): mend or remove it.") from None
    is_grey = (colours == colours[..., :1]).all()
    return colours[..., 0] if is_grey else colours


def _indices(raw: NDArray[np.uint8], coding: MaskCoding, path: Path) -> NDArray[np.uint8]:
    """(H, W) index into the classes of each pixel; those that do not count are `IGNORED`."""
    if not coding.colours:
        if raw.ndim == 3:
            raise DataError(
                f"{printable(path)} is a coloured mask: list the colour of each class in {CLASSES_FILE}, for example "
                '{"sky": [0, 0, 0], "road": [128, 64, 128]}.'
            )
        if coding.values:
            table = np.arange(256, dtype=np.uint8)
            table[[value for value, _ in coding.values]] = [index for _, index in coding.values]
            return table[raw]
        if coding.ignored == IGNORED:
            return raw
        if (raw == IGNORED).any():
            raise _unknown_value(path, IGNORED, len(coding.classes) or None, coding)
        found = raw.copy()
        found[raw == coding.ignored] = IGNORED
        return found
    colours = raw if raw.ndim == 3 else np.repeat(raw[..., None], 3, axis=2)
    codes = colours.astype(np.int64) @ np.array([65536, 256, 1])
    found = np.full(codes.shape, IGNORED, dtype=np.uint8)
    known = np.zeros(codes.shape, dtype=bool)
    for index, (red, green, blue) in enumerate(coding.colours):
        mine = codes == red * 65536 + green * 256 + blue
        found[mine] = index
        known |= mine
    if not known.all():
        row, column = np.argwhere(~known)[0].tolist()
        raise DataError(
            f"{printable(path)} has the colour {colours[row, column].tolist()} at row {row}, column {column}, which "
            f"{CLASSES_FILE} does not list: add it, or save masks as PNG (JPEG blurs colours)."
        )
    return found


def _check_size(image: Path, mask: Path, shape: tuple[int, ...]) -> None:
    """Raise DataError where a mask is not as large as its image, as it is shown (EXIF may turn it)."""
    with pillow_warnings_ignored(), Image.open(image) as opened:
        width, height = opened.size
        is_turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    if is_turned:
        width, height = height, width
    if shape != (height, width):
        raise DataError(
            f"{printable(mask)} is {shape[1]} x {shape[0]} and its image {width} x {height}: expected masks as large as "
            "their images."
        )


def resized_mask(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The mask at another size, each pixel from the nearest one."""
    if mask.shape == (height, width):
        return mask
    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _counted(
    masks: list[NDArray[np.uint8]], coding: MaskCoding, folder: Path
) -> tuple[list[NDArray[np.uint8]], tuple[str, ...], list[str]]:
    """Masks and names of classes where nobody named them: as many as there are values."""
    counts = np.sum([np.bincount(mask.ravel(), minlength=256) for mask in masks], axis=0)
    used = np.flatnonzero(counts).tolist()
    if used == [0, 255] and coding.ignored == IGNORED:
        masks = [(mask == 255).astype(np.uint8) for mask in masks]
        return masks, ("background", "foreground"), ["masks of 0 and 255 are taken as background and foreground."]
    highest = max((value for value in used if value != IGNORED), default=0)
    if highest == 0:
        raise DataError(f"the masks in {printable(folder)} have one class only: expected two or more.")
    names = tuple(map(str, range(highest + 1)))
    unused = [name for index, name in enumerate(names) if not counts[index]]
    told = f"; no pixel is of {', '.join(unused[:5])}" if unused else ""
    note = f"{len(names)} classes by the masks' values, called 0 to {names[-1]}; {CLASSES_FILE} can name them{told}."
    return masks, names, [note]


def class_colours(count: int) -> NDArray[np.uint8]:
    """(K, 3) a colour for each class, as in the colour map of Pascal VOC."""
    found = np.zeros((count, 3), dtype=np.uint8)
    for index in range(count):
        rest = index
        for bit in range(8):
            for channel in range(3):
                found[index, channel] |= ((rest >> channel) & 1) << (7 - bit)
            rest >>= 3
    return found
