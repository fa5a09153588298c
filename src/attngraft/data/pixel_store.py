"""Decoded pixels in one flat buffer, in memory or in a cache file."""

from __future__ import annotations

import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from ..config import DEFAULT_DEPTH, Depth, ImageSize, sides
from .depth import DeepValues, Levels, choose_depth, pixel_hash
from .pixel_cache import CacheFile, PixelWriter, StoreIndex, image_bytes
from .read_image import UnreadableImageError, decode, pillow_warnings_ignored

IN_MEMORY_BYTES = 1 << 30
_REPORTED = 128  # images between two reports of progress

Progress = Callable[[int, int], None]


def short_side_limit(image_size: ImageSize) -> int:
    """Longest short side worth keeping for inputs of this size: room for random crops and an 87.5 % centre crop.

    >>> short_side_limit(224), short_side_limit((224, 112))
    (320, 320)
    """
    return math.ceil(1.25 * max(sides(image_size)) / 0.875)


class Pixels(Protocol):
    """Where the pixels of an image set lie: one store, or several joined. Must survive being sent to a process.

    Attributes:
        shapes: (N, 2) int64, height and width of each image.
        channels: of every image.
    """

    shapes: np.ndarray
    channels: int

    def __len__(self) -> int: ...

    @property
    def path(self) -> Path | None:
        """A cache file that holds pixels, None where all are in memory."""

    def image(self, row: int) -> torch.Tensor:
        """(C, H, W) uint8 or float32, a copy."""


class PixelStore:
    """Images of any size, end to end in one buffer of bytes as (H, W, C).

    The buffer is a torch tensor, which worker processes share instead of copying, or a file that each process
    maps for itself.

    Args:
        shapes: (N, 2) height and width of each image.
        buffer: the pixels, or the file that holds them.
        channels: of every image.
        kinds: "uint8", "uint16" or "float32" per image; all are uint8 where not given.
    """

    def __init__(
        self, shapes: np.ndarray, buffer: torch.Tensor | Path, channels: int = 3, kinds: Sequence[str] = ()
    ) -> None:
        self.shapes = np.ascontiguousarray(shapes, dtype=np.int64).reshape(-1, 2)
        self.channels = channels
        self._kinds = tuple(kinds)
        sizes = image_bytes(self.shapes, channels, self._kinds)
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._path = buffer if isinstance(buffer, Path) else None
        self._buffer = self._mapped(buffer) if isinstance(buffer, Path) else buffer

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def path(self) -> Path | None:
        """The cache file, None for a store in memory."""
        return self._path

    def image(self, row: int) -> torch.Tensor:
        """(C, H, W), a copy, laid out with channels last: uint8, or float32 (of uint16, 65535 becomes 1)."""
        height, width = self.shapes[row].tolist()
        pixels = self._buffer[self._offsets[row] : self._offsets[row + 1]]
        copied = pixels.clone() if isinstance(pixels, torch.Tensor) else torch.from_numpy(np.array(pixels))
        if self._kinds:
            copied = as_tensor(copied.numpy().view(self._kinds[row]))
        return copied.view(height, width, self.channels).permute(2, 0, 1)

    def _mapped(self, path: Path) -> np.ndarray:
        return np.memmap(path, dtype=np.uint8, mode="r", shape=(int(self._offsets[-1]),))

    def __getstate__(self) -> dict[str, object]:
        """Without the mapping, which would be pickled as a copy of the whole file."""
        return {**self.__dict__, "_buffer": None} if self._path else dict(self.__dict__)

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if self._path:
            self._buffer = self._mapped(self._path)


