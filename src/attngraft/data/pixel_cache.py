"""Cache file for decoded pixels that do not fit in memory."""

from __future__ import annotations

import contextlib
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

    def write_index(self, index: StoreIndex, pixels: str) -> None:
        """Vouch for the pixels that were installed.

        Args:
            pixels: their hash.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        write_sealed_json(self.index, {"key": self.key, "index": index.__dict__, "pixels": pixels})

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
            return torch.from_numpy(self._flat())
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
