"""Read one image file safely, as an array, or raise one sentence."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from ..config import DEFAULT_DEPTH, Depth
from ..errors import DataError, one_line
from .deep_colours import deep_colours
from .depth import DeepValues
from .image_formats import HEAD_BYTES, format_of, open_rare
from .read_bands import GREY_MODES, NPY_MAGIC, TIFF_MAGICS, from_pillow, read_npy, read_tiff

PIXEL_CAP = 100_000_000
EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff"),
        *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif", ".hif", ".jxl"),
    )
)
# Only formats of pixels: Pillow would otherwise hand EPS files to Ghostscript, whatever their extension says.
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_BYTES_PER_PIXEL = 3  # of arrays, as of RGB
_MOST_BYTES_PER_PIXEL = 8  # four channels of 16 bits, not compressed
_MOST_METADATA_BYTES = 64 << 20
_MOST_SCANS = 16  # of a JPEG with as many pixels as the cap allows; programs write about ten
_STRIP_PIXELS = 4 << 20  # converted at once, so that one copy of a large image is held and not five
_CHUNK = 1 << 20
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
# of JPEG: FF 00 and FF D0 to D7 stand within the data of a scan, D8 and 01 have no length
_JPEG_MARK, _SCAN, _END = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]"), b"\xff\xda", b"\xff\xd9"


class UnreadableImageError(DataError):
    """One image file that cannot be read; carries the path and the reason."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{printable(path)} cannot be read as an image: {reason}.")
        self.path = path
        self.reason = reason


def extensions_of(channels: int) -> frozenset[str]:
    """Names of what folders hold as images: .npy files only where images are not RGB, as they may be anything."""
    return EXTENSIONS if channels == 3 else EXTENSIONS | {".npy"}


def printable(path: str | Path) -> str:
    """The path for a message: as it is, or quoted with escapes where it would break the line."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def read_image(
    path: str | Path, *, channels: int = 3, pixel_cap: int = PIXEL_CAP, depth: Depth = DEFAULT_DEPTH
) -> np.ndarray:
    """Decode one image file as people see it.

    EXIF orientation is applied, and of an animation the first frame is taken. With three channels, transparency is laid
    on white and 16-bit grey is scaled to 8 bits. With other numbers, and from .npy files, values are kept as they are:
    uint8, uint16 or float32.

    Args:
        path: the file.
        channels: 3 for RGB; 1 and 4 also from other image files (grey, RGBA), further ones from .npy and TIFF files.
        pixel_cap: largest width x height that is decoded; checked on the header, before memory is taken. Decoding
            takes about 11 bytes per pixel at most. Other arrays may have 3 bytes for each pixel of the cap.
        depth: black and white of images of more than 8 bits.

    Returns:
        (H, W, C), uint8 for RGB from image files.

    Raises:
        UnreadableImageError: the file is missing, damaged, too large or not an image (a DataError).
    """
    with pillow_warnings_ignored():
        pixels = decode(path, pixel_cap, channels=channels, deep=DeepValues(depth))
    assert pixels is not None
    return pixels


@contextmanager
def pillow_warnings_ignored() -> Iterator[None]:
    """Silence Pillow's remarks on odd files.

    Python keeps warning filters per process, so a pool of threads is wrapped once from outside.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(
    source: str | Path | IO[bytes],
    pixel_cap: int,
    postpone_above: int | None = None,
    channels: int = 3,
    name: str | None = None,
    deep: DeepValues | None = None,
) -> np.ndarray | None:
    """`read_image` without the filter for warnings, to be called from several threads.

    Args:
        source: a path, or a file that is open, which stays so.
        postpone_above: return None for images of more pixels than this, so that they can be decoded one at a time.
        name: for messages, of a file without a path.
        deep: what becomes of values of more than 8 bits; it keeps which they are.
    """
    path, deep = source if isinstance(source, (str, Path)) else name or "the image", deep or DeepValues()
    try:
        with _opened(source, pixel_cap) if isinstance(source, (str, Path)) else nullcontext(source) as file:
            if not isinstance(source, (str, Path)):
                _check_bytes(file.seek(0, os.SEEK_END), path, pixel_cap)
                file.seek(0)
            head = file.read(HEAD_BYTES)
            file.seek(0)
            if head.startswith(NPY_MAGIC) or (head.startswith(TIFF_MAGICS) and channels not in (1, 3)):
                return _decode_bands(file, head, channels, pixel_cap, postpone_above, deep)
            try:
                return _decode_with_pillow(file, path, channels, pixel_cap, postpone_above, deep)
            except Image.UnidentifiedImageError:
                file.seek(0)
                if head.startswith(TIFF_MAGICS):
                    return _decode_rare_tiff(file, channels, pixel_cap, postpone_above, deep)
                kind = format_of(head)
                if kind not in ("HEIC", "JPEG XL", "AVIF"):
                    raise
                return _values(open_rare(file, kind, pixel_cap), channels, deep)
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImageError(path, "it has more pixels than Pillow accepts (about 179 million)") from None
    except Image.UnidentifiedImageError:
        raise UnreadableImageError(path, "its content is not in a known image format") from None
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise UnreadableImageError(path, _one_line(error)) from None


