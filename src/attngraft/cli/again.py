"""Answer a finished command that is given again, from its record, without PyTorch and without reading an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..answers import PAGE, Question
from ..checksums import read_sealed_json
from ..config import to_dict
from ..locking import check_free
from ..settings import resolve_settings
from .output import print_json, say, say_error
from .printout import Printout


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
    words = settings if recipe is None else to_dict(resolve_settings(recipe, settings))
    files = asked.get("backbone"), asked.get("weights")
    return Question.about(verb, folder, data, *files, settings={k: plain(v) for k, v in words.items()}, **asked)


def plain(value: Any) -> Any:
    """The value as JSON knows it."""
    return value if isinstance(value, (bool, int, float, str, dict, list)) or value is None else str(value)


def say_again(asked: Question | None, as_json: bool) -> Mapping[str, Any] | None:
    """Print what was said to the same question before, and how that was checked; None where nothing was printed.

    Raises:
        InUseError: a process is working in the folder.
    """
    found = None if asked is None else asked.answer()
    if asked is None or found is None or not (asked.folder / PAGE).is_file():
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
