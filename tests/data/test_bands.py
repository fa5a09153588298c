"""Images of any number of channels, from files to batches; values are kept as they are."""

from __future__ import annotations

import io
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_folders import write_noise
from PIL import Image

from attngraft.config import Preprocessing
from attngraft.data import (
    ImageSet,
    UnreadableImageError,
    build_transform,
    joined,
    list_images,
    load_data,
    load_images,
    make_loader,
    read_image,
    rgb_preview,
)
from attngraft.data.near_duplicates.search import sketches
from attngraft.data.pixel_store import as_tensor, decode_array, decode_files, pixel_hash, shrink
from attngraft.errors import ConfigError, DataError

tifffile = pytest.importorskip("tifffile")


def bands(channels: int, dtype: str, seed: int = 0, size: tuple[int, int] = (10, 14)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return rng.normal(size=(*size, channels)).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, size=(*size, channels), dtype=dtype)


def npy(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return path


def tiff(path: Path, values: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, values, photometric="minisblack", **options)
    return path


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_they_are(tmp_path: Path, dtype: str, channels: int, order: str):
    values = bands(channels, dtype)
    for stored in (np.asarray(values, order=order), np.moveaxis(values, -1, 0)):  # type: ignore[call-overload]
        found = read_image(npy(tmp_path / "x.npy", stored), channels=channels)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, values)


def test_a_flat_array_has_one_channel_and_other_floats_become_single_precision(tmp_path: Path):
    values = bands(1, "float64")[..., 0]
    found = read_image(npy(tmp_path / "x.npy", values.astype(">f8")), channels=1)
    assert found.shape == (10, 14, 1)
    np.testing.assert_array_equal(found[..., 0], values.astype(np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [2, 4, 12])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"compression": "lzw"}, {"tile": (16, 16)}, {"bigtiff": True}], ids=str
)
def test_bands_of_a_tiff_are_read_as_they_are(tmp_path: Path, dtype: str, channels: int, options: dict[str, object]):
    values = bands(channels, dtype)
    for stored, planar in ((values, "contig"), (np.moveaxis(values, -1, 0), "separate")):
        path = tiff(tmp_path / "x.tif", stored, planarconfig=planar, **options)
        np.testing.assert_array_equal(read_image(path, channels=channels), values)


def test_pages_of_a_tiff_are_bands(tmp_path: Path):
    values = bands(5, "uint16")
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        for k in range(5):
            writer.write(values[..., k], photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif", channels=5), values)
    with pytest.raises(UnreadableImageError, match="expected height x width x 4"):
        read_image(tmp_path / "x.tif", channels=4)


@pytest.mark.parametrize(
    ("mode", "dtype", "channels"),
    [("L", "uint8", 1), ("I;16", "uint16", 1), ("F", "float32", 1), ("RGBA", "uint8", 4), ("1", "uint8", 1)],
)
def test_grey_and_rgba_files_keep_their_values(tmp_path: Path, mode: str, dtype: str, channels: int):
    values = bands(channels, dtype)
    if mode == "1":
        values = (values > 127).astype(np.uint8) * 255
    image = Image.fromarray(values[..., 0] if channels == 1 else values)
    image = image.convert("1") if mode == "1" else image
    image.save(tmp_path / "x.tif" if mode == "F" else tmp_path / "x.png")
    found = read_image(tmp_path / ("x.tif" if mode == "F" else "x.png"), channels=channels)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


def test_colours_become_luma_and_missing_alpha_is_opaque(tmp_path: Path):
    rgb = bands(3, "uint8")
    Image.fromarray(rgb).save(tmp_path / "x.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "x.png", channels=1)[..., 0], np.asarray(Image.fromarray(rgb).convert("L"))
    )
    found = read_image(tmp_path / "x.png", channels=4)
    np.testing.assert_array_equal(found[..., :3], rgb)
    assert (found[..., 3] == 255).all()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_turned_photographs_are_upright_in_any_number_of_channels(tmp_path: Path, channels: int):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "x.jpg", exif=exif)
    if channels == 2:
        with pytest.raises(UnreadableImageError, match="it is RGB of 3 channels, expected 2 channels"):
            read_image(tmp_path / "x.jpg", channels=2)
    else:
        assert read_image(tmp_path / "x.jpg", channels=channels).shape == (20, 10, channels)


