"""What pages share: sections, and the way to HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.leak_pictures import names_of_pair
from ..errors import counted
from .confusion import Confusion
from .number_format import MISSING, decimal, shortened
from .read_folder import thumbnail
from .tables import Table

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

MOST_LISTED = 10
# control characters, and those that turn the direction of all that follows: a name can hold them, a page may not
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Warned:
    """Something that the reader must know before believing the numbers."""

    title: str
    items: tuple[str, ...] = ()
    pictures: tuple[tuple[str, tuple[str, str]], ...] = ()  # what pairs of pictures show, and both as data URIs


def data_warnings(data: Mapping[str, Any], folder: Path | None = None) -> list[Warned]:
    """Leaks and unreadable files.

    Args:
        data: what a record says of the data.
        folder: where pictures of nearly equal images may be.
    """
    found = []
    leaks, skipped = data.get("leaks") or [], data.get("skipped") or []
    if leaks:
        pairs = tuple(" = ".join(str(part) for part in pair) for pair in leaks)
        title = (
            f"{counted(len(leaks), 'pair')} of equal images in different splits: the accuracies may be too high; --fix-leaks "
            "keeps such images on one side."
        )
        found.append(Warned(title, _first(pairs)))
    if data.get("near_leaks"):
        pairs = tuple(" ~ ".join(str(part) for part in pair) for pair in data["near_leaks"])
        title = (
            f"{counted(len(pairs), 'pair')} of nearly equal images in different splits: where they are copies, the accuracies "
            "may be too high, and --fix-leaks keeps them on one side."
        )
        shown = _pictures(pairs, folder) if folder is not None else ()
        found.append(Warned(title, _first(pairs[len(shown) :]) if shown else _first(pairs), shown))
    if skipped:
        files = tuple(": ".join(str(part) for part in entry) for entry in skipped)
        found.append(Warned(f"{counted(len(skipped), 'file')} could not be used.", _first(files)))
    return found


def _pictures(pairs: Sequence[str], folder: Path) -> tuple[tuple[str, tuple[str, str]], ...]:
    """The first pairs of which both pictures are there."""
    found = []
    for number, pair in enumerate(pairs[:MOST_LISTED]):
        one, other = (thumbnail(folder, name) for name in names_of_pair(number))
        if one is None or other is None:
            break
        found.append((pair, (one, other)))
    return tuple(found)


def data_facts(data: Mapping[str, Any], outputs: str = "classes") -> list[tuple[str, str]]:
    """The data set, its splits and its notes; `outputs` says what its classes are for the task."""
    facts = [("data", str(data.get("name", MISSING)))]
    classes = data.get("classes") or []
    if classes:
        shown = ", ".join(map(str, classes[:20])) + (", …" if len(classes) > 20 else "")
        facts.append((outputs, f"{len(classes)}: {shown}"))
    parts = [(data.get(f"{split}_images"), word) for split, word in (("train", "training"), ("val", "validation"))]
    parts.append((data.get("test_images"), "test"))
    facts.append(("images", ", ".join(f"{number:,} {word}" for number, word in parts if isinstance(number, int))))
    if data.get("fingerprint"):
        facts.append(("fingerprint", str(data["fingerprint"])))
    facts += [("note", str(note)) for note in data.get("notes") or []]
    return facts


def recipe_facts(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything a recipe says apart from its phases."""
    return [
        (str(key).replace("_", " "), plain(value)) for key, value in recipe.items() if key not in ("name", "phases")
    ]


def phase_table(recipe: Mapping[str, Any]) -> Table:
    """The phases of a recipe, one a row, whatever columns they have."""
    phases = [phase for phase in recipe.get("phases") or [] if isinstance(phase, dict)]
    keys = list(dict.fromkeys(key for phase in phases for key in phase))
    keys.sort(key=lambda key: key != "name")
    rows = tuple(tuple(plain(phase.get(key)) for key in keys) for phase in phases)
    columns = tuple(str(key).replace("_", " ") for key in keys)
    words = frozenset(i for i, key in enumerate(keys) if any(isinstance(p.get(key), (str, list, dict)) for p in phases))
    return Table("Phases of the recipe", columns, rows, words)


def hardware_facts(hardware: Mapping[str, Any] | None, versions: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The machine and the versions."""
    words = {"cpu": "CPU", "cores": "cores", "memory_gib": "memory", "gpu": "GPU", "os": "system"}
    facts = []
    for key, value in (hardware or {}).items():
        text = "none" if value is None else f"{decimal(value, 1)} GiB" if key == "memory_gib" else plain(value)
        facts.append((words.get(key, str(key)), text))
    listed = ", ".join(f"{name} {version}" for name, version in (versions or {}).items())
    return [*facts, ("versions", listed or MISSING)]


def pair_table(confusion: Confusion, caption: str, *numbers: str) -> Table:
    """The list of confused classes, and what its numbers are called."""
    return Table(caption, ("true class", "taken for", *numbers), confusion.pairs, frozenset({1}))


def plain(value: Any) -> str:
    """Any JSON value as text.

    >>> plain([1, "a"]), plain(None), plain(True), plain(0.0001), plain({"lr": 0.1})
    ('1, a', 'none', 'yes', '0.0001', 'lr 0.1')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(entry)}" for key, entry in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(entry) for entry in value)
    return str(value)


def _first(items: tuple[str, ...]) -> tuple[str, ...]:
    if len(items) <= MOST_LISTED:
        return items
    return (*items[:MOST_LISTED], f"and {len(items) - MOST_LISTED} more")


def render(template: str, title: str, page: Mapping[str, Any]) -> str:
    """Fill a template of this package; every text is escaped."""
    html = _environment().get_template(template).render(title=title, page=page)
    html = CONTROLS.sub("\ufffd", html)
    return html.encode("utf-8", "replace").decode("utf-8")  # a name can hold what no encoding can


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = shortened
    environment.filters["parts"] = _in_parts
    return environment


def _in_parts(html: Markup) -> Markup:
    """Escaped HTML in which names of variants break between their parts, before they break within a word."""
    return type(html)(re.sub(r"([@:,=+])(?=\S)", r"\1<wbr>", str(html)))  # joining parts of Markup would escape them
