"""Pixels in memory, in a cache file, and in another process."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import write_noise

from attngraft.data import read_image
from attngraft.data.pixel_cache import cached_images, keep_within
from attngraft.data.pixel_store import (
    Decoded,
    decode_array,
    decode_files,
    pixel_hash,
    short_side_limit,
    shrink,
)
from attngraft.errors import DataError


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Four images of different sizes with a broken one among them."""
    sizes = [(20, 16), (50, 40), (9, 30), (40, 80)]
    found = [write_noise(tmp_path / f"{i}.png", i, size) for i, size in enumerate(sizes)]
    (tmp_path / "broken.png").write_bytes(b"x")
    return [*found[:2], tmp_path / "broken.png", *found[2:]]


def decoded(paths: list[Path], cache_dir: Path, memory_bytes: int) -> Decoded:
    return decode_files(paths, limit=32, pixel_cap=10**6, cache_dir=cache_dir, memory_bytes=memory_bytes)


def test_large_images_are_shrunk_and_small_ones_kept(paths: list[Path], tmp_path: Path) -> None:
    result = decoded(paths, tmp_path / "cache", 10**9)
    assert result.store.shapes.tolist() == [[16, 20], [32, 40], [30, 9], [64, 32]]
    assert result.kept.tolist() == [0, 1, 3, 4]
    assert result.failures == ((2, "its content is not in a known image format"),)
    np.testing.assert_array_equal(result.store.image(0).permute(1, 2, 0).numpy(), read_image(paths[0]))
    assert not (tmp_path / "cache").exists()


def test_the_hash_is_of_the_whole_image(paths: list[Path], tmp_path: Path) -> None:
    result = decoded(paths, tmp_path, 10**9)
    assert result.hashes[1] == pixel_hash(read_image(paths[1]))


def test_the_hash_knows_the_shape() -> None:
    flat = np.arange(36, dtype=np.uint8)
    assert pixel_hash(flat.reshape(3, 4, 3)) != pixel_hash(flat.reshape(4, 3, 3))


def test_shrinking_averages() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(shrink(stripes, 8)[2:-2, 2:-2].astype(int) - 100).max() <= 3


def test_very_long_images_keep_their_short_side() -> None:
    assert shrink(np.zeros((3, 4000, 3), dtype=np.uint8), 8).shape == (3, 4000, 3)
    assert shrink(np.zeros((16, 4001, 3), dtype=np.uint8), 8).shape == (8, 2000, 3)


@pytest.mark.parametrize("memory_bytes", [0, 2000, 10**9])
def test_a_cache_file_holds_the_same_pixels(paths: list[Path], tmp_path: Path, memory_bytes: int) -> None:
    reference = decoded(paths, tmp_path / "unused", 10**9)
    cache = tmp_path / "cache"
    for _ in range(2):  # the second time from the file
        result = decoded(paths, cache, memory_bytes)
        assert (result.store.path is None) == (memory_bytes == 10**9)
        assert result.hashes == reference.hashes
        assert result.failures == reference.failures
        assert result.kept.tolist() == reference.kept.tolist()
        for row in range(4):
            assert torch.equal(result.store.image(row), reference.store.image(row))
    assert not list(cache.glob("*.part"))


def test_a_changed_file_is_decoded_again(paths: list[Path], tmp_path: Path) -> None:
    before = decoded(paths, tmp_path / "cache", 0)
    write_noise(paths[0], seed=99, size=(21, 16))
    assert decoded(paths, tmp_path / "cache", 0).hashes[0] != before.hashes[0]


def test_a_damaged_cache_file_is_written_anew(paths: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = decoded(paths, cache, 0)
    assert before.store.path is not None
    (cache / before.store.path.name).with_suffix(".json").write_text("{")
    assert decoded(paths, cache, 0).hashes == before.hashes


def test_a_cache_folder_that_cannot_be_written(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="give another cache folder"):
        decoded(paths, tmp_path / "file", 0)


@pytest.mark.parametrize("memory_bytes", [0, 10**9])
def test_a_store_can_be_sent_to_another_process(paths: list[Path], tmp_path: Path, memory_bytes: int) -> None:
    store = decoded(paths, tmp_path / "cache", memory_bytes).store
    sent = pickle.dumps(store)
    copy = pickle.loads(sent)
    assert all(torch.equal(copy.image(row), store.image(row)) for row in range(4))
    if memory_bytes == 0:
        assert len(sent) < 3000  # the path, not the pixels


def test_an_image_is_a_copy(paths: list[Path], tmp_path: Path) -> None:
    store = decoded(paths, tmp_path, 10**9).store
    before = store.image(0).clone()
    store.image(0).zero_()
    assert torch.equal(store.image(0), before)


def test_arrays_are_stored_directly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(5, 8, 8, 3), dtype=np.uint8)
    result = decode_array(pixels, limit=8)
    assert result.hashes == tuple(pixel_hash(image) for image in pixels)
    np.testing.assert_array_equal(result.store.image(3).permute(1, 2, 0).numpy(), pixels[3])
    assert decode_array(pixels, limit=4).store.shapes.tolist() == [[4, 4]] * 5


