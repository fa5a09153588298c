"""Cache files for decoded pixels: those that do not fit in memory, and those that the next command can use again."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import torch

from ..checksums import read_sealed_json, write_sealed_json
from ..errors import DataError, RunError
from .depth import Levels
from .read_image import printable

log = logging.getLogger(__name__)
SHARED_FROM = 4 << 20  # bytes: less is decoded again in the time that it takes to check a copy
MOST_SHARED_GIB, MOST_SHARED_VARIABLE = "4", "ATTNGRAFT_CACHE_GIB"
_CHUNK = 1 << 20
_ABANDONED_S = 86_400.0


def image_bytes(shapes: np.ndarray, channels: int, kinds: Sequence[str] = ()) -> np.ndarray:
    """(N,) bytes of each image; without `kinds` all values are uint8."""
    width = np.array([np.dtype(kind).itemsize for kind in kinds], dtype=np.int64) if kinds else 1
    return np.asarray(np.asarray(shapes, dtype=np.int64).reshape(-1, 2).prod(axis=1) * channels * width)


@dataclass
class StoreIndex:
    """What lies where: one entry per kept image, and the inputs that failed; no `kinds` where all values are uint8.

    The levels are those of images of more than 8 bits.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    channels: int = 3
    levels: dict[str, list[Any]] = field(default_factory=dict)

    def note_levels(self, levels: Mapping[int, Levels]) -> None:
        """Keep the levels of images by the position of the input."""
        self.levels = {str(position): list(astuple(found)) for position, found in levels.items()}

    def read_levels(self) -> dict[int, Levels]:
        """What was kept."""
        return {int(position): Levels(*found) for position, found in self.levels.items()}

    def add(self, position: int, pixels: np.ndarray, digest: str) -> None:
        """Note an image (H, W, C)."""
        kind = pixels.dtype.name
        if kind != "uint8" and not self.kinds:
            self.kinds = ["uint8"] * len(self.positions)
        if kind != "uint8" or self.kinds:
            self.kinds.append(kind)
        self.positions.append(position)
        self.digests.append(digest)
        self.sizes.append((pixels.shape[0], pixels.shape[1]))

    @classmethod
    def from_json(cls, values: dict[str, Any], inputs: int) -> StoreIndex:
        """What `__dict__` was.

        Raises:
            ValueError, TypeError: these values cannot be about so many inputs.
        """
        index = cls(**values)
        index.read_levels()
        places = sorted([*index.positions, *(position for position, _ in index.failed)])
        rows = [len(part) for part in (index.positions, index.sizes, index.digests, index.kinds or index.positions)]
        if places != list(range(inputs)) or len(set(rows)) > 1 or any(min(size) < 1 for size in index.sizes):
            raise ValueError("not an index of these files")
        return index

    @property
    def shapes(self) -> np.ndarray:
        return np.array(self.sizes, dtype=np.int64).reshape(-1, 2)

    @property
    def kept(self) -> np.ndarray:
        return np.array(self.positions, dtype=np.int64)

    @property
    def hashes(self) -> tuple[str, ...]:
        return tuple(self.digests)

    @property
    def failures(self) -> tuple[tuple[int, str], ...]:
        return tuple((int(position), reason) for position, reason in self.failed)


