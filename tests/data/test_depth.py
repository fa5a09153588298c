"""Images of more than 8 bits: black and white of a data set, and what they do to pixels."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import attngraft as ag
from attngraft.config import Depth, Preprocessing, from_dict, to_dict
from attngraft.data import Dataset, load_data, load_images, load_labelled, read_image
from attngraft.data.any_image import decode_any
from attngraft.data.depth import DeepValues, choose_depth, levels_of, parse_depth
from attngraft.data.pixel_store import decode_files
from attngraft.errors import ConfigError, DataError
from attngraft.training import Evaluation

RNG = np.random.default_rng(0)
THERMAL = (51200 + 300 * RNG.random((40, 24, 24))).astype(np.uint16)
FIT: dict[str, Any] = {"recipe": "one-cycle", "epochs": 1, "image_size": 16, "batch_size": 8, "precision": "fp32"}


def folder_of(root: Path, images: np.ndarray, suffix: str = ".png", split: str = "") -> Path:
    """Half of the images in class a, half in b."""
    for number, image in enumerate(images):
        place = root / split / "ab"[number % 2] / f"{number}{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            np.save(place, image)
        elif suffix == ".tif":
            tifffile.imwrite(place, image, photometric="rgb" if image.ndim == 3 else "minisblack")
        elif image.ndim == 3:
            place.write_bytes(png_of_colours(image))
        else:
            Image.fromarray(image).save(place)
    return root


def png_of_colours(values: np.ndarray) -> bytes:
    """A PNG of 16 bits per colour, which Pillow does not write."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, bands = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def load(root: Path, **options: Any) -> Dataset:
    return load_data(root, image_size=32, **options)


def greys(data: Dataset) -> int:
    """Most grey levels of one image."""
    images = [data.train.image(i) for i in range(len(data.train))]
    return max(len(np.unique(image.numpy())) for image in images)


def chosen(*images: np.ndarray) -> Depth:
    return choose_depth([found for image in images if (found := levels_of(image)) is not None])[0]


# --- which range -------------------------------------------------------------------------------------------------


def spread(low: float, high: float, dtype: str = "uint16") -> np.ndarray:
    return np.linspace(low, high, 24 * 24).reshape(24, 24).astype(dtype)


@pytest.mark.parametrize(
    ("image", "integers"),
    [
        (spread(0, 65535), None),
        (spread(100, 20000), None),  # 16 bits, if not filled
        (spread(0, 255), (0, 255)),
        (spread(3, 240), (0, 255)),
        (spread(0, 1023), (0, 1023)),
        (spread(16, 4000), (0, 4095)),
        (spread(0, 16000), (0, 16383)),
        (spread(51200, 51500), (51200, 51500)),
        (spread(100, 110), (100, 110)),
        (spread(0, 1), (0, 1)),
        (spread(-1024, 3071, "int16"), (-1024, 3071)),
        (spread(0, 100000, "int32"), (0, 100000)),
        (spread(7000, 7000), None),
    ],
)
def test_whole_numbers_choose_their_bits_or_their_own_range(image: np.ndarray, integers: Any) -> None:
    assert chosen(image) == Depth(integers=integers)


@pytest.mark.parametrize(
    ("image", "floats"),
    [
        (spread(0, 1, "float32"), None),
        (spread(0.2, 0.9, "float64"), None),
        (spread(0, 255, "float32"), (0, 255)),
        (spread(0, 60000, "float32"), (0, 65535)),
        (spread(-1, 1, "float32"), (-1, 1)),
        (spread(20, 21, "float64"), (20, 21)),
        (np.zeros((24, 24), np.float32), None),
    ],
)
def test_floats_choose_theirs(image: np.ndarray, floats: Any) -> None:
    assert chosen(image) == Depth(floats=floats)


def test_the_images_of_a_set_have_one_range() -> None:
    assert chosen(spread(0, 100), spread(900, 1000), spread(500, 500)) == Depth(integers=(0, 1023))
    assert chosen(spread(0, 255), spread(0, 1, "float32")) == Depth(integers=(0, 255))