def test_the_limit_leaves_room_for_crops() -> None:
    assert short_side_limit(224) == 320
    assert short_side_limit(160) == 229


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of any size are kept."""
    monkeypatch.setattr("attngraft.data.pixel_cache.SHARED_FROM", 1)


@pytest.mark.usefixtures("shared")
def test_files_are_decoded_once_for_all_that_read_them(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = decoded(paths, tmp_path / "cache", 10**9)
    calls: list[Path] = []
    monkeypatch.setattr("attngraft.data.pixel_store.decode", lambda path, *args, **options: calls.append(path))
    again = decoded(paths, tmp_path / "cache", 10**9)
    assert calls == []
    assert again.store.path is None
    assert (again.hashes, again.failures, again.kept.tolist()) == (first.hashes, first.failures, first.kept.tolist())
    for row in range(len(first.store)):
        assert torch.equal(again.store.image(row), first.store.image(row))


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("damage", ["flip", "cut", "no index"])
def test_a_damaged_copy_is_made_anew(paths: list[Path], tmp_path: Path, damage: str) -> None:
    first = decoded(paths, tmp_path / "cache", 10**9)
    (pixels,) = (tmp_path / "cache").glob("*.pixels")
    content = bytearray(pixels.read_bytes())
    if damage == "no index":
        pixels.with_suffix(".json").unlink()
    else:
        content[3] ^= 1
        pixels.write_bytes(content if damage == "flip" else content[:-1])
    again = decoded(paths, tmp_path / "cache", 10**9)
    assert torch.equal(again.store.image(1), first.store.image(1))
    assert pixels.stat().st_size == sum(16 * 20 * 3 if row == 0 else first.store.image(row).numel() for row in range(4))
    assert cached_images(tmp_path / "cache")[0].images == 4


@pytest.mark.usefixtures("shared")
def test_copies_are_kept_within_a_bound_and_the_oldest_go_first(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    decoded(paths[:1], cache, 10**9)
    (oldest,) = cached_images(cache)
    os.utime(cache / f"{oldest.key}.json", (1, 1))
    decoded(paths[1:2], cache, 10**9)
    newest = cached_images(cache)[0]
    monkeypatch.setenv("ATTNGRAFT_CACHE_GIB", str((oldest.size_bytes + newest.size_bytes + 10) / (1 << 30)))
    decoded(paths[3:4], cache, 10**9)
    found = {entry.key for entry in cached_images(cache)}
    assert oldest.key not in found
    assert sum(entry.size_bytes for entry in cached_images(cache)) <= oldest.size_bytes + newest.size_bytes + 10
    assert len(list(cache.iterdir())) == 2 * len(found)


@pytest.mark.usefixtures("shared")
def test_sets_larger_than_memory_do_not_count(paths: list[Path], tmp_path: Path) -> None:
    decoded(paths, tmp_path / "cache", 0)
    decoded(paths[:1], tmp_path / "cache", 10**9)
    keep_within(tmp_path / "cache", 0)
    (left,) = cached_images(tmp_path / "cache")
    assert (left.shared, left.images) == (False, 4)


@pytest.mark.usefixtures("shared")
def test_a_cache_that_cannot_be_written_or_is_off_changes_nothing(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert len(decoded(paths, tmp_path / "file" / "cache", 10**9).store) == 4
    monkeypatch.setenv("ATTNGRAFT_CACHE_GIB", "0")
    assert len(decoded(paths, tmp_path / "cache", 10**9).store) == 4
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("ATTNGRAFT_CACHE_GIB", "much")
    with pytest.raises(DataError, match="ATTNGRAFT_CACHE_GIB is 'much': expected a number of GiB"):
        decoded(paths, tmp_path / "cache", 10**9)
