"""Formats of images by their first bytes, and readers for those that Pillow lacks."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

HEAD_BYTES = 32
EXTRAS = {"HEIC": "pip install attngraft[heif]", "JPEG XL": "pip install attngraft[jxl]"}
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
)
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def format_of(head: bytes) -> str | None:
    """The format of an image that begins with these bytes; None for everything else."""
    for start, name in _STARTS.items():
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "BMP"
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, len(head) - 3, 4))]
        known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return "AVIF" if "AVIF" in known else known[0] if known else None
    return None


def format_of_file(path: str | Path) -> str | None:
    """The format of an image file, whatever it is called; None for everything else, also for what cannot be opened."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open(path, "rb") as file:
            return format_of(file.read(HEAD_BYTES))
    except OSError:
        return None


def open_rare(file: IO[bytes], name: str, pixel_cap: int) -> Image.Image:
    """An image of a format that Pillow does not read, upright.

    Raises:
        ValueError: the package that reads it is missing, or it has too many pixels.
    """
    if name == "HEIC":
        return _open_heif(file, pixel_cap)
    if name == "JPEG XL":
        return _open_jxl(file, pixel_cap)
    if name == "AVIF":
        raise ValueError("it is an AVIF image, which needs a newer Pillow (pip install 'pillow>=11.3')")
    raise ValueError(f"its content is not a {name} image that Pillow reads")


def _open_heif(file: IO[bytes], pixel_cap: int) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise ValueError(
            f"it is a HEIC image, which needs pillow-heif ({EXTRAS['HEIC']}); or convert it to JPEG"
        ) from None
    found = pillow_heif.open_heif(file, convert_hdr_to_8bit=True)
    width, height = found.size
    check_size(width, height, pixel_cap)
    return found.to_pillow()  # it is turned as its EXIF block says


def _open_jxl(file: IO[bytes], pixel_cap: int) -> Image.Image:
    try:
        from imagecodecs import jpegxl_decode
    except ImportError:
        raise ValueError(
            f"it is a JPEG XL image, which needs imagecodecs ({EXTRAS['JPEG XL']}); or convert it to PNG"
        ) from None
    data = file.read()
    check_size(*_size_of_jxl(data), pixel_cap)
    values = np.asarray(jpegxl_decode(data))
    if values.ndim == 4:  # the first frame of an animation
        values = values[0]
    if values.dtype == np.uint16 and not (values.ndim == 2 or values.shape[2] == 1):
        values = (values >> 8).astype(np.uint8)
    return Image.fromarray(values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values)


def _size_of_jxl(data: bytes) -> tuple[int, int]:
    """Width and height, from the first bits of the codestream."""
    start = 0
    if not data.startswith(b"\xff\x0a"):
        box = min((at for at in (data.find(b"jxlc"), data.find(b"jxlp")) if at >= 0), default=-1)
        start = data.find(b"\xff\x0a", box, box + 16) if box >= 0 else -1
    if start < 0:
        raise ValueError("it has no JPEG XL codestream")
    bits, place = int.from_bytes(data[start + 2 : start + 18], "little"), 0

    def read(count: int) -> int:
        nonlocal place
        found = bits >> place & (1 << count) - 1
        place += count
        return found

    is_small = read(1)

    def side() -> int:
        return 8 * (read(5) + 1) if is_small else read((9, 13, 18, 30)[read(2)]) + 1

    height, ratio = side(), read(3)
    if ratio:
        return height * _RATIOS[ratio - 1][0] // _RATIOS[ratio - 1][1], height
    return side(), height


def check_size(width: int, height: int, pixel_cap: int) -> None:
    """Raise ValueError for an image of more pixels than the cap."""
    if width * height > pixel_cap:
        raise ValueError(f"it has {width} x {height} pixels, more than the cap of {pixel_cap:,}")
