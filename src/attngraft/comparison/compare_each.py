"""Compare on several data sets, one after the other, and combine what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data import Dataset
from ..data.sources import find_source, unknown_source
from ..errors import ConfigError
from ..training import join_world
from .combine import Combination, combine, folder_names
from .compare import compare


def compare_each(
    data: Sequence[str | Path | Dataset], *, run_dir: str | Path, command: str | None = None, **options: Any
) -> Combination:
    """Train every variant with every seed on each data set, and combine the effects.

    Args:
        data: two or more, each whatever `compare` takes.
        run_dir: a new folder, or that of the same call to be continued; each comparison has a folder of its own in it.
        command: the command line, for the record.
        **options: of `compare`.

    Raises:
        ConfigError: fewer than two data sets, or one of them twice; and all that `compare` raises.
        DataError: one of them is not there; nothing is trained.
    """
    names = [source.name if isinstance(source, Dataset) else str(source) for source in data]
    places = [name if isinstance(source, Dataset) else _place(name) for name, source in zip(names, data, strict=True)]
    twice = next((name for at, name in enumerate(names) if places[at] in places[:at]), None)
    if twice is not None or len(names) < 2:
        what = f"'{twice}' twice" if twice is not None else f"{len(names)} data set"
        raise ConfigError(f"got {what}: expected two or more different data sets.")
    unknown = [name for name, source in zip(names, data, strict=True) if not _is_there(source)]
    if unknown:
        raise unknown_source(unknown[0])  # before hours of training on the others
    folders = [Path(run_dir).expanduser() / name for name in folder_names(names)]
    for source, folder in zip(data, folders, strict=True):
        compare(source, run_dir=folder, command=command, **options)
    return join_world().in_main(lambda: combine(folders, run_dir=run_dir, command=command))


def _is_there(source: str | Path | Dataset) -> bool:
    return isinstance(source, Dataset) or find_source(source) is not None or Path(source).expanduser().exists()


def _place(source: str) -> str:
    """The folder or file itself, however it is written; the name of a built-in data set."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
