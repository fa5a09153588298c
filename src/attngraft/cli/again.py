"""Answer a finished command that is given again, from its record, without PyTorch and without reading an image."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..answers import Question
from ..checksums import read_sealed_json
from ..config import to_dict
from ..locking import check_free
from ..settings import resolve_settings
from .output import print_json, say, say_error
from .printout import Printout

MADE_HERE = ("cluttered-digits",)  # built-in data that come from no file


def question(
    verb: str, folder: Path, data: Sequence[str], settings: Mapping[str, Any], recipe: str | None, **asked: Any
) -> Question | None:
    """What a training verb asks for; None where what it reads cannot be told without opening the data.

    Args:
        verb: its name.
        folder: of the record.
        data: sources of images.
        settings: fields of recipe, data and machine that were given.
        recipe: name or path of the recipe; None where several are searched, which are among the other arguments.
        **asked: its other arguments; `backbone` and `weights` may be paths.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return None
    sources = [_files_of(source) for source in data]
    inputs = [path for found in sources if found is not None for path in found]
    if None in sources:
        return None
    for name in ("backbone", "weights"):
        path = Path(str(asked.get(name) or "")).expanduser()
        parts = [path, Path(str(path).rpartition(":")[0])]  # FILE:KEY
        inputs += [part for part in parts if str(part) != "." and part.exists()][:1]
    chosen: dict[str, Any] = {"verb": verb, "data": list(map(_place, data))}
    if recipe is None:
        chosen["settings"] = {name: str(value) for name, value in settings.items()}
    else:
        chosen["settings"] = to_dict(resolve_settings(recipe, settings))
    words = {name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in asked.items()}
    return Question.of(folder, {**chosen, **words}, inputs)


def _place(source: str) -> str:
    path = Path(source).expanduser()
    return os.path.realpath(path) if path.exists() else source


def _files_of(source: str) -> list[Path] | None:
    """Files and folders that a source is read from; None where that is not known."""
    if source in MADE_HERE:
        return []
    path = Path(source).expanduser()
    if path.is_dir():
        return [path, *(image for table in sorted(path.glob("*.[cC][sS][vV]")) for image in _listed(table))]
    listed = list(_listed(path)) if path.is_file() else []
    return [path, *listed] if listed else None


def _listed(table: Path) -> Iterator[Path]:
    """The images in the column `path` of a CSV file."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if row.get("path"):
                    yield table.parent / row["path"]
    except (OSError, ValueError, csv.Error):
        return


def say_again(asked: Question | None, as_json: bool) -> Mapping[str, Any] | None:
    """Print what was said to the same question before, and how that was checked; None where nothing was printed.

    Raises:
        InUseError: a process is working in the folder.
    """
    found = None if asked is None else asked.answer()
    if asked is None or found is None:
        return None
    check_free(asked.folder)
    if as_json:
        document, _ = read_sealed_json(asked.folder / found["document"])
        print_json({name: value for name, value in document.items() if name not in found["left_out"]})
        say_error(asked.told)
    else:
        Printout(found["items"]).show()
        say(f"note: {asked.told}", wrap=True)
    return found


def keep_answer(
    asked: Question | None, shown: Printout, document: str, left_out: Sequence[str] = (), **more: Any
) -> None:
    """Keep what was printed, for the next time.

    Args:
        asked: the question; None keeps nothing.
        shown: what was printed, or would have been without --json.
        document: the file in the folder that --json prints.
        left_out: its entries that are not printed.
        **more: JSON values to keep beside it.
    """
    if asked is not None:
        asked.keep({"items": shown.items, "document": document, "left_out": list(left_out), **more})