def _decode_with_pillow(
    file: IO[bytes],
    path: str | Path,
    channels: int,
    pixel_cap: int,
    postpone_above: int | None,
    deep: DeepValues,
) -> np.ndarray | None:
    with Image.open(file, formats=_known_formats()) as image:
        _check_size(image, pixel_cap, path)
        if postpone_above is not None and image.width * image.height > postpone_above:
            return None
        if image.format in ("JPEG", "MPO"):
            _check_scans(file, image, pixel_cap, path)
        colours = deep_colours(file, image, deep) if channels == 3 else None
        if colours is not None:
            return _to_rgb(colours, deep)
        inverted = _is_inverted(image)
        image.load()
        _turn_upright(image)
        return _values(image, channels, deep, inverted=inverted)


def pillow_pixels(image: Image.Image, channels: int, deep: DeepValues) -> np.ndarray:
    """An image that somebody else has opened as (H, W, C), with the same values as from a file; it is not changed.

    Raises:
        ValueError: it has another number of channels, or values without a meaning.
    """
    file, inverted = getattr(image, "fp", None), _is_inverted(image)
    if channels == 3 and file is not None:
        colours = deep_colours(file, image, deep)
        if colours is not None:
            return _to_rgb(colours, deep)
    image = image.copy()
    _turn_upright(image)
    return _values(image, channels, deep, inverted=inverted)


def _is_inverted(image: Image.Image) -> bool:
    """Whether zero is white in the values that Pillow gives; those of up to 8 bits it inverts itself."""
    return image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _values(image: Image.Image, channels: int, deep: DeepValues, *, inverted: bool = False) -> np.ndarray:
    if channels == 3:
        return _to_rgb(image, deep, inverted=inverted)
    if channels == 1 and (image.mode not in GREY_MODES or _is_transparent(image)):
        return np.asarray(Image.fromarray(_to_rgb(image, deep)).convert("L"))[:, :, None]
    return from_pillow(image, channels, deep, inverted=inverted)


def _decode_bands(
    file: IO[bytes],
    head: bytes,
    channels: int,
    pixel_cap: int,
    postpone_above: int | None,
    deep: DeepValues,
) -> np.ndarray | None:
    read = read_npy if head.startswith(NPY_MAGIC) else read_tiff
    most = _BYTES_PER_PIXEL * (pixel_cap if postpone_above is None else postpone_above)
    found = read(file, channels, most, deep)
    if found is None and postpone_above is None:
        raise ValueError(f"it has more than {_BYTES_PER_PIXEL * pixel_cap:,} bytes of values: cut it into parts")
    return found