def header(text: str, rest: bytes = b"") -> bytes:
    """A file with any header of NumPy's format 1."""
    line = text.encode() + b" " * ((-len(text) - 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + rest


def described(shape: str, descr: str = "'|u1'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (header(described("(4, 4, 12)")), r"it has 0 bytes of values where 192 are expected"),
        (header(described("(4, 4, 12)"), bytes(191)), r"it has 191 bytes of values where 192 are expected"),
        (header(described("(100000, 100000, 12)")), r"more than 3,000,000 bytes of values: cut it into parts"),
        (header(described(f"({1 << 62}, {1 << 62}, 12)")), "cut it into parts"),
        (header(described("(-4, 4, 12)")), "its shape is -4 x 4 x 12"),
        (header(described("(0, 4, 12)")), "its shape is 0 x 4 x 12"),
        (header(described("(4, 4)")), "its shape is 4 x 4, expected height x width x 12 or 12 x height x width"),
        (header(described("(4, 4, 3)")), "expected height x width x 12"),
        (header(described("(4, 4, 12)", "'|O'")), "its values are object, expected whole numbers or floats"),
        (header(described("(4, 4, 12)", "'<i4'")), "0 bytes of values"),
        (header(described("(4, 4, 12)", "'<c8'")), "its values are complex64"),
        (header(described("(4, 4, 12)", "[('a', '<u2')]")), "its values are"),
        (header("{'descr': __import__('os').getcwd()}"), "cannot be read"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "cannot be read"),
        (b"\x93NUMPY", "cannot be read"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", "cannot be read"),
        (b"II*\0\x08\0\0\0", "cannot be read"),
        (b"II*\0\xff\xff\xff\xff", "cannot be read"),
    ],
)
def test_hostile_headers_are_one_sentence(tmp_path: Path, content: bytes, told: str):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=told) as error:
        read_image(tmp_path / "x.npy", channels=12, pixel_cap=10**6)
    assert "\n" not in str(error.value)


def test_a_tiff_that_claims_gigabytes_is_not_decoded(tmp_path: Path):
    tiff(tmp_path / "x.tif", bands(12, "uint16"), planarconfig="contig", compression="zlib")
    raw = (tmp_path / "x.tif").read_bytes()
    for tag in (256, 257):  # width and height
        at = raw.index(struct.pack("<HH", tag, 4) if struct.pack("<HH", tag, 4) in raw else struct.pack("<HH", tag, 3))
        raw = raw[: at + 2] + struct.pack("<HII", 4, 1, 60_000) + raw[at + 12 :]
    (tmp_path / "x.tif").write_bytes(raw)
    with pytest.raises(UnreadableImageError, match="bytes of values: cut it into parts"):
        read_image(tmp_path / "x.tif", channels=12)


def test_values_that_are_not_finite_are_refused(tmp_path: Path):
    values = bands(2, "float32")
    values[3, 4, 1] = np.nan
    with pytest.raises(UnreadableImageError, match="values that are not finite"):
        read_image(npy(tmp_path / "x.npy", values), channels=2)
    with pytest.raises(UnreadableImageError, match="not finite"):
        read_image(npy(tmp_path / "x.npy", np.full((4, 4, 2), 1e300)), channels=2)


def test_without_tifffile_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tiff(tmp_path / "x.tif", bands(5, "uint8"), planarconfig="contig")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UnreadableImageError, match=r"pip install attngraft\[tiff\]"):
        read_image(path, channels=5)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, 400), st.sampled_from(["npy", "tiff"]), st.integers(0, 12))
def test_any_damage_is_an_image_or_a_sentence(tmp_path: Path, damage: bytes, at: int, kind: str, cut: int):
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, bands(2, "uint8"))
    else:
        tifffile.imwrite(stream, bands(2, "uint8"), photometric="minisblack", planarconfig="contig")
    raw = bytearray(stream.getvalue())
    raw[at : at + len(damage)] = damage
    (tmp_path / "x").write_bytes(bytes(raw[: len(raw) - cut]))
    try:
        shape = read_image(tmp_path / "x", channels=2, pixel_cap=10**5).shape
    except UnreadableImageError as error:
        shape = (0, 0, 2)
        said = str(error)
    else:
        said = ""
    assert shape[2] == 2
    assert "\n" not in said


# --- the store ---------------------------------------------------------------------------------------------------


