"""Decode an image from wherever it comes: a file, its bytes, a PIL image, an array or a tensor."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from ..errors import one_line
from .depth import DeepValues
from .image_formats import check_size
from .read_bands import from_array
from .read_image import PIXEL_CAP, UnreadableImageError, decode, pillow_pixels, pillow_warnings_ignored

ImageLike: TypeAlias = str | PathLike[str] | bytes | IO[bytes] | Image.Image | np.ndarray | torch.Tensor
"""What `decode_any` takes."""

IMAGE_KINDS = "a path, the bytes of a file, a PIL image, an array (H, W, C) or a tensor (C, H, W)"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_MODES = (1, 2, 3, 4)  # bands of grey, grey with transparency, RGB, RGB with transparency
_SHOWN = 200  # characters of a name


def decode_any(
    image: Any,
    *,
    channels: int = 3,
    pixel_cap: int = PIXEL_CAP,
    name: str = "the image",
    deep: DeepValues | None = None,
) -> np.ndarray:
    """Decode one image as `read_image` does its file, so that one image has the same pixels whatever holds it.

    Args:
        image: a path; the bytes of a file, or a file that is open; a PIL image; an array (H, W), (H, W, C) or (C, H, W),
            or a tensor (H, W), (C, H, W) or (H, W, C), of uint8, uint16, bool or floats of 0 to 1.
        channels: that are wanted, see `read_image`.
        pixel_cap: largest width x height.
        name: for messages, where the image is no path.
        deep: what becomes of values of more than 8 bits; it keeps which they are.

    Returns:
        (H, W, C): uint8, uint16 or float32.

    Raises:
        UnreadableImageError: it is none of these, or cannot be read (a DataError).
    """
    deep = deep or DeepValues()
    if isinstance(image, (str, PathLike)):
        return _from_file(_path(image), pixel_cap, channels, deep)
    try:
        return _from_memory(image, channels, pixel_cap, name, deep)
    except UnreadableImageError:
        raise
    except Exception as error:  # what is decoded late, in Pillow, raises almost anything
        reason = one_line(" ".join(str(error).split()).rstrip(".")) or type(error).__name__
        raise UnreadableImageError(name, reason) from None


def _path(image: str | PathLike[str]) -> Path:
    """The path, unless it is an address."""
    text = fspath(image)
    if isinstance(text, str) and (_URL.match(text) or text.startswith("data:")):
        raise UnreadableImageError(
            text[:_SHOWN], "it is an address, and nothing is downloaded: fetch the image and give its path or its bytes"
        )
    return Path(text)


def _from_memory(image: Any, channels: int, pixel_cap: int, name: str, deep: DeepValues) -> np.ndarray:
    if isinstance(image, Mapping) and image.keys() == {"bytes", "path"}:  # as Hugging Face keeps what is not decoded
        found = image["path"] if image["bytes"] is None else image["bytes"]
        return decode_any(found, channels=channels, pixel_cap=pixel_cap, name=name, deep=deep)
    if isinstance(image, (bytes, bytearray, memoryview)):
        image = io.BytesIO(image)
    if isinstance(image, Image.Image):
        check_size(image.width, image.height, pixel_cap)
        with pillow_warnings_ignored():
            return pillow_pixels(image, channels, deep)
    if isinstance(image, torch.Tensor):
        values = image.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        return _checked_array(values.numpy(), channels, pixel_cap, deep, channels_first=True)
    if isinstance(image, np.ndarray):
        return _checked_array(image, channels, pixel_cap, deep, channels_first=False)
    if callable(getattr(image, "read", None)) and callable(getattr(image, "seek", None)):
        return _from_file(image, pixel_cap, channels, deep, name)
    raise ValueError(f"the image is {type(image).__name__}, expected {IMAGE_KINDS}")


def _from_file(
    file: Path | IO[bytes], pixel_cap: int, channels: int, deep: DeepValues, name: str | None = None
) -> np.ndarray:
    with pillow_warnings_ignored():
        pixels = decode(file, pixel_cap, channels=channels, name=name, deep=deep)
    assert pixels is not None
    return pixels


def _checked_array(
    values: np.ndarray, channels: int, pixel_cap: int, deep: DeepValues, *, channels_first: bool
) -> np.ndarray:
    found = _other_bands(values, channels, channels_first)
    if found is None:
        found = from_array(values, channels, deep, channels_first=channels_first)
    check_size(found.shape[1], found.shape[0], pixel_cap)
    return found


def _other_bands(values: np.ndarray, channels: int, channels_first: bool) -> np.ndarray | None:
    """8-bit grey, RGB or either with transparency in the wanted channels, as from a file; None for all other arrays."""
    if values.dtype != np.uint8 or values.ndim != 3 or channels in (values.shape[0], values.shape[-1]):
        return None
    ends = (0, -1) if channels_first else (-1, 0)
    axis = next((axis for axis in ends if values.shape[axis] in _MODES), None)
    if axis == ends[1] and min(values.shape[1:] if axis == 0 else values.shape[:2]) <= max(_MODES):
        return None  # which axis has the channels would be a guess
    if axis is None or channels not in (1, 3, 4) or min(values.shape) < 1:
        return None
    last = np.ascontiguousarray(np.moveaxis(values, axis, -1))
    return pillow_pixels(Image.fromarray(last[:, :, 0] if last.shape[2] == 1 else last), channels, DeepValues())