def _decode_rare_tiff(
    file: IO[bytes], channels: int, pixel_cap: int, postpone_above: int | None, deep: DeepValues
) -> np.ndarray | None:
    """A TIFF file of a kind that Pillow does not know: grey, or as many bands as are wanted."""
    try:
        found = _decode_bands(file, b"", 1, pixel_cap, postpone_above, deep)
    except ValueError:
        file.seek(0)
        return _decode_bands(file, b"", channels, pixel_cap, postpone_above, deep)
    except Exception:  # it is damaged
        raise Image.UnidentifiedImageError from None
    if found is None or channels == 1:
        return found
    if channels != 3:
        raise ValueError(f"it is grey, expected {channels} channels")
    grey = found if found.dtype == np.uint8 else DeepValues().grey(found)
    return np.repeat(grey, 3, axis=2)


def _known_formats() -> tuple[str, ...]:
    if not all(name in Image.OPEN for name in _FORMATS):
        Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _opened(path: str | Path, pixel_cap: int) -> IO[bytes]:
    """The file, if it is a regular one of a sensible size: a pipe or device under an image's name would block for ever."""
    _check_file(os.stat(path), path, pixel_cap)
    # what was put in its place since must not block either
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(handle, "rb")
    try:
        _check_file(os.fstat(handle), path, pixel_cap)
    except UnreadableImageError:
        file.close()
        raise
    return file


def _check_file(status: os.stat_result, path: str | Path, pixel_cap: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError(path, "it is not a regular file")
    _check_bytes(status.st_size, path, pixel_cap)


def _check_bytes(count: int, path: str | Path, pixel_cap: int) -> None:
    if count == 0:
        raise UnreadableImageError(path, "the file is empty")
    most = _MOST_BYTES_PER_PIXEL * pixel_cap + _MOST_METADATA_BYTES
    if count > most:
        raise UnreadableImageError(path, f"it has {count:,} bytes, more than an image of {pixel_cap:,} pixels")


def _check_scans(file: IO[bytes], image: Image.Image, pixel_cap: int, path: str | Path) -> None:
    """Each scan of a progressive JPEG goes over all pixels, and one takes a few bytes: thousands would take hours."""
    place = file.tell()
    scans = _count_scans(file)
    file.seek(place)
    if scans * image.width * image.height > _MOST_SCANS * pixel_cap:
        raise UnreadableImageError(
            path, f"it has {scans} scans of {image.width} x {image.height} pixels, too much work"
        )


def _count_scans(file: IO[bytes]) -> int:
    """Scans of the first image of a JPEG file. What follows it does not count: telephones put a film there."""
    file.seek(2)
    scans, rest = 0, b""
    while chunk := file.read(_CHUNK):
        data, place = rest + chunk, 0
        while True:
            mark = _JPEG_MARK.search(data, place)
            if mark is None:
                rest = data[-1:]
                break
            if mark[0] == _END:
                return scans
            if mark.end() + 2 > len(data):
                rest = data[mark.start() :]
                break
            scans += mark[0] == _SCAN
            place = mark.end() + int.from_bytes(data[mark.end() : mark.end() + 2], "big")
            if place >= len(data):
                file.seek(place - len(data), os.SEEK_CUR)
                rest = b""
                break
    return scans


def _check_size(image: Image.Image, pixel_cap: int, path: str | Path) -> None:
    width, height = image.size
    if width * height == 0:
        raise UnreadableImageError(path, "it has no pixels")
    if width * height > pixel_cap:
        reason = f"it has {width} x {height} pixels, more than the cap of {pixel_cap:,}"
        raise UnreadableImageError(path, reason)


def _turn_upright(image: Image.Image) -> None:
    # A damaged EXIF block does not make the pixels worse.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image, deep: DeepValues, *, inverted: bool = False) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(deep.grey(np.asarray(image), inverted=inverted)[:, :, None], 3, axis=2)
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(image.height, top + rows)
        pixels[top:bottom] = _strip_to_rgb(image.crop((0, top, image.width, bottom)))
    return pixels


def _strip_to_rgb(image: Image.Image) -> np.ndarray:
    if _is_transparent(image):
        image = _on_white(image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied: Pillow converts it to its plain form only
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    background = Image.new("RGB", rgba.size, (255, 255, 255))
    background.paste(rgba, mask=rgba.getchannel("A"))
    return background


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(" ".join(text.split()).rstrip(".")) or type(error).__name__