def test_hashes_tell_types_and_channels_apart():
    same = np.zeros((2, 3, 3), dtype=np.uint8)
    others = [same.reshape(2, 9, 1), same.reshape(3, 2, 3), np.zeros((1, 1, 9), dtype=np.uint16)]
    others += [np.zeros((2, 3, 3), dtype=np.float32), np.zeros((2, 3, 3), dtype=np.uint16)]
    assert len({pixel_hash(values) for values in (same, *others)}) == 6


@pytest.mark.parametrize("memory", [0, 1 << 20])
@pytest.mark.parametrize("channels", [1, 4, 12])
def test_a_store_of_mixed_types_gives_back_every_value(tmp_path: Path, channels: int, memory: int):
    made = [bands(channels, dtype, seed, (9, 9 + seed)) for seed, dtype in enumerate(("uint8", "float32", "uint16"))]
    paths = [npy(tmp_path / f"{i}.npy", values) for i, values in enumerate(made)]
    options = {"limit": 99, "pixel_cap": 10**6, "cache_dir": tmp_path / "cache", "channels": channels}
    for _ in range(2):  # the second time from the cache, if there is one
        found = decode_files(paths, memory_bytes=memory, **options)  # type: ignore[arg-type]
        assert found.store.channels == channels
        assert (found.store.path is None) == bool(memory)
        for row, values in enumerate(made):
            image = found.store.image(row)
            assert image.dtype == (torch.uint8 if row == 0 else torch.float32)
            assert torch.equal(image, as_tensor(values).permute(2, 0, 1))
    assert found.store.image(2).max() <= 1


def test_a_cache_of_other_channels_is_not_taken(tmp_path: Path):
    path = write_noise(tmp_path / "x.png", 0)
    options = {"limit": 99, "pixel_cap": 10**6, "cache_dir": tmp_path / "cache", "memory_bytes": 0}
    for channels in (3, 1, 4):
        found = decode_files([path], channels=channels, **options)  # type: ignore[arg-type]
        assert len(found.store.image(0)) == channels


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_shrinking_keeps_type_channels_and_mean(dtype: str):
    values = bands(5, dtype, size=(64, 96))
    small = shrink(values, 8)
    assert (small.shape, small.dtype) == ((8, 12, 5), np.dtype(dtype))
    spread = values.astype(float).std()
    assert np.abs(small.mean((0, 1)) - values.astype(float).mean((0, 1))).max() < spread / 20


def test_sets_of_different_channels_are_not_joined(image_set: ImageSet):
    grey = decode_array(bands(1, "uint8")[None], limit=99)
    other = ImageSet(("x",), np.array([0]), grey.hashes, grey.store, np.arange(1))
    with pytest.raises(ConfigError, match=r"\[1, 3\] channels: join only those of one number"):
        joined([image_set, other])


# --- data sets ---------------------------------------------------------------------------------------------------


@pytest.fixture
def satellite(tmp_path: Path) -> Path:
    """Two classes of 12 bands: .npy and TIFF, 8 bits, 16 bits and floats."""
    for number in range(16):
        place = tmp_path / "scenes" / ("fields" if number % 2 else "lakes")
        values = bands(12, ("uint8", "uint16", "float32")[number % 3], number)
        place.mkdir(parents=True, exist_ok=True)
        if number % 4 < 2:
            npy(place / f"{number}.npy", values)
        else:
            tiff(place / f"{number}.tif", values, planarconfig="contig")
    return tmp_path / "scenes"


