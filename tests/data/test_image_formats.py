"""Formats by content, whatever files are called, and formats that need a package."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, features

import attngraft as ag
from attngraft.data import UnreadableImageError, load_data, read_image
from attngraft.data.image_formats import format_of, format_of_file
from attngraft.errors import DataError

HEIC = b"\0\0\0\x18ftypheic" + b"\0" * 64


def noise(seed: int = 0, side: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3)).astype(np.uint8)


def encoded(kind: str, pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def two_classes(root: Path, name: str = "{}.png", count: int = 6, kind: str = "PNG") -> Path:
    for number, label in enumerate(("a", "b")):
        (root / label).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / label / name.format(i)).write_bytes(encoded(kind, noise(100 * number + i)))
    return root


def images_in(root: Path) -> int:
    data = load_data(root, image_size=32)
    return len(data.train) + len(data.test)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"])
def test_formats_are_known_by_their_first_bytes(kind: str) -> None:
    assert format_of(encoded(kind, noise())[:32]) is not None


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"<svg>", b"PK\3\4", b"BM", b"\0\0\0\x18ftypmp42", b"%PDF-1.4"])
def test_other_content_is_no_image(content: bytes) -> None:
    assert format_of(content) is None


@pytest.mark.parametrize("name", ["IMG_{}", "{}.jpg_large", "frame.{:04d}", "{}.JPG!d", "{}.jpeg?w=300"])
def test_names_that_say_no_format_are_images_by_their_content(tmp_path: Path, name: str) -> None:
    root = two_classes(tmp_path / "d", name)
    (root / "a" / "README").write_text("no image")
    assert images_in(root) == 12
    assert len(ag.predict(ag.create_backbone("small-cnn", num_classes=2), root).ids) == 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_a_wrong_extension_does_not_matter(tmp_path: Path, kind: str) -> None:
    assert images_in(two_classes(tmp_path / "d", "{}.bmp", kind=kind)) == 12


def test_images_under_names_of_other_formats_are_counted(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "d")
    (root / "a" / "x.dat").write_bytes(encoded("PNG", noise(7)))
    notes = load_data(root, image_size=32).report.notes
    assert any("1 of them hold images under names of other formats (a/x.dat)" in note for note in notes)


def test_a_class_of_nothing_else_says_so(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "d")
    (root / "c").mkdir()
    (root / "c" / "x.nef").write_bytes(encoded("TIFF", noise()))
    with pytest.raises(DataError, match=r"files such as c/x.nef hold images under names of other formats"):
        load_data(root, image_size=32)


def test_what_blocks_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert format_of_file(tmp_path / "pipe") is None
    assert format_of_file(tmp_path / "nothing") is None


# --- formats that need a package -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["IMG_{}.HEIC", "{}.heif", "{}.jpg", "IMG_{}"])
def test_a_class_of_heic_images_is_never_lost(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    root = two_classes(tmp_path / "d")
    for i in range(6):
        (root / "b" / f"{i}.png").unlink()
        (root / "b" / name.format(i)).write_bytes(HEIC)
    with pytest.raises(
        DataError, match=r"it is a HEIC image, which needs pillow-heif \(pip install attngraft\[heif\]\)"
    ):
        load_data(root, image_size=32)


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    (tmp_path / "x.jxl").write_bytes(b"\xff\x0a" + b"\0" * 40)
    with pytest.raises(UnreadableImageError, match=r"needs imagecodecs \(pip install attngraft\[jxl\]\)"):
        read_image(tmp_path / "x.jxl")


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("shape", [(30, 50, 3), (64, 64, 3), (40, 24, 4), (17, 300)])
def test_jpeg_xl(tmp_path: Path, container: bool, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    if shape[2:] == (4,):
        pixels[..., 3] = 255
    (tmp_path / "x.jxl").write_bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, usecontainer=container))
    wanted = np.repeat(pixels[:, :, None], 3, axis=2) if len(shape) == 2 else pixels[..., :3]
    np.testing.assert_array_equal(read_image(tmp_path / "x.jxl"), wanted)
    height, width = shape[:2]
    with pytest.raises(UnreadableImageError, match=f"it has {width} x {height} pixels, more than the cap of 100"):
        read_image(tmp_path / "x.jxl", pixel_cap=100)


@pytest.mark.parametrize("content", [b"\xff\x0a", b"\xff\x0a" + b"\xff" * 60, b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 40])
def test_damaged_jpeg_xl_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jxl").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"x\.jxl cannot be read"):
        read_image(tmp_path / "x.jxl")


@pytest.mark.skipif(not features.check("avif"), reason="an older Pillow")
def test_avif_is_read_by_pillow(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encoded("AVIF", noise()))
    assert format_of_file(tmp_path / "x") == "AVIF"
    assert read_image(tmp_path / "x").shape == (24, 32, 3)


def test_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    smooth = np.add.outer(np.arange(24) * 4, np.arange(32) * 3).astype(np.uint8)
    image = Image.fromarray(np.repeat(smooth[:, :, None], 3, axis=2))
    found = pillow_heif.from_pillow(image)
    found.save(tmp_path / "x.heic", quality=95)
    assert np.abs(read_image(tmp_path / "x.heic").astype(int) - np.asarray(image)).mean() < 6
    with pytest.raises(UnreadableImageError, match="more than the cap"):
        read_image(tmp_path / "x.heic", pixel_cap=100)
    (tmp_path / "broken.heic").write_bytes(HEIC)
    with pytest.raises(UnreadableImageError, match=r"broken\.heic cannot be read"):
        read_image(tmp_path / "broken.heic")