def test_hot_and_dead_pixels_do_not_decide() -> None:
    hot = THERMAL[0].copy()
    hot[3, 4], hot[5, 6] = 65535, 0
    found = chosen(*THERMAL, hot).integers
    assert found is not None
    assert 51200 <= found[0] < found[1] <= 51500
    assert "outliers" in choose_depth([levels for image in (*THERMAL, hot) if (levels := levels_of(image))])[1][0]
    square = np.zeros((24, 24), np.uint16)
    square[3:5, 3:5] = 65535  # all that there is
    assert chosen(square) == Depth()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("auto", None),
        ("8", Depth(integers=(0, 255))),
        (12, Depth(integers=(0, 4095))),
        (16, Depth()),
        ("0:4095", Depth((0, 4095), (0, 4095))),
        ((-1024, 3071), Depth((-1024, 3071), (-1024, 3071))),
        ([0.5, 1], Depth((0.5, 1), (0.5, 1))),
        (Depth(floats=(0, 2)), Depth(floats=(0, 2))),
    ],
)
def test_what_may_be_chosen(given: Any, found: Depth | None) -> None:
    assert parse_depth(given) == found


@pytest.mark.parametrize("given", ["17", "0", "x", "5:5", "9:1", "0:inf", "1:2:3", "nan:1", (1,), -8, 8.5, "", True])
def test_other_depths_are_one_sentence(given: Any) -> None:
    with pytest.raises(ConfigError, match="expected auto, bits from 1 to 16"):
        parse_depth(given)


# --- data sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_thermal_images_keep_their_greys_and_are_no_copies(tmp_path: Path, suffix: str) -> None:
    data = load(folder_of(tmp_path / "d", THERMAL, suffix))
    assert greys(data) > 150
    assert data.report.duplicates == 0
    assert not data.report.leaks
    assert len({*data.train.pixel_hashes, *data.test.pixel_hashes}) == 40
    assert any("becomes black" in note for note in data.report.notes)
    assert data.depth.integers == (THERMAL.min(), THERMAL.max())


def test_other_values_are_other_images_even_where_they_look_equal(tmp_path: Path) -> None:
    flat = np.stack([np.full((24, 24), 1000 + i, np.uint16) for i in range(20)] + [spread(0, 16383)] * 2)
    data = load(folder_of(tmp_path / "d", flat))
    assert len({*data.train.pixel_hashes, *data.test.pixel_hashes}) == 21


def test_sixteen_bits_that_are_filled_are_as_before(tmp_path: Path) -> None:
    images = RNG.integers(0, 65536, (20, 24, 24)).astype(np.uint16)
    root = folder_of(tmp_path / "d", images)
    found, before = load(root), load(root, depth=16)
    assert found.depth == Depth()
    assert found.fingerprint == before.fingerprint
    assert all((a == b).all() for a, b in zip(found.train.store.shapes, before.train.store.shapes, strict=True))
    assert np.array_equal(found.train.image(0), before.train.image(0))


def test_eight_bit_values_in_sixteen_bits_are_those_of_an_eight_bit_file(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (20, 24, 24)).astype(np.uint16)
    deep, shallow = load(folder_of(tmp_path / "a", images)), load(folder_of(tmp_path / "b", images.astype(np.uint8)))
    position = shallow.train.ids.index(deep.train.ids[0]) if deep.train.ids[0] in shallow.train.ids else None
    other = shallow.train if position is not None else shallow.test
    position = other.ids.index(deep.train.ids[0])
    assert np.array_equal(deep.train.image(0), other.image(position))


