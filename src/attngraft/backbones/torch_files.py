"""Read torch.save files (.pth, .pt, .bin, .ckpt) from untrusted sources."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from ..errors import BackboneError
from .pickle_check import HEAL, check_pickle

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")  # the last as in .pth.tar; what is no zip is refused
MOST_DIRECTORY_BYTES = 4 << 20  # of a zip; an entry takes about 100
_TAIL = 66_000  # bytes in which the ends of a zip lie
_ENDS = {b"PK\x05\x06": (12, 4), b"PK\x06\x06": (40, 8)}  # signature -> where the size of the directory stands


def read_archive(path: Path) -> Mapping[str, Any]:
    """The dict in a file of torch.save; its tensors stay on the disk until they are used.

    Args:
        path: a regular file.

    Raises:
        BackboneError: not a zip of torch.save, damaged, compressed, or more than tensors in it.
        OSError: it cannot be read.
    """
    _check(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise BackboneError(f"{path.name} cannot be read ({str(error)[:200]}): get it again, or {HEAL}.") from None
    if not isinstance(found, dict):
        raise BackboneError(f"{path.name} holds a {type(found).__name__}, no state dict: {HEAL}.")
    return found


def _check(path: Path) -> None:
    """Raise unless the file is a zip as torch.save writes it: nothing compressed, no code, one pickle of tensors."""
    if not zipfile.is_zipfile(path):
        raise BackboneError(
            f"{path.name} is not a zip as torch.save writes it since PyTorch 1.6: "
            f"save it again with a newer PyTorch, or {HEAL}."
        )
    _check_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            pickle = _pickle_of(entries, path)
            check_pickle(archive.read(pickle), path.name)
            damaged = archive.testzip()  # torch does not look at the checksums
            if damaged is not None:
                raise BackboneError(f"{path.name} is damaged (the checksum of {damaged} differs): get it again.")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise BackboneError(f"{path.name} is damaged ({error}): get it again.") from None


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


def _pickle_of(entries: list[zipfile.ZipInfo], path: Path) -> zipfile.ZipInfo:
    names = [entry.filename for entry in entries]
    parts = [PurePosixPath(name).parts for name in names]
    if any(not p or p[0] == "/" or ".." in p or "\\" in n or "\0" in n for n, p in zip(names, parts, strict=True)):
        raise BackboneError(f"{path.name} has entries whose names lead out of it: do not use this file.")
    if len(set(names)) < len(names) or len({p[0] for p in parts}) != 1:
        raise BackboneError(f"{path.name} has several entries of one name, or several folders: {HEAL}.")
    inner = {"/".join(p[1:]): entry for p, entry in zip(parts, entries, strict=True)}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise BackboneError(f"{path.name} is a TorchScript program, which is code: {HEAL}.")
    if "data.pkl" not in inner:
        raise BackboneError(f"{path.name} is a zip, but not one of torch.save: {HEAL}.")
    odd = any(
        e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size or e.flag_bits & 1 for e in entries
    )
    if odd or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise BackboneError(f"{path.name} is compressed or claims more than it holds: {HEAL}.")
    return inner["data.pkl"]
