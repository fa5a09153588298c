"""Archive of decoded images: one flat pixel file, and a safetensors file that describes it.

The images that a version was judged on must stay the same, even when the folder that they came from is gone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ...checksums import MOST_NAMES_BYTES, changed, check_seal, file_hash, write_sealed
from ...data import ClassLabels, ImageSet
from ...data.near_duplicates.small_copies import NUMBERS, Thumbnails
from ...data.pixel_cache import image_bytes
from ...data.pixel_store import PixelStore
from ...errors import RunError
from ...files import write_atomically
from ...safetensors_files import open_tensors

PIXELS_FILE = "pixels.u8"
IMAGES_FILE = "images.safetensors"
HEX_DIGITS = 32  # of a pixel hash


@dataclass(frozen=True, eq=False)
class Packed:
    """Images with the role of each.

    Attributes:
        images: labels are indices into the classes of the domain.
        roles: (N,) of "learn", "tune", "guard" and "final".
        learned: pixel hashes of further images that were learned from and are not kept.
        thumbnails: (M, 192) uint8 of all of these, the images first; see `near_duplicates`.
    """

    images: ImageSet
    roles: NDArray[np.str_]
    learned: tuple[str, ...] = ()
    thumbnails: Thumbnails = field(default_factory=lambda: np.zeros((0, NUMBERS), dtype=np.uint8))

    def of(self, role: str) -> ImageSet:
        """The images of one role."""
        return self.images.select(np.flatnonzero(self.roles == role))

    def counts(self) -> dict[str, int]:
        """Number of images of each role."""
        names, counts = np.unique(self.roles, return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))


def pack(packed: Packed, folder: Path) -> None:
    """Write the images into a folder; the description comes last, and without it there are no images.

    Raises:
        RunError: the disk is full.
    """
    images = packed.images
    shapes = np.array([images.store.shapes[row] for row in images.rows], dtype=np.int64).reshape(-1, 2)
    kinds: list[str] = []  # types of values
    write_atomically(folder / PIXELS_FILE, lambda temporary: _write_pixels(images, temporary, kinds))
    tensors: dict[str, NDArray[Any]] = {
        "shapes": shapes,
        "labels": images.labels.astype(np.int64),
        "thumbnails": np.ascontiguousarray(packed.thumbnails),
        "learned": np.frombuffer(bytes.fromhex("".join(packed.learned)), dtype=np.uint8),
        **({"boxes": images.boxes} if images.boxes is not None else {}),
    }
    metadata = {
        "ids": json.dumps(images.ids),
        "hashes": json.dumps(images.pixel_hashes),
        "roles": json.dumps(packed.roles.tolist()),
        "pixels": file_hash(folder / PIXELS_FILE),
        **({"kinds": json.dumps(kinds)} if set(kinds) - {"uint8"} else {}),
        **({"channels": str(images.store.channels)} if images.store.channels != 3 else {}),
    }
    write_sealed(folder / IMAGES_FILE, lambda temporary, sealed: save_file(tensors, temporary, sealed), metadata)


def unpack(folder: Path) -> Packed:
    """Read what `pack` has written; the pixels stay on the disk until they are used.

    Raises:
        RunError: missing, damaged, or cut short.
    """
    file = folder / IMAGES_FILE
    try:
        check_seal(file, MOST_NAMES_BYTES)
        with open_tensors(file, "np", MOST_NAMES_BYTES) as tensors:
            texts = tensors.metadata() or {}
            ids, hashes, roles = (json.loads(texts[name]) for name in ("ids", "hashes", "roles"))
            shapes, labels = tensors.get_tensor("shapes"), tensors.get_tensor("labels")
            learned = tensors.get_tensor("learned").tobytes().hex()
            small = tensors.get_tensor("thumbnails")
            channels, kinds = json.loads(texts.get("channels", "3")), json.loads(texts.get("kinds", "[]"))
            boxes = tensors.get_tensor("boxes") if "boxes" in tensors.keys() else None  # noqa: SIM118
        size = (folder / PIXELS_FILE).stat().st_size
        is_intact = texts.get("pixels") in (None, file_hash(folder / PIXELS_FILE))  # the first stores had no hash
    except Exception as error:  # safetensors and NumPy raise many kinds for a damaged file
        raise RunError(f"the images in {folder} cannot be read ({error}): restore the store from a copy.") from None
    expected = int(image_bytes(shapes, channels, kinds).sum())
    if size != expected or not len(ids) == len(hashes) == len(roles) == len(labels) == len(shapes):
        raise RunError(
            f"{folder / PIXELS_FILE} has {size} bytes where {expected} are expected: restore the store from a copy."
        )
    if not is_intact:
        raise changed(folder / PIXELS_FILE)
    images = ImageSet(
        ids=tuple(ids),
        targets=ClassLabels(labels),
        pixel_hashes=tuple(hashes),
        store=PixelStore(shapes, folder / PIXELS_FILE, channels, kinds),
        rows=np.arange(len(ids)),
        boxes=boxes,
    )
    digests = tuple(learned[start : start + HEX_DIGITS] for start in range(0, len(learned), HEX_DIGITS))
    return Packed(images, np.array(roles, dtype=np.str_), digests, small)


def _write_pixels(images: ImageSet, path: Path, kinds: list[str]) -> None:
    kinds.clear()
    with path.open("wb") as file:
        for position in range(len(images)):
            pixels = np.ascontiguousarray(images.image(position).permute(1, 2, 0).numpy())
            kinds.append(pixels.dtype.name)
            file.write(pixels.data)
