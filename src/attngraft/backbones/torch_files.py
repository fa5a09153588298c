"""Read torch.save files (.pth, .pt, .bin, .ckpt) from untrusted sources, in both of its formats."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
from torch import Tensor

from ..errors import BackboneError
from .safe_pickle import HEAL, MOST_BYTES, View, read_pickle

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")  # the fifth as in .pth.tar
MOST_DIRECTORY_BYTES = 4 << 20  # of a zip; an entry takes about 100
_TAIL = 66_000  # bytes in which the ends of a zip lie
_ENDS = {b"PK\x05\x06": (12, 4), b"PK\x06\x06": (40, 8)}  # signature -> where the size of the directory stands
_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before PyTorch 1.6
_VERSION = 1001


@dataclass(frozen=True)
class SavedTensor:
    """A tensor of a file that is read when it is asked for.

    Attributes:
        place: of the first byte of its storage.
    """

    path: Path
    place: int
    view: View

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return self.view.shape

    def load(self) -> Tensor:
        """The tensor, on the CPU."""
        view, width = self.view, self.view.storage.dtype.itemsize
        if not math.prod(view.shape):
            return torch.empty(view.shape, dtype=view.storage.dtype)
        with self.path.open("rb") as file:
            file.seek(self.place + view.offset * width)
            data = bytearray(file.read(_extent(view) * width))
        return torch.frombuffer(data, dtype=view.storage.dtype).as_strided(view.shape, view.stride)


@dataclass(frozen=True)
class SavedFile:
    """What a file holds, see `read_pickle`, and where the bytes of its storages are: key -> (place, count)."""

    path: Path
    content: Any
    storages: Mapping[str, tuple[int, int]]
    is_program: bool = False

    def tensor(self, view: View) -> SavedTensor:
        """The tensor of a view.

        Raises:
            BackboneError: it claims more than the file holds.
        """
        place, count = self.storages.get(view.storage.key, (0, -1))
        numel, width = view.storage.numel, view.storage.dtype.itemsize
        is_within = not math.prod(view.shape) or view.offset + _extent(view) <= numel
        if numel < 0 or numel * width > count or not is_within or math.prod(view.shape) > max(numel, 0):
            raise BackboneError(f"{self.path.name} has a tensor that claims more than the file holds: get it again.")
        return SavedTensor(self.path, place, view)


def _extent(view: View) -> int:
    """From its first to behind its last number."""
    return 1 + sum((size - 1) * step for size, step in zip(view.shape, view.stride, strict=True))


def read_torch_file(path: Path) -> SavedFile:
    """What a file of torch.save holds; its tensors stay on the disk until they are used.

    Args:
        path: a regular file.

    Raises:
        BackboneError: not a file of torch.save, damaged, compressed, or one that would act.
        OSError: it cannot be read.
    """
    if zipfile.is_zipfile(path):
        return _read_zip(path)
    with path.open("rb") as file:
        start = file.read(300)
        file.seek(0)
        if start.startswith(b"\x80") and _MAGIC.to_bytes(10, "little") in start[:40]:
            return _read_stream(path, file)
    if start[257:262] == b"ustar" or start.startswith((b"\x1f\x8b", b"BZh", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ")):
        raise BackboneError(f"{path.name} is an archive: unpack it, and give the file of weights in it.")
    raise BackboneError(
        f"{path.name} is not a zip as torch.save writes it, and not of its older format: "
        f"save it again with a newer PyTorch, or {HEAL}."
    )


# --- the format before PyTorch 1.6 -----------------------------------------------------------------------------------
def _read_stream(path: Path, file: IO[bytes]) -> SavedFile:
    """Five pickles (two numbers, the machine, the object, the keys of its storages), and the bytes of each storage."""
    magic, version, machine, content, keys = (read_pickle(file, path.name) for _ in range(5))
    is_little = not hasattr(machine, "texts") or machine.texts().get("little_endian", True) is True
    if magic != _MAGIC or version != _VERSION or not is_little:
        raise BackboneError(f"{path.name} is of another version or byte order: save it again with a newer PyTorch.")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise BackboneError(f"{path.name} is damaged (its storages have no names): get it again.")
    widths = {view.storage.key: view.storage.dtype.itemsize for view in _views(content)}
    end, storages = path.stat().st_size, {}
    for key in keys:
        numel = int.from_bytes(file.read(8), "little", signed=True)
        place = file.tell()
        if key not in widths:  # of an object that is not made: where the next begins is not known
            break
        if numel < 0 or place + numel * widths[key] > end:
            raise BackboneError(f"{path.name} is damaged (it ends within a tensor): get it again.")
        storages[key] = (place, numel * widths[key])
        file.seek(place + numel * widths[key])
    return SavedFile(path, content, storages)


def _views(content: Any) -> list[View]:
    """All tensors in it."""
    found, waiting, seen = [], [content], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, View):
            found.append(one)
        elif id(one) not in seen and not isinstance(one, (str, bytes, int, float, type(None))):
            seen.add(id(one))
            waiting += (
                one if isinstance(one, (list, tuple)) else [v for pair in getattr(one, "items", ()) for v in pair]
            )
            waiting.append(getattr(one, "state", None))
    return found


# --- zip -------------------------------------------------------------------------------------------------------------
def _read_zip(path: Path) -> SavedFile:
    """Nothing compressed, no code that is looked at, one pickle, one entry for each storage."""
    _check_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            inner = _entries_of(archive.infolist(), path)
            pickle = inner["data.pkl"]
            if pickle.file_size > MOST_BYTES:
                raise BackboneError(f"{path.name} has a pickle of {pickle.file_size:,} bytes: {HEAL}.")
            content = read_pickle(io.BytesIO(archive.read(pickle)), path.name)
            if "byteorder" in inner and archive.read(inner["byteorder"])[:10].strip() != b"little":
                raise BackboneError(
                    f"{path.name} was written with another byte order: save it again on a usual machine."
                )
            damaged = _damaged(archive, inner)
            if damaged is not None:
                raise BackboneError(f"{path.name} is damaged (the checksum of {damaged} differs): get it again.")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise BackboneError(f"{path.name} is damaged ({error}): get it again.") from None
    data = {name.removeprefix("data/"): entry for name, entry in inner.items() if name.startswith("data/")}
    return SavedFile(path, content, _places(path, data), _is_program(inner))


def _is_program(inner: Mapping[str, zipfile.ZipInfo]) -> bool:
    return "constants.pkl" in inner or any(name.startswith("code/") for name in inner)


def _that_are_read(inner: Mapping[str, zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """All entries, but for those of a program that hold its code."""
    program = _is_program(inner)
    return [e for name, e in inner.items() if not program or name == "data.pkl" or name.startswith("data/")]


def _damaged(archive: zipfile.ZipFile, inner: Mapping[str, zipfile.ZipInfo]) -> str | None:
    """The first entry whose checksum differs."""
    for entry in _that_are_read(inner):
        try:
            with archive.open(entry) as file:
                while file.read(1 << 20):
                    pass
        except zipfile.BadZipFile:
            return entry.filename
    return None


def _places(path: Path, data: Mapping[str, zipfile.ZipInfo]) -> dict[str, tuple[int, int]]:
    """Where the bytes of each entry lie: behind its name and extra field, whose lengths stand at its beginning."""
    found = {}
    with path.open("rb") as file:
        for key, entry in data.items():
            file.seek(entry.header_offset)
            header = file.read(30)
            behind = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            found[key] = (entry.header_offset + 30 + behind, entry.file_size)
    return found


def _check_directory(path: Path) -> None:
    """Raise where the list of entries alone would fill the memory."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        tail = file.read()
    for signature, (offset, width) in _ENDS.items():
        at = tail.find(signature)
        while at >= 0:
            size = int.from_bytes(tail[at + offset : at + offset + width], "little")
            if MOST_DIRECTORY_BYTES < size < (1 << 8 * width) - 1:
                raise BackboneError(f"{path.name} lists more files than a state dict has: {HEAL}.")
            at = tail.find(signature, at + 1)