def empty_store() -> PixelStore:
    """A store without images."""
    return PixelStore(np.empty((0, 2), dtype=np.int64), torch.empty(0, dtype=torch.uint8))


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Decoded values as transforms take them: uint8 and float32 as they are, uint16 as 0 to 1."""
    if pixels.dtype == np.uint16:
        return torch.from_numpy(pixels / np.float32(65535))
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


@dataclass(frozen=True)
class Decoded:
    """The outcome of decoding many images.

    Attributes:
        store: the pixels of those that could be read.
        kept: (M,) int64, which of the inputs these are.
        hashes: pixel hash of each kept image.
        failures: (input position, reason) of the others.
        levels: of the images of more than 8 bits, by input position, also of those that could not be read.
    """

    store: PixelStore
    kept: np.ndarray
    hashes: tuple[str, ...]
    failures: tuple[tuple[int, str], ...] = ()
    levels: Mapping[int, Levels] = field(default_factory=dict)


def shrink(pixels: np.ndarray, limit: int) -> np.ndarray:
    """Scale (H, W, C) down so that the short side is at most `limit`; smaller images stay as they are."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short <= limit:
        return pixels
    size = (max(limit, round(width * limit / short)), max(limit, round(height * limit / short)))
    if pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    bands = [Image.fromarray(pixels[:, :, k].astype(np.float32)) for k in range(pixels.shape[2])]
    scaled = np.stack([np.asarray(band.resize(size, Image.Resampling.BICUBIC)) for band in bands], axis=-1)
    if pixels.dtype.kind == "u":
        scaled = np.rint(scaled).clip(0, np.iinfo(pixels.dtype).max)
    return scaled.astype(pixels.dtype)


def decode_files(
    paths: Sequence[Path],
    *,
    limit: int,
    pixel_cap: int,
    cache_dir: Path,
    progress: Progress | None = None,
    memory_bytes: int = IN_MEMORY_BYTES,
    channels: int = 3,
    depth: Depth = DEFAULT_DEPTH,
) -> Decoded:
    """Decode image files with a few threads, or take what an earlier call left in the cache folder.

    Any command that reads the same files for the same size leaves a copy there (`CacheFile.share`).

    Args:
        paths: the files.
        limit: short side to shrink to, in pixels.
        pixel_cap: see `read_image`.
        cache_dir: where pixels go when they take more than `memory_bytes`.
        progress: called with (done, total).
        channels, depth: see `read_image`.

    Raises:
        DataError: the cache file cannot be written.
    """
    cache = CacheFile(cache_dir, _inputs_key(paths, limit, pixel_cap, channels, depth))
    index = cache.read_index(len(paths))
    if index is not None:
        held = int(image_bytes(index.shapes, index.channels, index.kinds).sum()) <= memory_bytes
        return _decoded(index, cache.load() if held else cache.pixels)
    with PixelWriter(cache, memory_bytes, channels) as writer:
        seen: dict[Path, Levels] = {}
        read = functools.partial(_read, limit=limit, pixel_cap=pixel_cap, channels=channels, depth=depth, seen=seen)
        _decode_into(writer, paths, read, pixel_cap, progress)
        writer.index.note_levels({position: seen[path] for position, path in enumerate(paths) if path in seen})
        return _decoded(writer.index, writer.finish())


def keep_images(
    images: Iterable[tuple[np.ndarray | str, Levels | None]],
    *,
    limit: int,
    cache_dir: Path,
    channels: int,
    depth: Depth = DEFAULT_DEPTH,
    memory_bytes: int = IN_MEMORY_BYTES,
) -> Decoded:
    """Hash, shrink and keep arrays (H, W, C) that come one by one; a text is the reason why one cannot be read."""
    levels: dict[int, Levels] = {}
    with PixelWriter(CacheFile(cache_dir, "pending"), memory_bytes, channels) as writer:
        for position, (image, values) in enumerate(images):
            writer.add(
                position, image if isinstance(image, str) else (shrink(image, limit), hash_of_image(image, values))
            )
            if values is not None:
                levels[position] = values
        writer.index.note_levels(levels)
        form = f"{limit}:{channels}" + ("" if depth == DEFAULT_DEPTH else f":{depth.integers}:{depth.floats}")
        key = blake2b(f"samples:{form}:{','.join(writer.index.digests)}".encode(), digest_size=16)
        return _decoded(writer.index, writer.finish(key.hexdigest()))


def decode_to_scale(
    decode: Callable[[Depth], Decoded], depth: Depth | None, splits: Sequence[str] | np.ndarray
) -> tuple[Decoded, Depth, tuple[str, ...]]:
    """Decode images with the black and white that their own values ask for, where nobody has chosen them.

    Args:
        decode: all images, with this depth.
        depth: what is chosen; None where the images decide.
        splits: of each image; those of "val" and "test" that the data name do not decide, unless they are all.

    Returns:
        the images, black and white, and sentences on them.
    """
    if depth is not None:
        return decode(depth), depth, ()
    found = decode(DEFAULT_DEPTH)
    training = [values for position, values in found.levels.items() if splits[position] in ("", "train")]
    chosen, notes = choose_depth(training or found.levels.values())
    return found if chosen == DEFAULT_DEPTH else decode(chosen), chosen, notes