def test_files_of_eight_bits_among_others_stay_as_they_are(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", THERMAL[:20])
    folder_of(tmp_path / "d", RNG.integers(0, 256, (20, 24, 24)).astype(np.uint8), ".bmp")
    data = load(root)
    assert "20 images have values" in " ".join(data.report.notes)
    position = next(i for i, name in enumerate(data.train.ids) if name.endswith(".bmp"))
    assert np.array_equal(data.train.image(position)[0], np.asarray(Image.open(root / data.train.ids[position])))


def test_the_test_images_that_the_data_name_do_not_decide(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", THERMAL, split="train")
    folder_of(tmp_path / "d", RNG.integers(0, 65536, (10, 24, 24)).astype(np.uint16), split="test")
    assert load(root).depth.integers == (THERMAL.min(), THERMAL.max())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [3, 4])
def test_colours_of_twelve_bits(tmp_path: Path, suffix: str, bands: int) -> None:
    images = RNG.integers(0, 4096, (12, 24, 24, bands)).astype(np.uint16)
    if bands == 4:
        images[..., 3] = 65535
    data = load(folder_of(tmp_path / "d", images, suffix))
    assert data.depth == Depth(integers=(0, 4095))
    first = images[int(Path(data.train.ids[0]).stem)][..., :3]
    assert np.array_equal(data.train.image(0).permute(1, 2, 0), np.rint(first * (255 / 4095)).astype(np.uint8))


def test_colours_that_fill_sixteen_bits_are_as_pillow_reads_them(tmp_path: Path) -> None:
    images = RNG.integers(0, 65536, (12, 24, 24, 3)).astype(np.uint16)
    data = load(folder_of(tmp_path / "d", images))
    assert data.depth == Depth()
    assert np.array_equal(data.train.image(0).permute(1, 2, 0), images[int(Path(data.train.ids[0]).stem)] >> 8)


@pytest.mark.parametrize("channels", [1, 2])
def test_other_channels_are_scaled_in_sixteen_bits(tmp_path: Path, channels: int) -> None:
    images = THERMAL if channels == 1 else np.stack([THERMAL, THERMAL[::-1]], axis=-1)
    data = load(folder_of(tmp_path / "d", images, ".npy"), channels=channels)
    pixels = data.train.image(0)
    assert pixels.dtype.is_floating_point
    assert 0 <= pixels.min() < 0.1
    assert 0.9 < pixels.max() <= 1


def test_floats_are_read_by_their_range_or_the_one_that_is_given(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", (RNG.random((20, 24, 24)) * 30 - 10).astype(np.float32), ".tif")
    found = load(root).depth.floats
    assert found is not None
    assert -10 < found[0] < -9.9 < 19.9 < found[1] < 20
    assert load(root, depth="-40:60").depth.floats == (-40, 60)
    with pytest.raises(DataError, match=r"its float values run from -.*expected 0 to 1"):
        load(root, depth=8)


def test_a_data_set_in_python(tmp_path: Path) -> None:
    labels = [i % 2 for i in range(len(THERMAL))]
    by_array = load(list(zip(THERMAL, labels, strict=True)))  # type: ignore[arg-type]
    by_image = load([(Image.fromarray(image), label) for image, label in zip(THERMAL, labels, strict=True)])  # type: ignore[arg-type]
    assert by_array.depth == by_image.depth == Depth(integers=(THERMAL.min(), THERMAL.max()))
    signed = [(image.astype(np.int32) - 60000, label) for image, label in zip(THERMAL, labels, strict=True)]
    assert load(signed).depth.integers == (float(THERMAL.min()) - 60000, float(THERMAL.max()) - 60000)  # type: ignore[arg-type]


def test_the_cache_keeps_what_decides(tmp_path: Path) -> None:
    paths = sorted(folder_of(tmp_path / "d", THERMAL[:4]).glob("*/*"))
    options: dict[str, Any] = {"limit": 20, "pixel_cap": 10**6, "cache_dir": tmp_path / "c", "memory_bytes": 0}
    first, again = decode_files(paths, **options), decode_files(paths, **options)
    assert len(first.levels) == 4
    assert first.levels == again.levels
    narrow = decode_files(paths, depth=Depth(integers=(51200, 51500)), **options)
    assert not np.array_equal(narrow.store.image(0), first.store.image(0))
    assert narrow.hashes != first.hashes


# --- runs --------------------------------------------------------------------------------------------------------


def run_of(tmp_path: Path, **options: Any) -> tuple[Path, Path]:
    root = folder_of(tmp_path / "d", THERMAL[:24], split="train")
    folder_of(tmp_path / "d", THERMAL[24:], split="test")
    model = ag.create_backbone("small-cnn", num_classes=2)
    ag.fit(model, root, run_dir=tmp_path / "run", **FIT | options)
    return tmp_path / "run", root


def test_a_run_reads_all_later_images_by_its_range(tmp_path: Path) -> None:
    run, root = run_of(tmp_path)
    record = json.loads((run / "run.json").read_text())
    limits = (float(THERMAL[:24].min()), float(THERMAL[:24].max()))
    assert from_dict(Preprocessing, record["preprocessing"]).depth == Depth(integers=limits)
    kept = Evaluation.read(run / "predictions.safetensors").probabilities
    found = ag.predict(run, root / "test", batch_size=64)
    np.testing.assert_array_equal(found.probabilities, kept)
    arrays = [np.asarray(Image.open(path)) for path in sorted((root / "test").glob("*/*"))]
    np.testing.assert_allclose(np.sort(ag.predict(run, arrays).probabilities, 0), np.sort(kept, 0), atol=1e-5)
    wanted = {"image_size": 16, "depth": Depth(integers=limits)}
    assert (
        load_images(root / "test", ("a", "b"), **wanted).pixel_hashes
        == load_data(root, image_size=16).test.pixel_hashes
    )
    assert len(load_labelled(root, ("a", "b"), **wanted)[0]) == 40
    run_of(tmp_path)  # it goes on


def test_values_beyond_the_range_are_clipped_and_said(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path)
    bright, usual = np.full((24, 24), 60000, np.uint16), np.full((24, 24), 51400, np.uint16)
    found = ag.predict(run, [usual, bright, np.full((24, 24), 51500, np.uint16)])
    assert "of 3 images have values beyond" in found.notes[0]
    assert ag.predict(run, usual).notes == ()


def test_a_run_that_was_begun_without_a_range_goes_on_without(tmp_path: Path) -> None:
    run, root = run_of(tmp_path, depth=16)
    assert "depth" not in json.loads((run / "run.json").read_text())["preprocessing"]
    model = ag.create_backbone("small-cnn", num_classes=2)
    ag.fit(model, root, run_dir=run, **FIT)
    with pytest.raises(ag.AttngraftError, match="another preprocessing"):
        ag.fit(model, root, run_dir=run, **FIT, depth="51000:52000")


def test_a_comparison_has_one_range(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", THERMAL)
    ag.compare(root, backbone="small-cnn", attentions=["none"], seeds=1, run_dir=tmp_path / "c", controls=[], **FIT)
    record = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert record["preprocessing"]["depth"]["integers"] == [THERMAL.min(), THERMAL.max()]


def test_the_range_is_written_only_where_there_is_one() -> None:
    assert "depth" not in to_dict(Preprocessing())
    found = Preprocessing(depth=Depth(integers=(3, 9)))
    assert from_dict(Preprocessing, to_dict(found)) == found
    with pytest.raises(ConfigError, match="expected a finite low"):
        Depth(integers=(9, 3))


# --- white is zero -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float32", "bool"])
@pytest.mark.parametrize("channels", [1, 3])
def test_white_is_zero_is_inverted_in_every_depth(tmp_path: Path, dtype: str, channels: int) -> None:
    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    highest = {"uint8": 255, "uint16": 65535, ">u2": 65535, "float32": 1, "bool": 1}[dtype]
    values = (np.rint(ramp * highest) if dtype != "float32" else ramp).astype(dtype)
    for name, photometric in (("white", "miniswhite"), ("black", "minisblack")):
        order = {"byteorder": ">"} if dtype == ">u2" else {}
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric=photometric, **order)
    white, black = (read_image(tmp_path / f"{name}.tif", channels=channels) for name in ("white", "black"))
    top = 1 if black.dtype == np.float32 else np.iinfo(black.dtype).max
    np.testing.assert_allclose(white.astype(float), top - black.astype(float), atol=1e-6)
    assert black.max() == top


def test_white_is_zero_with_a_range(tmp_path: Path) -> None:
    values = np.array([[1000, 1500, 2000]], np.uint16)
    tifffile.imwrite(tmp_path / "w.tif", values, photometric="miniswhite")
    assert read_image(tmp_path / "w.tif", depth=Depth(integers=(1000, 2000)))[0, :, 0].tolist() == [255, 127, 0]


def test_twelve_bits_packed_and_big_endian(tmp_path: Path) -> None:
    ramp = np.linspace(0, 4095, 256).reshape(16, 16).astype(np.uint16)
    tifffile.imwrite(tmp_path / "b.tif", ramp, byteorder=">")
    held = io.BytesIO((tmp_path / "b.tif").read_bytes())
    assert np.asarray(Image.open(held)).max() == 4095
    assert read_image(tmp_path / "b.tif", depth=Depth(integers=(0, 4095)))[..., 0].max() == 255


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colours_of_twelve_bits_have_the_same_pixels_through_every_door(tmp_path: Path, suffix: str) -> None:
    images = RNG.integers(0, 4096, (1, 24, 24, 3)).astype(np.uint16)
    path = next(folder_of(tmp_path / "d", images, suffix).glob("*/*"))
    depth = Depth(integers=(0, 4095))
    wanted = read_image(path, depth=depth)
    assert len(np.unique(wanted)) > 200
    content = path.read_bytes()
    for door in (content, io.BytesIO(content), Image.open(io.BytesIO(content))):
        np.testing.assert_array_equal(decode_any(door, deep=DeepValues(depth)), wanted)


def test_sixteen_bit_grey_has_the_same_pixels_as_an_array_and_as_a_file(tmp_path: Path) -> None:
    Image.fromarray(THERMAL[0]).save(tmp_path / "x.png")
    for depth in (Depth(), Depth(integers=(51200, 51500))):
        wanted = read_image(tmp_path / "x.png", depth=depth)
        for door in (THERMAL[0], THERMAL[0][:, :, None], THERMAL[0][None], THERMAL[0].astype(">u2")):
            np.testing.assert_array_equal(decode_any(door, deep=DeepValues(depth)), wanted)
