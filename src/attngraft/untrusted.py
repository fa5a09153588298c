"""Opening safetensors files that may come from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .errors import RunError
from .sealing import read_header

MOST_TENSORS = 50_000  # the largest networks have thousands, with all that an optimizer keeps
Shapes = dict[str, tuple[int, ...]]


@contextmanager
def open_tensors(path: Path, framework: str = "pt") -> Iterator[Any]:
    """`safetensors.safe_open`, once the length of the header is known to be sensible.

    Args:
        path: of the file; no pipe and no device, whose reading would not end.
        framework: of the tensors, "pt" or "np".

    Raises:
        RunError: not a regular file, or no header of a sensible length.
        SafetensorError: a header that safetensors refuses.
        OSError: missing, or it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is not a regular file: give a safetensors file.")
    with path.open("rb") as file:
        count = read_header(file, path).count(b"{")  # one for each tensor, which no other way of writing hides
    if count > MOST_TENSORS:
        raise RunError(f"{path} has about {count:,} tensors: expected at most {MOST_TENSORS:,}.")
    with safe_open(path, framework=framework) as tensors:
        yield tensors


def shapes_of(tensors: Any) -> Shapes:
    """Name -> shape of what `open_tensors` opened, as the header says it, without reading a tensor."""
    return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
