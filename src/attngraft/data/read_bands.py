"""Read and show images of any number of channels: .npy files, TIFF files, what Pillow has opened. No value is guessed.

Values are kept as uint8, uint16 or float32. A problem is a ValueError with the reason, which `read_image` makes a sentence
with the path of.
"""

from __future__ import annotations

import math
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from .depth import DeepValues

NPY_MAGIC, TIFF_MAGICS = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
KINDS = ("uint8", "uint16", "float32")
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_MOST_HEADER = 10_000  # bytes of an .npy header; NumPy parses it as a Python literal


def read_npy(file: IO[bytes], channels: int, most_bytes: int, deep: DeepValues) -> np.ndarray | None:
    """The array of an .npy file as (H, W, C), without running code from it; None for one of more than `most_bytes`.

    Raises:
        ValueError: it is not such a file, is cut off, or is no image of that many channels.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"its .npy format is {version}, expected 1 to 3")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file, max_header_size=_MOST_HEADER)
    axes = _axes(shape, channels)
    kind = _kind(dtype)
    count = math.prod(shape)
    if max(kind.itemsize, dtype.itemsize) * count > most_bytes:
        return None
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise ValueError(f"it has {len(data):,} bytes of values where {count * dtype.itemsize:,} are expected")
    values = np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")
    return deep.bands(values.reshape(*shape, 1) if len(shape) == 2 else values.transpose(axes))


def read_tiff(file: IO[bytes], channels: int, most_bytes: int, deep: DeepValues) -> np.ndarray | None:
    """The bands of a TIFF file as (H, W, C), also where each is a page; None for more than `most_bytes`.

    Raises:
        ValueError: tifffile is not installed, or it is no image of that many channels.
    """
    try:
        import tifffile
    except ImportError:
        raise ValueError(f"TIFF files of {channels} bands need tifffile (pip install attngraft[tiff])") from None
    with tifffile.TiffFile(file, name="image.tif") as opened:  # the name that it has is a number
        pages: Any = opened.pages
        first = pages[0]
        is_paged = first.samplesperpixel == 1 and channels > 1
        shape = (channels, *first.shape) if is_paged and len(pages) == channels else first.shape
        axes, kind = _axes(shape, channels), _kind(first.dtype)
        if max(kind.itemsize, first.dtype.itemsize) * max(math.prod(shape), math.prod(first.chunks)) > most_bytes:
            return None
        if len(shape) == len(first.shape):
            values = first.asarray()
        else:
            values = np.stack([_like(first, page).asarray() for page in pages])
    shown = values.reshape(*shape, 1) if len(shape) == 2 else values.transpose(axes)
    return deep.bands(shown, inverted=first.photometric == 0)


def from_pillow(image: Image.Image, channels: int, deep: DeepValues, *, inverted: bool = False) -> np.ndarray:
    """A grey image, or RGB with its alpha channel or an opaque one, as (H, W, C).

    Raises:
        ValueError: another number of channels, or values without a meaning.
    """
    is_grey = image.mode in GREY_MODES
    if channels not in (1, 4) or is_grey != (channels == 1):
        raise ValueError(f"it is {image.mode} of {len(image.getbands())} channels, expected {channels} channels")
    if image.mode != "F" and not image.mode.startswith("I"):
        values = np.asarray(image.convert("L" if is_grey else "RGBA"))
        return values.reshape(*values.shape[:2], channels)
    values = np.asarray(image)[:, :, None]
    if values.dtype.kind == "i" and values.min() >= 0 and values.max() <= 65535:
        values = values.astype(np.uint16)
    return deep.bands(values, inverted=inverted)


def from_array(values: np.ndarray, channels: int, deep: DeepValues, *, channels_first: bool) -> np.ndarray:
    """An array in memory as (H, W, C).

    Grey becomes RGB where three channels are wanted. Floats that are 8-bit values over 255 become uint8 again, so that
    their images are equal to those from files; true is white.

    Args:
        values: (H, W), (H, W, C) or (C, H, W).
        channels: that are wanted.
        channels_first: which order counts where both fit.

    Raises:
        ValueError: another number of channels, another type, or floats that were normalised already.
    """
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.ndim == 3 and channels_first and channels == values.shape[0]:
        values = np.moveaxis(values, 0, -1)
    ends = {values.shape[0], values.shape[-1]} if values.ndim == 3 else {1}
    if channels == 3 and 1 in ends and 3 not in ends:
        is_16_bit = (values.dtype.kind, values.dtype.itemsize) == ("u", 2)
        if is_16_bit and min(values.shape) > 0:  # as from a file
            return np.repeat(
                deep.grey(values.reshape([side for side in values.shape if side > 1]))[:, :, None], 3, axis=2
            )
        grey = from_array(values, 1, deep, channels_first=channels_first)
        return np.repeat(grey, 3, axis=2)
    axes, _ = _axes(values.shape, channels), _kind(values.dtype)
    found = deep.bands(values[:, :, None] if values.ndim == 2 else values.transpose(axes))
    if found.dtype != np.float32:
        return found
    low, high = float(found.min()), float(found.max())
    if channels in (1, 3) and not (low >= 0 and high <= 1):
        raise ValueError(
            f"its values run from {low:g} to {high:g}, expected 0 to 1: give images before they are normalised"
        )
    levels = np.rint(found * 255)
    is_8_bit = low >= 0 and high <= 1 and float(np.abs(found * 255 - levels).max()) < 1e-3
    return levels.astype(np.uint8) if is_8_bit else found


def _axes(shape: tuple[int, ...], channels: int) -> tuple[int, int, int]:
    """The order of axes that makes an array (H, W, C); where both ends have as many entries, the channels are last.

    Raises:
        ValueError: it is no image of that many channels.
    """
    if len(shape) == 2 and channels == 1 and min(shape) > 0:
        return (0, 1, 2)
    if len(shape) == 3 and min(shape) > 0 and channels in (shape[2], shape[0]):
        return (0, 1, 2) if shape[2] == channels else (1, 2, 0)
    shown = " x ".join(map(str, shape))
    raise ValueError(f"its shape is {shown}, expected height x width x {channels} or {channels} x height x width")


def _kind(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which values are kept; that of whole numbers of more than 16 bits, or with a sign, is scaled.

    Raises:
        ValueError: another one.
    """
    if dtype.kind == "u" and dtype.itemsize == 1:
        return np.dtype("uint8")
    if dtype.kind in "iu" and dtype.itemsize <= 8:
        return np.dtype("uint16")
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return np.dtype("float32")
    raise ValueError(f"its values are {dtype}, expected whole numbers or floats")


def _like(first: Any, page: Any) -> Any:
    """The page, if it has the shape and the type of the first.

    Raises:
        ValueError: it has others.
    """
    if page.shape != first.shape or page.dtype != first.dtype:
        raise ValueError("its pages have different shapes or types")
    return page


def rgb_preview(image: torch.Tensor) -> torch.Tensor:
    """A stored image (C, H, W) as (3, H, W) uint8: 8-bit RGB as it is, others as the mean of their channels in grey.

    Floats are taken as 0 to 1, or from the lowest to the highest value of the image where they lie outside of that.
    """
    if image.dtype == torch.uint8 and len(image) == 3:
        return image
    grey = image.float().mean(0, keepdim=True)
    if image.dtype != torch.uint8:
        low, high = float(image.min()), float(image.max())
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        grey = (grey - low) * (255 / max(high - low, 1e-30))
    return grey.round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)
