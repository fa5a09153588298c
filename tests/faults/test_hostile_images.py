"""Folders from everywhere: whatever is in them becomes the right pixels or a sentence, in bounded memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from faulting import Calls, die, die_in_the_middle, forked, no_space
from hostile_images import Hostile, encoded, many_scans, picture, write_hostile
from PIL import Image
from training_helpers import small_model
from typer.testing import CliRunner

from attngraft.backbones import create_backbone
from attngraft.cli import app
from attngraft.config import to_dict
from attngraft.data import Dataset, UnreadableImageError, list_images, load_data, read_image
from attngraft.data.pixel_store import Decoded, decode_files
from attngraft.deployment import predict
from attngraft.errors import DataError
from attngraft.reporting import data_notes
from attngraft.surgery import save
from attngraft.training import DataRecord

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes, links and limits of processes")
MIB = 1 << 20
CAP = 4_000_000
HANG_S = 3600  # of a processor: only what has no end takes as long


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hostile, ...]:
    return write_hostile(tmp_path_factory.mktemp("data") / "a")


@pytest.fixture
def data_folder(hostile: tuple[Hostile, ...]) -> Path:
    """A data set of two classes, the first of which is all that is hostile."""
    root = hostile[0].path.parent.parent
    (root / "b").mkdir(exist_ok=True)
    for number in range(4):
        (root / "b" / f"{number}.png").write_bytes(encoded(picture(100 + number), "PNG"))
    return root


def assert_shows(found: np.ndarray, item: Hostile) -> None:
    assert item.pixels is not None
    assert found.shape == item.pixels.shape
    assert np.abs(found.astype(int) - item.pixels).max() <= item.tolerance, item.kind


def limited(work: Callable[[], object], *, memory: int) -> int:
    """Exit status of a fork: not 0 where it takes so much more memory than it had, or does not end."""

    def inside() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + 4 * memory + 4096 * MIB,) * 2)  # what runs wild ends soon
        resource.setrlimit(resource.RLIMIT_CPU, (int(before.ru_utime + before.ru_stime) + HANG_S,) * 2)
        work()
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss) * 1024
        assert more <= memory, f"{more:,} bytes more, allowed were {memory:,}"

    return forked(inside).status


def test_every_file_shows_what_it_should_or_is_refused_in_a_sentence(hostile: tuple[Hostile, ...]) -> None:
    assert len({item.kind for item in hostile}) >= 80
    for item in hostile:
        found = read_or_refused(item.path)
        assert item.must == "either" or (item.must == "read") == isinstance(found, np.ndarray), (item.kind, found)
        if isinstance(found, np.ndarray):
            assert_shows(found, item)
        else:
            assert found.reason.isprintable(), item.kind
            assert len(found.reason) < 400, item.kind
            assert str(found).isprintable(), item.kind


def read_or_refused(path: Path) -> np.ndarray | UnreadableImageError:
    try:
        return read_image(path)
    except UnreadableImageError as error:
        return error


def test_a_folder_of_them_is_loaded_and_every_file_is_accounted_for(
    hostile: tuple[Hostile, ...], data_folder: Path
) -> None:
    with pytest.raises(DataError, match="cannot be read") as caught:
        load_data(data_folder, image_size=64, depth=16)
    assert str(caught.value).isprintable()
    data = load_data(data_folder, image_size=64, skip_broken=True, depth=16)
    shown = {f"a/{item.path.name}": item for item in hostile}
    skipped = dict(data.report.skipped)
    read = pixels_by_id(data)
    assert set(read) | set(skipped) == set(shown) | {f"b/{number}.png" for number in range(4)}
    assert not set(read) & set(skipped)
    for name, item in shown.items():
        assert item.must == "either" or (item.must == "read") == (name in read), item.kind
        if name in read:
            assert_shows(read[name], item)
    assert all(reason.isprintable() for reason in skipped.values())
    assert all(line.isprintable() for line in data_notes(json.loads(json.dumps(to_dict(DataRecord.of(data))))))


def pixels_by_id(data: Dataset) -> dict[str, np.ndarray]:
    sets = [images for images in (data.train, data.val, data.test) if images is not None]
    return {name: images.image(i).permute(1, 2, 0).numpy() for images in sets for i, name in enumerate(images.ids)}


def test_reading_them_takes_little_memory_and_ends(hostile: tuple[Hostile, ...], data_folder: Path) -> None:
    def work() -> None:
        load_data(data_folder, image_size=64, skip_broken=True)

    assert limited(work, memory=400 * MIB) == 0


@pytest.mark.parametrize("cap", [CAP, pytest.param(100_000_000, marks=pytest.mark.slow)])
def test_memory_is_bounded_by_the_cap_however_many_large_images_there_are(tmp_path: Path, cap: int) -> None:
    side = int(cap**0.5)
    flat = {
        "rgba.png": encoded(Image.new("RGBA", (side, side), (9, 8, 7, 99)), "PNG", compress_level=1),
        "turned.png": encoded(Image.new("RGB", (side, side)), "PNG", compress_level=1, exif=turned()),
        "cmyk.jpg": encoded(Image.new("CMYK", (side, side)), "JPEG"),
        "bits.png": encoded(Image.new("1", (side, side)), "PNG"),
        "grey16.png": encoded(Image.new("I;16", (side, side)), "PNG", compress_level=1),
        "long.png": encoded(Image.new("L", (side * side // 8, 8)), "PNG", compress_level=1),
    }
    paths = []
    for number in range(4):
        for name, content in flat.items():
            paths.append(tmp_path / f"{number}-{name}")
            paths[-1].write_bytes(content)

    def work() -> None:
        found = decode_files(paths, limit=4, pixel_cap=cap, cache_dir=tmp_path / "cache", memory_bytes=1)
        assert not found.failures, found.failures

    assert limited(work, memory=24 * cap + 20 * MIB) == 0


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def test_scans_are_counted_against_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(many_scans(300, side=80))
    assert read_image(path).shape == (80, 80, 3)
    with pytest.raises(UnreadableImageError, match="scans"):
        read_image(path, pixel_cap=10_000)


def test_a_file_that_changes_or_goes_between_listing_and_reading(tmp_path: Path) -> None:
    names = ["changed.png", "gone.png", "kept.png", "pipe.png"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(picture(number), "PNG"))
    paths = list_images([tmp_path])
    (tmp_path / "changed.png").write_bytes(encoded(picture(70), "PNG"))
    (tmp_path / "gone.png").unlink()
    (tmp_path / "pipe.png").unlink()
    os.mkfifo(tmp_path / "pipe.png")
    found = decode_files(paths, limit=99, pixel_cap=CAP, cache_dir=tmp_path / "cache")
    assert [paths[i].name for i in found.kept] == ["changed.png", "kept.png"]
    assert np.array_equal(found.store.image(0).permute(1, 2, 0).numpy(), picture(70))
    assert [paths[i].name for i, _ in found.failures] == ["gone.png", "pipe.png"]


def test_a_pipe_that_takes_the_place_of_a_file_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "x.png", os.open
    path.write_bytes(encoded(picture(), "PNG"))

    def swapped(name: str | Path, *args: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return real(name, *args)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(UnreadableImageError, match="not a regular file"):
        read_image(path)


def test_folders_in_a_circle_and_folders_in_folders_in_folders(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(encoded(picture(ord(name) + 9 * number), "PNG"))
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    nested = [f"{tmp_path}/b{'/d' * depth}" for depth in range(1, 1200)]  # more than Python lets calls nest
    for folder in nested:
        os.mkdir(folder)
    Path(nested[-1], "x.png").write_bytes(encoded(picture(77), "PNG"))
    data = load_data(tmp_path, image_size=64)
    assert data.classes == ("a", "b")
    assert len(data.train) + len(data.test) == 7
    Path(nested[-1], "x.png").unlink()
    for folder in nested[::-1]:
        os.rmdir(folder)


# the cache of decoded pixels


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{number}.png" for number in range(6)]
    for number, path in enumerate(found):
        path.write_bytes(encoded(picture(number), "PNG") if number != 2 else b"broken")
    return found


def decoded(paths: list[Path], cache: Path) -> Decoded:
    return decode_files(paths, limit=99, pixel_cap=CAP, cache_dir=cache, memory_bytes=0)


def assert_same(one: Decoded, other: Decoded) -> None:
    assert one.kept.tolist() == other.kept.tolist()
    assert (one.hashes, one.failures) == (other.hashes, other.failures)
    for row in range(len(one.store)):
        assert torch.equal(one.store.image(row), other.store.image(row))


def test_a_bit_that_turned_anywhere_in_the_cache_is_noticed(paths: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    reference = decode_files(paths, limit=99, pixel_cap=CAP, cache_dir=cache)
    decoded(paths, cache)
    rng = np.random.default_rng(0)
    for kind in ("pixels", "json"):
        (file,) = cache.glob(f"*.{kind}")
        for place in rng.integers(0, file.stat().st_size, 30).tolist():
            content = bytearray(file.read_bytes())
            content[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(content)
            assert_same(decoded(paths, cache), reference)
        for part in (0.0, 0.3, 0.99):
            file.write_bytes(file.read_bytes()[: int(file.stat().st_size * part)])
            assert_same(decoded(paths, cache), reference)


@pytest.mark.parametrize(
    "content", ["{}", "[]", "null", '{"index": {}, "pixels": ""}', '{"index": 3, "sha256": "x"}', "é"]
)
def test_a_foreign_index_is_not_believed(paths: list[Path], tmp_path: Path, content: str) -> None:
    cache = tmp_path / "cache"
    reference = decode_files(paths, limit=99, pixel_cap=CAP, cache_dir=cache)
    decoded(paths, cache)
    (index,) = cache.glob("*.json")
    index.write_text(content, encoding="utf-8")
    assert_same(decoded(paths, cache), reference)


def test_the_cache_of_other_pixels_is_not_believed(paths: list[Path], tmp_path: Path) -> None:
    cache, other = tmp_path / "cache", tmp_path / "other"
    reference = decode_files(paths, limit=99, pixel_cap=CAP, cache_dir=cache)
    decoded(paths, cache)
    decoded([*paths[:2][::-1], *paths[2:]], other)
    for kinds in (["pixels"], ["json"], ["pixels", "json"]):
        for kind in kinds:
            (mine,), (theirs,) = cache.glob(f"*.{kind}"), other.glob(f"*.{kind}")
            shutil.copy(theirs, mine)
        assert_same(decoded(paths, cache), reference)


def test_a_mended_permission_or_file_is_seen(paths: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before, status = decoded(paths, cache), paths[2].stat()
    content = encoded(picture(2), "PNG")
    paths[2].write_bytes(b"broken" if len(content) == status.st_size else content)
    os.utime(paths[2], ns=(status.st_atime_ns, status.st_mtime_ns))
    paths[0].chmod(0o600)
    after = decoded(paths, cache)
    assert len(after.kept) == len(before.kept) + 1
    assert len(list(cache.glob("*.json"))) == 2


@pytest.mark.parametrize("act", [die, die_in_the_middle, no_space])
def test_a_death_or_a_full_disk_at_any_call_of_writing_the_cache(
    paths: list[Path], tmp_path: Path, act: Callable[..., None]
) -> None:
    reference = decode_files(paths, limit=99, pixel_cap=CAP, cache_dir=tmp_path / "none")
    steps = ("write",) if act is die_in_the_middle else ("replace", "fsync", "write")
    count, ended = 1, False
    while not ended:
        cache = tmp_path / f"cache-{act.__name__}-{count}"

        def work(cache: Path = cache) -> None:
            with suppress(DataError):
                decoded(paths, cache)

        calls = Calls(act, steps, count)
        ending = forked(work, calls)
        ended = ending.status == 0 and ending.count < count
        assert ending.status in (0, -9)
        assert_same(decoded(paths, cache), reference)
        assert_same(decoded(paths, cache), reference)  # from the cache that is now there
        count += 1
    assert count > 2 or act is die_in_the_middle


def test_what_killed_processes_left_is_removed_after_a_day(paths: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for name, age in (("old.part", 90_000), ("new.part", 60)):
        (cache / name).write_bytes(b"pixels")
        os.utime(cache / name, (time.time() - age,) * 2)
    decoded(paths, cache)
    assert [path.name for path in cache.glob("*.part")] == ["new.part"]


# the whole way


def test_predict_reads_what_can_be_read_and_names_the_rest(hostile: tuple[Hostile, ...]) -> None:
    found = predict(small_model(), hostile[0].path.parent, skip_broken=True)
    readable = {str(item.path) for item in hostile if item.must == "read"}
    refused = {str(item.path) for item in hostile if item.must == "refuse"}
    assert readable <= set(found.ids)
    assert refused <= {name for name, _ in found.skipped}
    assert len(found.ids) + len(found.skipped) == len(hostile)
    assert np.isfinite(found.probabilities).all()
    assert all(reason.isprintable() for _, reason in found.skipped)


@pytest.mark.parametrize("output", ["csv", "json"])
def test_the_command_line_shows_odd_names_without_breaking(
    hostile: tuple[Hostile, ...], tmp_path: Path, output: str
) -> None:
    folder = hostile[0].path.parent
    run = save(
        create_backbone("small-cnn", num_classes=3), tmp_path / "model.safetensors", classes=("red", "green", "blue")
    )
    result = CliRunner().invoke(app, ["predict", str(run), str(folder), "--skip-broken", "--output", output])
    assert result.exit_code == 0, result.output
    refused = sum(item.must == "refuse" for item in hostile)
    lines = [line for line in result.stderr.splitlines() if line.startswith("skipped ")]
    assert len(lines) >= refused
    assert all(line.isprintable() for line in lines)
    names = [item.path.name for item in hostile if item.must == "read"]
    if output == "json":
        assert {Path(row["image"]).name for row in json.loads(result.stdout)} >= set(names)
    else:
        assert all(os.fsencode(name).replace(b'"', b'""') in result.stdout_bytes for name in names)


def test_an_image_of_one_line_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "line.png"
    path.write_bytes(encoded(np.full((1, 200_000, 3), 7, dtype=np.uint8), "PNG"))

    def work() -> None:
        assert len(predict(small_model(), path).ids) == 1

    assert limited(work, memory=300 * MIB) == 0
