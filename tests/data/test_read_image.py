"""What the disk may hold, and what becomes of it."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from attngraft.data import UnreadableImageError, read_image
from attngraft.data.read_image import _count_scans
from attngraft.errors import DataError


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def grey_ramp(mode_dtype: str, values: list[int]) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=mode_dtype))


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 6, y * 8, x + y], axis=-1).astype(np.uint8))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows, 9)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_rgb_comes_back_as_it_was(tmp_path: Path) -> None:
    image = gradient()
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.png", image)), np.asarray(image))


def test_grey_is_repeated(tmp_path: Path) -> None:
    pixels = read_image(saved(tmp_path / "a.png", grey_ramp("uint8", [0, 7, 255])))
    assert pixels.tolist() == [[[0, 0, 0], [7, 7, 7], [255, 255, 255]]]


def test_one_bit(tmp_path: Path) -> None:
    pixels = read_image(saved(tmp_path / "a.png", grey_ramp("uint8", [0, 255, 255]).convert("1")))
    assert pixels[0, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path, name: str) -> None:
    # v / 257 to the nearest: 128 / 257 = 0.498, 129 / 257 = 0.502, 257 * 100 = 25700
    path = saved(tmp_path / name, grey_ramp("uint16", [0, 128, 129, 25700, 65406, 65535]))
    assert read_image(path)[0, :, 1].tolist() == [0, 0, 1, 100, 254, 255]


def test_big_endian_sixteen_bit_tiff(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", grey_ramp(">u2", [0, 25700, 65535]))
    assert read_image(path)[0, :, 2].tolist() == [0, 100, 255]


def test_wide_integers_are_read_as_sixteen_bit_or_refused(tmp_path: Path) -> None:
    assert read_image(saved(tmp_path / "a.tif", grey_ramp("int32", [0, 65535])))[0, :, 0].tolist() == [0, 255]
    with pytest.raises(DataError, match="from 0 to 70000, expected 0 to 65535"):
        read_image(saved(tmp_path / "b.tif", grey_ramp("int32", [0, 70000])))


def test_floats_between_zero_and_one_are_scaled(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert read_image(saved(tmp_path / "a.tif", image))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("values", [[0.0, 255.0], [-1.0, 1.0], [0.0, float("nan")], [0.0, float("inf")]])
def test_other_floats_are_refused(tmp_path: Path, values: list[float]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    with pytest.raises(UnreadableImageError, match="float values"):
        read_image(saved(tmp_path / "a.tif", image))


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    # 100 * 128/255 + 255 * 127/255 = 177.2;  0 * 64/255 + 255 * 191/255 = 191
    rgba = np.array([[[100, 0, 255, 128], [0, 0, 0, 64], [9, 9, 9, 0], [9, 8, 7, 255]]], dtype=np.uint8)
    pixels = read_image(saved(tmp_path / "a.png", Image.fromarray(rgba)))
    assert pixels[0].tolist() == [[177, 127, 255], [191, 191, 191], [255, 255, 255], [9, 8, 7]]


def test_grey_with_transparency(tmp_path: Path) -> None:
    la = Image.merge("LA", (grey_ramp("uint8", [0, 0, 50]), grey_ramp("uint8", [0, 64, 255])))
    assert read_image(saved(tmp_path / "a.png", la))[0, :, 0].tolist() == [255, 191, 50]


def palette_image() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    return image


def test_palette(tmp_path: Path) -> None:
    assert read_image(saved(tmp_path / "a.png", palette_image()))[0].tolist() == [
        [10, 20, 30],
        [200, 100, 0],
        [0, 0, 255],
    ]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    path = saved(tmp_path / "a.png", palette_image(), transparency=transparency)
    assert read_image(path)[0].tolist() == [[10, 20, 30], [255, 255, 255], [0, 0, 255]]


def test_transparent_colour_of_an_rgb_png(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    path = saved(tmp_path / "a.png", image, transparency=(1, 2, 3))
    assert read_image(path)[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    pixels = read_image(saved(tmp_path / "a.jpg", image, quality=95))
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 3


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "green", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    pixels = read_image(path)
    assert pixels.shape == (6, 8, 3)
    assert (pixels == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a.transpose(1, 0, 2)[::-1, ::-1]),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_exif_orientation(
    tmp_path: Path, name: str, orientation: int, upright: Callable[[np.ndarray], np.ndarray]
) -> None:
    image = gradient(5, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_image(saved(tmp_path / name, image, exif=exif.tobytes()))
    np.testing.assert_array_equal(pixels, upright(np.asarray(image)))


def test_damaged_exif_does_no_harm(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", gradient(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03")
    assert read_image(path).shape == (30, 40, 3)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.webp"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, name: str, part: float) -> None:
    whole = saved(tmp_path / f"whole-{name}", gradient(120, 90)).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    assert caught.value.path == path
    assert caught.value.reason in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not in a known image format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not in a known image format"),
        (os.urandom(2000), "not in a known image format"),
    ],
)
def test_files_that_are_not_images(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_image(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        read_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("side", [13_000, 20_000])
def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(side, side, bytes(side * (side // 8 + 1))))
    assert path.stat().st_size < 60_000
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self))
    with pytest.raises(DataError, match="pixels"):
        read_image(path)
    assert decoded == []


def test_the_cap_counts_pixels(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", gradient(40, 30))
    assert read_image(path, pixel_cap=1200).shape == (30, 40, 3)
    with pytest.raises(DataError, match="40 x 30 pixels, more than the cap of 1,199"):
        read_image(path, pixel_cap=1199)


def test_a_damaged_text_block_stays_one_sentence(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    gradient().save(buffer, format="PNG")
    text = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 9))
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue()[:33] + text + buffer.getvalue()[33:])
    with pytest.raises(DataError, match=r"cannot be read as an image: [^\n]+\.$"):
        read_image(path)


def test_line_breaks_in_a_path_do_not_break_the_message(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "new\nline.jpg")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("progressive", [False, True])
def test_what_follows_a_jpeg_is_no_part_of_it(tmp_path: Path, progressive: bool) -> None:
    """Telephones put a film behind a photograph, in which any bytes can stand."""
    photo = saved(tmp_path / "a.jpg", gradient(400, 300), quality=95, progressive=progressive)
    expected = read_image(photo)
    photo.write_bytes(photo.read_bytes() + b"\xff\xda\x00\x04" * 300_000)
    assert np.array_equal(read_image(photo, pixel_cap=120_000), expected)


def test_scans_are_counted_across_the_parts_in_which_a_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    gradient(200, 150).save(stream, "JPEG", quality=90, progressive=True, comment=b"\xff\xda" * 999)
    counts = []
    for size in (1, 2, 3, 7, 64, 1 << 20):
        monkeypatch.setattr(sys.modules["attngraft.data.read_image"], "_CHUNK", size)
        counts.append(_count_scans(stream))
    assert set(counts) == {10}  # of libjpeg's usual script for colours