def _decoded(index: StoreIndex, buffer: torch.Tensor | Path) -> Decoded:
    store = PixelStore(index.shapes, buffer, index.channels, index.kinds)
    return Decoded(store, index.kept, index.hashes, index.failures, index.read_levels())


def decode_array(pixels: np.ndarray, *, limit: int) -> Decoded:
    """Hash and keep images that are arrays already: (N, H, W, C) uint8, uint16 or float32."""
    hashes = tuple(pixel_hash(image) for image in pixels)
    if len(pixels) and min(pixels.shape[1:3]) > limit:
        pixels = np.stack([shrink(image, limit) for image in pixels])
    shapes = np.tile(np.array(pixels.shape[1:3], dtype=np.int64), (len(pixels), 1))
    buffer = torch.from_numpy(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8))
    kinds = () if pixels.dtype == np.uint8 else (pixels.dtype.name,) * len(pixels)
    return Decoded(PixelStore(shapes, buffer, pixels.shape[-1], kinds), np.arange(len(pixels)), hashes)


Outcome = tuple[np.ndarray, str] | str  # pixels and their hash, or the reason why there are none
Read = Callable[..., Outcome | None]  # (path, postpone_above=None); None where it is postponed


def _decode_into(
    writer: PixelWriter, paths: Sequence[Path], read: Read, pixel_cap: int, progress: Progress | None
) -> None:
    for done, outcome in enumerate(_outcomes(paths, read, pixel_cap), start=1):
        writer.add(done - 1, outcome)
        if progress is not None and (done % _REPORTED == 0 or done == len(paths)):
            progress(done, len(paths))


def _outcomes(paths: Sequence[Path], read: Read, pixel_cap: int) -> Iterator[Outcome]:
    """What became of each file, in order.

    The memory is bounded: few results wait, all threads together decode no more pixels at once than the cap allows for
    one image, and larger images are decoded here, one at a time.
    """
    threads = min(8, os.cpu_count() or 1)
    waiting: deque[tuple[Path, Future[Outcome | None]]] = deque()

    def first() -> Outcome:
        path, future = waiting.popleft()
        outcome = future.result() or read(path)
        assert outcome is not None
        return outcome

    with pillow_warnings_ignored(), ThreadPoolExecutor(threads) as pool:
        try:
            for path in paths:
                waiting.append((path, pool.submit(read, path, postpone_above=pixel_cap // threads)))
                if len(waiting) == 2 * threads:
                    yield first()
            while waiting:
                yield first()
        finally:
            for _, future in waiting:  # where it is broken off, nothing else is begun
                future.cancel()


def _read(
    path: Path,
    *,
    limit: int,
    pixel_cap: int,
    channels: int,
    depth: Depth,
    seen: dict[Path, Levels],
    postpone_above: int | None = None,
) -> Outcome | None:
    deep = DeepValues(depth)
    try:
        pixels = decode(path, pixel_cap, postpone_above, channels, deep=deep)
    except UnreadableImageError as error:
        return error.reason
    finally:
        if deep.levels is not None:
            seen[path] = deep.levels
    return None if pixels is None else (shrink(pixels, limit), hash_of_image(pixels, deep.levels))


def hash_of_image(pixels: np.ndarray, levels: Levels | None) -> str:
    """The hash of an image as decoded, or where a range was chosen of what it was before: other values stay others."""
    return pixel_hash(pixels) if levels is None or not levels.digest else levels.digest


def _inputs_key(paths: Sequence[Path], limit: int, pixel_cap: int, channels: int, depth: Depth) -> str:
    """Key of a set of files in a given size; a changed file changes its size or its times, new permissions the last."""
    wanted = f"{limit}:{pixel_cap}" if channels == 3 else f"{limit}:{pixel_cap}:{channels}"
    wanted += "" if depth == DEFAULT_DEPTH else f":{depth.integers}:{depth.floats}"
    digest = blake2b(f"v3:{wanted}".encode(), digest_size=16)
    for path in paths:
        try:
            status = path.stat()
            mark = f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
        except OSError:
            mark = "missing"
        digest.update(f"\0{path.absolute()}\0{mark}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
