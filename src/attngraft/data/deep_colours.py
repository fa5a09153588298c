"""Colours of 16 bits, of which Pillow reads the upper 8 alone."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps

from .depth import DeepValues, scaled


def deep_colours(file: IO[bytes], image: Image.Image, deep: DeepValues) -> Image.Image | None:
    """The colours of a PNG or TIFF file of 16 bits, in 8 bits and upright.

    Args:
        file: opened; its position is as before afterwards.
        image: opened from it and not yet loaded.
        deep: what becomes of the values.

    Returns:
        None for all other images, and where the upper 8 bits are what is wanted.
    """
    raw = str(image.tile[0][3]) if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    if ";16" not in raw or image.mode not in ("RGB", "RGBA", "LA"):
        return None
    place = file.tell()
    file.seek(0)
    values = _read_png(file) if image.format == "PNG" else _read_tiff(file) if image.format == "TIFF" else None
    file.seek(place)
    bands = len(image.getbands())
    if values is None or values.shape != (image.height, image.width, bands):
        return None
    colours = bands - (image.mode != "RGB")
    deep.note(values[:, :, :colours])
    limits = deep.depth.integers
    if limits is None:
        return None
    shown = (values >> 8).astype(np.uint8)  # the opacity
    shown[:, :, :colours] = scaled(values[:, :, :colours], limits, 255)
    made = Image.fromarray(shown)
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation is not None:
        made.getexif()[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(made, in_place=True)
    return made


def _read_png(file: IO[bytes]) -> NDArray[Any] | None:
    from torchvision.io import ImageReadMode, decode_png

    try:
        data = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
        return decode_png(data, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    except RuntimeError:  # damaged, which Pillow says, or torchvision was built without PNG
        return None


def _read_tiff(file: IO[bytes]) -> NDArray[Any] | None:
    try:
        import tifffile

        with tifffile.TiffFile(file, name="image.tif") as opened:
            page: Any = opened.pages[0]
            values = page.asarray()
    except Exception:  # not installed, or a kind that it does not read: Pillow's 8 bits are left
        return None
    return np.moveaxis(values, 0, -1) if page.planarconfig == 2 else values
