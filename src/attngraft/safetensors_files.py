"""Open safetensors files from untrusted sources."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .checksums import MOST_HEADER_BYTES, read_header
from .errors import RunError

MOST_TENSORS = 50_000  # the largest networks have thousands, with all that an optimizer keeps
_ENTRY = re.compile(rb'[^\\]":\s*\{')  # one per tensor; in the texts of the metadata quotes are escaped
Shapes = dict[str, tuple[int, ...]]


@contextmanager
def open_tensors(path: Path, framework: str = "pt", most_header: int = MOST_HEADER_BYTES) -> Iterator[Any]:
    """`safetensors.safe_open`, once the length of the header is known to be sensible.

    Args:
        path: of the file; no pipe and no device, whose reading would not end.
        framework: of the tensors, "pt" or "np".
        most_header: bytes that its header may have.

    Raises:
        RunError: not a regular file, or no header of a sensible length.
        SafetensorError: a header that safetensors refuses.
        OSError: missing, or it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is not a regular file: give a safetensors file.")
    with path.open("rb") as file:
        count = len(_ENTRY.findall(read_header(file, path, most_header)))
    if count > MOST_TENSORS:
        raise RunError(f"{path} has about {count:,} tensors: expected at most {MOST_TENSORS:,}.")
    with safe_open(path, framework=framework) as tensors:
        yield tensors


def shapes_of(tensors: Any) -> Shapes:
    """Name -> shape of what `open_tensors` opened, as the header says it, without reading a tensor."""
    return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