def _entries_of(entries: list[zipfile.ZipInfo], path: Path) -> dict[str, zipfile.ZipInfo]:
    """Entries by their names within the one folder that there is."""
    names = [entry.filename for entry in entries]
    parts = [PurePosixPath(name).parts for name in names]
    if any(not p or p[0] == "/" or ".." in p or "\\" in n or "\0" in n for n, p in zip(names, parts, strict=True)):
        raise BackboneError(f"{path.name} has entries whose names lead out of it: do not use this file.")
    if any(name.lower().endswith((".pth", ".pt", ".ckpt", ".safetensors", ".tar")) for name in names):
        raise BackboneError(f"{path.name} is an archive: unpack it, and give the file of weights in it.")
    if len(set(names)) < len(names) or len({p[0] for p in parts}) != 1:
        raise BackboneError(f"{path.name} has several entries of one name, or several folders: {HEAL}.")
    inner = {"/".join(p[1:]): entry for p, entry in zip(parts, entries, strict=True)}
    if "data.pkl" not in inner:
        raise BackboneError(f"{path.name} is a zip, but not one of torch.save: {HEAL}.")
    read = _that_are_read(inner)
    odd = any(e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size or e.flag_bits & 1 for e in read)
    if odd or sum(entry.file_size for entry in read) > path.stat().st_size:
        raise BackboneError(f"{path.name} is compressed or claims more than it holds: {HEAL}.")
    return inner
