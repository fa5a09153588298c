"""Odd images have one prediction through every door: path, bytes, open file, PIL image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import attngraft as ag

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 52, 3)).astype(np.uint8)
RGB, GREY = Image.fromarray(PIXELS), Image.fromarray(PIXELS[:, :, 0])
ALPHA = Image.fromarray(np.dstack([PIXELS, PIXELS[:, :, 1]]))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def palette_with_transparency() -> Image.Image:
    image = RGB.quantize(8)
    image.info["transparency"] = 3
    return image


def premultiplied() -> Image.Image:
    return ALPHA.convert("RGBa").convert("RGBA")


SAVED: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
    "cmyk": (RGB.convert("CMYK"), "JPEG", {}),
    "grey and alpha": (ALPHA.convert("LA"), "PNG", {}),
    "palette": (RGB.quantize(16), "PNG", {}),
    "transparent palette": (palette_with_transparency(), "PNG", {"transparency": 3}),
    "transparent": (premultiplied(), "PNG", {}),
    "one bit": (GREY.convert("1"), "PNG", {}),
    "one bit fax": (GREY.convert("1"), "TIFF", {"compression": "group4"}),
    "16 bits": (Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 200), "PNG", {}),
    "16 bits tiff": (Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 200), "TIFF", {}),
    "floats": (Image.fromarray(PIXELS[:, :, 0].astype(np.float32) / 255), "TIFF", {}),
    "lab": (RGB.convert("LAB"), "TIFF", {}),
    "ycbcr": (RGB.convert("YCbCr"), "JPEG", {}),
    "animation": (RGB.quantize(16), "GIF", {"save_all": True, "append_images": [GREY.quantize(16)]}),
    "animated webp": (RGB, "WEBP", {"save_all": True, "append_images": [ALPHA.convert("RGB")], "lossless": True}),
    "animated png": (RGB, "PNG", {"save_all": True, "append_images": [GREY.convert("RGB")]}),
    "pages": (RGB, "TIFF", {"save_all": True, "append_images": [GREY.convert("RGB")]}),
    "progressive": (RGB, "JPEG", {"progressive": True}),
    "interlaced": (RGB, "PNG", {"interlace": True}),
    "netpbm": (GREY, "PPM", {}),
    **{f"turned {n}": (RGB, "JPEG", {"exif": turned(n), "quality": 95}) for n in range(2, 9)},
    "turned png": (RGB, "PNG", {"exif": turned(8)}),
    "turned webp": (RGB, "WEBP", {"exif": turned(3), "lossless": True}),
    "turned tiff": (RGB, "TIFF", {"exif": turned(6)}),
}


@pytest.fixture(scope="module")
def models() -> dict[int, torch.nn.Module]:
    return {n: ag.create_backbone("small-cnn", num_classes=2, in_channels=n).eval() for n in (1, 3)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SAVED)
def test_every_door_leads_to_the_same_prediction(
    tmp_path: Path, name: str, channels: int, models: dict[int, torch.nn.Module]
) -> None:
    image, kind, options = SAVED[name]
    image.save(tmp_path / "x", kind, **options)
    content = (tmp_path / "x").read_bytes()
    with (tmp_path / "x").open("rb") as file, Image.open(io.BytesIO(content)) as opened:
        found = ag.predict(models[channels], [tmp_path / "x", content, file, opened]).probabilities
        assert not file.closed
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, np.broadcast_to(found[:1], found.shape))


def test_white_is_zero_through_every_door(tmp_path: Path, models: dict[int, torch.nn.Module]) -> None:
    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(tmp_path / "x.tif", PIXELS[:, :, 0].astype(dtype), photometric="miniswhite")
        content = (tmp_path / "x.tif").read_bytes()
        opened = Image.open(io.BytesIO(content))
        found = ag.predict(models[3], [tmp_path / "x.tif", content, opened]).probabilities
        np.testing.assert_array_equal(found, np.broadcast_to(found[:1], found.shape))