@pytest.mark.parametrize("level", ["none", "light", "strong"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_of_bands_becomes_batches(satellite: Path, level: str, workers: int):
    data = load_data(satellite, image_size=8, channels=12)
    assert (len(data.train), len(data.test)) == (12, 4)
    preprocessing = Preprocessing(image_size=8, mean=(0.5,) * 12, std=(0.2,) * 12, channels=12)
    transform = build_transform(level, preprocessing, train=True)  # type: ignore[arg-type]
    for batch in make_loader(data.train, transform, batch_size=5, shuffle=True, workers=workers):
        assert batch.images.shape[1:] == (12, 8, 8)
        assert batch.images.dtype == torch.float32
        assert torch.isfinite(batch.images).all()


def test_copies_are_found_by_a_grey_mean(satellite: Path):
    place = satellite / "lakes" / "0.npy"
    npy(satellite / "lakes" / "copy.npy", np.load(place))
    data = load_data(satellite, image_size=8, channels=12)
    everything = joined([data.train, data.test])
    small = sketches(everything)
    first, again = (everything.ids.index(name) for name in ("lakes/0.npy", "lakes/copy.npy"))
    assert np.array_equal(small[first], small[again])
    assert everything.pixel_hashes[first] == everything.pixel_hashes[again]
    assert not data.report.leaks  # equal pixels stay on one side


def test_arrays_among_photographs_are_not_images(tmp_path: Path):
    for number in range(8):
        write_noise(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", number)
        npy(tmp_path / "data" / "ab"[number % 2] / f"{number}.npy", np.zeros(3))
    data = load_data(tmp_path / "data", image_size=8)
    assert len(data.train) + len(data.test) == 8
    assert len(list_images([tmp_path / "data"])) == 8
    assert len(list_images([tmp_path / "data"], channels=2)) == 16


def test_images_of_other_channels_are_refused_by_name(satellite: Path):
    with pytest.raises(DataError, match=r"cannot be read .*expected height x width x 4"):
        load_data(satellite, image_size=8, channels=4)


def test_images_without_labels_have_the_channels_of_the_model(satellite: Path):
    images = load_images(satellite, ("fields", "lakes"), image_size=8, channels=12)
    assert len(images) == 16
    assert images.store.channels == 12


@pytest.mark.parametrize("channels", [1, 3])
def test_the_digits_are_colour_or_grey(channels: int):
    data = load_data("cluttered-digits", image_size=32, limit=20, channels=channels)
    assert data.train.image(0).shape[0] == channels
    with pytest.raises(DataError, match="expected 3 or 1 channels instead of 4"):
        load_data("cluttered-digits", image_size=32, limit=20, channels=4)


def test_a_preview_shows_any_image():
    rgb = torch.randint(0, 256, (3, 5, 6), dtype=torch.uint8)
    assert rgb_preview(rgb) is rgb
    assert torch.equal(rgb_preview(rgb[:1]), rgb[:1].expand(3, -1, -1))
    ramp = torch.linspace(0, 1, 30).view(1, 5, 6).repeat(4, 1, 1)
    assert rgb_preview(ramp).float().mean() == pytest.approx(127.5, abs=0.5)
    far = rgb_preview(1000 * ramp - 500)
    assert (int(far.min()), int(far.max())) == (0, 255)
    assert rgb_preview(torch.zeros(2, 3, 3)).max() == 0


# --- how much is cut off -----------------------------------------------------------------------------------------


def test_a_note_says_how_much_of_long_images_is_cut_off(tmp_path: Path):
    for number in range(8):
        size = (90, 30) if number < 4 else (30, 30)
        write_noise(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", number, size)
    notes = load_data(tmp_path / "data", image_size=16).report.notes
    assert any(
        note.startswith("4 of 8 images lose more than 40% of their area") and "67% in the median and up to 67%" in note
        for note in notes
    )
    for options in ({"resize": "pad"}, {"resize": "squash"}):
        assert not any(
            "lose more than" in note for note in load_data(tmp_path / "data", image_size=16, **options).report.notes
        )


def test_the_transform_of_a_set_with_bands_can_be_pickled(satellite: Path):
    import pickle

    data = load_data(satellite, image_size=8, channels=12)
    copy = pickle.loads(pickle.dumps(replace(data.train)))
    assert torch.equal(copy.image(3), data.train.image(3))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_is_read_can_be_predicted_without_a_copy_that_warns(tmp_path: Path, dtype: str):
    for channels in (1, 4, 6):
        pixels = read_image(npy(tmp_path / "x.npy", bands(channels, dtype)), channels=channels)
        assert as_tensor(pixels).dtype in (torch.uint8, torch.float32)
    Image.fromarray(bands(1, "uint8")[..., 0]).save(tmp_path / "x.png")
    assert as_tensor(read_image(tmp_path / "x.png", channels=1)).shape == (10, 14, 1)


def test_class_folders_of_arrays_alone_say_which_option_they_need(tmp_path: Path):
    for name in ("ants/0.npy", "bees/0.npy"):
        (tmp_path / name).parent.mkdir()
        npy(tmp_path / name, np.zeros((8, 8, 12), np.uint8))
    with pytest.raises(DataError, match=r"\.npy files count as images with --channels \(channels=\.\.\.\) only"):
        load_data(tmp_path, image_size=8)
