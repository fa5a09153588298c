"""What a verb prints at its end: it can be kept, and printed again in a terminal of another width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..whole_table import WholeTable
from .output import console, say

BOXES = {"simple head": box.SIMPLE_HEAD, "heavy head": box.HEAVY_HEAD}
COLUMN = ("justify", "no_wrap", "overflow", "min_width")


@dataclass
class Printout:
    """Tables and sentences in the order in which they are printed."""

    items: list[dict[str, Any]] = field(default_factory=list)

    def table(self, table: Table) -> None:
        """Add a table of texts."""
        self.items.append({"table": _to_json(table)})

    def say(self, text: object, *, wrap: bool = False, style: str | None = None) -> None:
        """Add what `output.say` takes."""
        self.items.append({"text": str(text), "wrap": wrap, "style": style})

    def notes(self, notes: Iterable[str]) -> None:
        """Add what the user must know before trusting a number."""
        for note in notes:
            self.say(f"note: {note}", wrap=True)

    def show(self) -> None:
        """Print all of it."""
        for item in self.items:
            if "table" in item:
                console().print(_from_json(item["table"]))
            else:
                say(item["text"], wrap=item["wrap"], style=item["style"])


def _to_json(table: Table) -> dict[str, Any]:
    """What `_from_json` makes the same table of."""
    cells = [[_cell(cell) for cell in column.cells] for column in table.columns]
    return {
        "title": str(table.title or ""),
        "caption": str(table.caption or ""),
        "box": next(name for name, shape in BOXES.items() if shape is table.box),
        "show_header": table.show_header,
        "pad_edge": table.pad_edge,
        "collapse_padding": table.collapse_padding,
        "columns": [{"header": str(c.header), **{name: getattr(c, name) for name in COLUMN}} for c in table.columns],
        "rows": [list(row) for row in zip(*cells, strict=True)],
        "styles": [None if row.style is None else str(row.style) for row in table.rows],
    }


def _cell(cell: Any) -> list[str]:
    return [str(cell), str(cell.style) if isinstance(cell, Text) else ""]


def _from_json(found: Mapping[str, Any]) -> WholeTable:
    options = {name: found[name] for name in ("show_header", "pad_edge", "collapse_padding")}
    title, caption = (Text(found[name]) if found[name] else None for name in ("title", "caption"))
    table = WholeTable(title=title, caption=caption, box=BOXES[found["box"]], **options)
    for column in found["columns"]:
        table.add_column(Text(column["header"]), **{name: column[name] for name in COLUMN})
    for row, style in zip(found["rows"], found["styles"], strict=True):
        table.add_row(*(Text(text, style=look) for text, look in row), style=style)
    return table