class CacheFile:
    """Two files per key: the pixels, and the index, which is written last and vouches for both by their hashes."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.pixels = folder / f"{key}.pixels"
        self.index = folder / f"{key}.json"

    def read_index(self, inputs: int) -> StoreIndex | None:
        """The index, or None where there is none, it is not ours, or a bit of it or of the pixels is not as written.

        Args:
            inputs: how many files it is about.
        """
        try:
            found, sealed = read_sealed_json(self.index)
            index = StoreIndex.from_json(found["index"], inputs) if sealed else None
            if (
                index is None
                or found["key"] != self.key
                or self.pixels.stat().st_size != int(image_bytes(index.shapes, index.channels, index.kinds).sum())
            ):
                return None
            with self.pixels.open("rb") as file:
                return index if hash_of(file) == found["pixels"] else None
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RunError):
            return None

    def write_index(self, index: StoreIndex, pixels: str, *, shared: bool = False) -> None:
        """Vouch for the pixels that were installed.

        Args:
            pixels: their hash.
            shared: whether they are a copy of what is in memory, which may go at any time.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        values = {"key": self.key, "index": index.__dict__, "pixels": pixels}
        write_sealed_json(self.index, values | ({"shared": True} if shared else {}))

    def share(self, index: StoreIndex, pixels: np.ndarray) -> None:
        """Keep a copy of pixels in memory for other commands. That it cannot be written is no reason to fail."""
        if not SHARED_FROM <= pixels.nbytes <= most_shared():
            return
        temporary = None
        try:
            with self.open_temporary() as file:
                temporary = Path(file.name)
                file.write(pixels.data)
            self.install(temporary, self.pixels)
            self.write_index(index, blake2b(pixels.data, digest_size=32).hexdigest(), shared=True)
            keep_within(self.folder, most_shared())
        except (OSError, RunError) as error:
            log.info("decoded images are not shared with other commands: %s", error)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)

    def load(self) -> torch.Tensor:
        """All pixels, in memory; they are noted as used now."""
        with contextlib.suppress(OSError):
            os.utime(self.index)
        return torch.from_numpy(np.fromfile(self.pixels, dtype=np.uint8))

    def sweep(self) -> None:
        """Remove what processes that were killed while they wrote have left behind."""
        for part in self.folder.glob("*.part"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > _ABANDONED_S:
                    part.unlink()

    def open_temporary(self) -> IO[bytes]:
        """A new file beside its later place, so that moving it there is atomic."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False)

    @staticmethod
    def install(source: Path, target: Path) -> None:
        try:
            source.replace(target)
        except PermissionError:  # Windows, where another process has the equal file open
            if not target.exists():
                raise
            source.unlink(missing_ok=True)


@dataclass(frozen=True)
class CachedImages:
    """One entry of the cache.

    Attributes:
        key: of the files.
        size_bytes: of pixels and index.
        images: how many; 0 where the index cannot be read.
        used: when it was last used, in seconds since 1970.
        shared: whether it is a copy that may go at any time; else the only place of pixels that do not fit in memory.
    """

    key: str
    size_bytes: int
    images: int
    used: float
    shared: bool


def cached_images(folder: Path) -> list[CachedImages]:
    """What is in a cache folder, what was used last first."""
    found = []
    for pixels in folder.glob("*.pixels"):
        index = pixels.with_suffix(".json")
        with contextlib.suppress(OSError):
            status, size = (index if index.exists() else pixels).stat(), pixels.stat().st_size
            try:
                values, _ = read_sealed_json(index)
                images, shared = len(values["index"]["positions"]), bool(values.get("shared"))
            except (RunError, KeyError, TypeError, AttributeError):
                images, shared = 0, False
            size += status.st_size if index.exists() else 0
            found.append(CachedImages(pixels.stem, size, images, status.st_mtime, shared))
    return sorted(found, key=lambda entry: -entry.used)


def remove_cached(folder: Path, entries: Sequence[CachedImages]) -> None:
    """Remove entries; a process that has one of them open keeps it until it ends."""
    for entry in entries:
        for suffix in (".json", ".pixels"):  # without its index nothing is believed
            with contextlib.suppress(OSError):
                (folder / f"{entry.key}{suffix}").unlink(missing_ok=True)


def keep_within(folder: Path, most: int) -> None:
    """Remove the shared copies that were not used for longest, until all take no more than `most` bytes."""
    total, over = 0, []
    for entry in cached_images(folder):
        total += entry.size_bytes if entry.shared else 0
        if entry.shared and total > most:
            over.append(entry)
    remove_cached(folder, over)


def most_shared() -> int:
    """Bytes that shared copies may take: ATTNGRAFT_CACHE_GIB, 4 where it is not set, 0 for none.

    Raises:
        DataError: it is no number.
    """
    text = os.environ.get(MOST_SHARED_VARIABLE) or MOST_SHARED_GIB
    try:
        return int(float(text) * (1 << 30))
    except (ValueError, OverflowError):
        raise DataError(f"{MOST_SHARED_VARIABLE} is '{text}': expected a number of GiB, for example 4.") from None


def hash_of(file: IO[bytes]) -> str:
    """Hash of what is in a file from here on."""
    digest = blake2b(digest_size=32)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


class PixelWriter:
    """Collects decoded images in memory and moves to the cache file once they exceed `memory_bytes`."""

    def __init__(self, cache: CacheFile, memory_bytes: int, channels: int = 3) -> None:
        self.index = StoreIndex(channels=channels)
        self._cache = cache
        self._memory_bytes = memory_bytes
        self._held: list[np.ndarray] = []
        self._held_bytes = 0
        self._file: IO[bytes] | None = None
        self._digest = blake2b(digest_size=32)

    def __enter__(self) -> PixelWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """An interrupted or failed run leaves no half file behind."""
        if self._file is not None:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)

    def add(self, position: int, outcome: tuple[np.ndarray, str] | str) -> None:
        """Take (pixels, hash) of the input at this position, or the reason why it failed."""
        if isinstance(outcome, str):
            self.index.failed.append((position, outcome))
            return
        pixels, digest = outcome
        self.index.add(position, pixels, digest)
        self._held.append(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8))
        self._held_bytes += pixels.nbytes
        if self._file is not None or self._held_bytes > self._memory_bytes:
            self._spill()

    def finish(self, key: str | None = None) -> torch.Tensor | Path:
        """The flat buffer or the file that holds it.

        Args:
            key: of the file, where it is known only now.
        """
        if self._file is None:
            flat = self._flat()
            if key is None:
                self._cache.share(self.index, flat)
            return torch.from_numpy(flat)
        if key is not None:
            self._cache = CacheFile(self._cache.folder, key)
        try:
            self._file.close()
            self._cache.install(Path(self._file.name), self._cache.pixels)
            self._cache.write_index(self.index, self._digest.hexdigest())
        except (OSError, RunError) as error:
            raise self._unwritable(error) from None
        return self._cache.pixels

    def _flat(self) -> np.ndarray:
        flat = np.empty(self._held_bytes, dtype=np.uint8)
        start = 0
        for pixels in self._held:
            flat[start : start + pixels.nbytes] = pixels
            start += pixels.nbytes
        self._held.clear()
        return flat

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = self._cache.open_temporary()
                self._cache.sweep()
            for pixels in self._held:
                self._file.write(pixels.data)
                self._digest.update(pixels.data)
        except OSError as error:
            raise self._unwritable(error) from None
        self._held.clear()

    def _unwritable(self, error: OSError | RunError) -> DataError:
        reason = getattr(error, "strerror", None) or error
        return DataError(
            f"decoded images cannot be kept in {printable(self._cache.folder)} ({reason}): give another cache folder."
        )
