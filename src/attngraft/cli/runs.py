"""attngraft runs: a table of all runs below a folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD

from ..checksums import read_record
from ..errors import ConfigError, RunError, counted, nearest
from ..inventory import PRIMARY, label, run_facts, runs_below, told
from ..whole_table import WholeTable
from . import options
from .options import argument, option, switch
from .output import NUMBER, TEXT, console, print_json, print_raw, say, say_error, table

Row = dict[str, Any]
OFTEN = ("variant", "backbone", "data", "recipe", "seed", "status", "task")  # columns where they differ
CONDITIONS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": lambda a, b: not _is_equal(a, b),
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "=": lambda a, b: _is_equal(a, b),
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


def run(
    folder: Annotated[Path, argument("FOLDER", "Where the runs are; all folders below it are searched.")],
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Only runs for which this holds; also !=, >, <, >=, <= and patterns "
            "such as variant=cbam*. Repeatable.",
        ),
    ] = None,
    sort: Annotated[
        str | None, option("Sort by this key; -KEY for the largest first.  [default: the path]", "KEY")
    ] = None,
    as_csv: Annotated[bool, switch("--csv", "Print CSV, with all keys.")] = False,
    as_json: options.Json = False,
) -> None:
    """Tabulate all runs below a folder."""
    place = folder.expanduser()
    if not place.is_dir():
        raise RunError(f"there is no folder {folder}: give one with runs below it.")
    rows = [row for path in runs_below(place) if (row := _row(path, place)) is not None]
    if not rows:
        raise RunError(f"there are no runs below {folder}: give the folder that they are in.")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    for condition in where or ():
        rows = _filtered(rows, condition, keys)
    if sort is not None:
        rows = _sorted(rows, sort, keys)
    if as_json:
        print_json(rows)
    elif as_csv:
        print_raw(_csv(rows, keys))
    else:
        _print(rows, folder)


def _row(path: Path, folder: Path) -> Row | None:
    try:
        return {"run": str(path.relative_to(folder)), **run_facts(read_record(path / "run.json", "run"))}
    except RunError as error:
        say_error(f"left out: {error}")
        return None


def _key(name: str, keys: Sequence[str]) -> str:
    """The key that is meant; also as the table calls it."""
    found = next((key for key in keys if name in (key, label(key))), None)
    if found is None:
        raise ConfigError(f"runs have no '{name}': {nearest(name, keys)}.".replace("?.", "?"))
    return found


def _filtered(rows: list[Row], condition: str, keys: Sequence[str]) -> list[Row]:
    signs = [sign for sign in CONDITIONS if sign in condition]
    if not signs:
        raise ConfigError(f"--where is '{condition}': expected KEY=VALUE, for example variant=cbam or top1>=0.9.")
    sign = min(signs, key=lambda found: (condition.index(found), -len(found)))
    name, _, text = condition.partition(sign)
    key, is_order = _key(name.strip(), keys), sign not in ("=", "!=")
    value = _number(text.strip())
    if is_order and not isinstance(value, float):
        raise ConfigError(f"--where is '{condition}': expected a number after {sign}.")
    holds = CONDITIONS[sign]
    return [row for row in rows if _holds(row.get(key), value, holds, is_order)]


def _holds(found: Any, value: Any, holds: Callable[[Any, Any], bool], is_order: bool) -> bool:
    if is_order and (not isinstance(found, (int, float)) or isinstance(found, bool)):
        return False
    return holds(found, value)


def _is_equal(found: Any, value: Any) -> bool:
    if isinstance(value, float) and isinstance(found, (int, float)):
        return float(found) == value
    text = "none" if found is None else str(found)
    return fnmatchcase(text, str(value)) or text == str(value)


def _number(text: str) -> float | str:
    """A number, a percentage as a fraction, or the text."""
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return text


def _sorted(rows: list[Row], sort: str, keys: Sequence[str]) -> list[Row]:
    """Runs that lack the value come last."""
    key, is_reversed = _key(sort.removeprefix("-"), keys), sort.startswith("-")
    known = [row for row in rows if row.get(key) is not None]
    is_text = any(isinstance(row[key], str) for row in known)
    known.sort(key=lambda row: str(row[key]) if is_text else row[key], reverse=is_reversed)
    return known + [row for row in rows if row.get(key) is None]


def _csv(rows: Sequence[Row], keys: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _print(rows: Sequence[Row], folder: Path) -> None:
    """What differs is in columns, what is the same above them."""
    if not rows:
        say(f"no run below {folder} is such a one.", wrap=True)
        return
    values = {key: {str(row.get(key)) for row in rows} for key in OFTEN}
    scores = [key for key in (*PRIMARY, "loss") if any(row.get(key) is not None for row in rows)]
    varying = [key for key in OFTEN if len(values[key]) > 1]
    same = ", ".join(f"{key} {rows[0][key]}" for key in OFTEN if len(values[key]) == 1 and key != "task")
    say(f"{counted(len(rows), 'run')} below {folder}" + (f": {same}" if same else ""), wrap=True)
    out = console()
    times = ["train_time_s"] if any(row.get("train_time_s") is not None for row in rows) else []
    for extra in (times, []):  # the time is in --csv where the terminal is too narrow for it
        made = _table(rows, ["run", *varying, *scores, *extra])
        if made.natural_width(out) <= out.width:
            break
    out.print(made)


def _table(rows: Sequence[Row], keys: Sequence[str]) -> WholeTable:
    """Heads stay whole; paths and names fold."""
    numbers = ("seed", "loss", "train_time_s", *PRIMARY)
    columns = {label(key): NUMBER if key in numbers else TEXT for key in keys}
    cells = [[told(key, row[key]) if key in row else "" for key in keys] for row in rows]
    return table(columns, cells, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
