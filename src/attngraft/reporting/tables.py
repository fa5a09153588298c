"""Tables for pages and the terminal alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from ..whole_table import WholeTable

LONGEST = 18  # characters of words that are not folded in the terminal
STYLES = {"helps": "green", "hurts": "red"}  # of cells in the terminal


class Noted(NamedTuple):
    """A cell with something smaller below it; in the terminal that follows in brackets."""

    text: str
    note: str


class Column(NamedTuple):
    """A column with a small second line in its head, and what the terminal shows of its cells.

    Attributes:
        terminal: "note" shows the note alone where there is one; "none" leaves the column to the page, "only" to the
            terminal.
        folds: whether cells may take two lines in a narrow terminal, so that columns to their right are not cut.
    """

    name: str
    note: str = ""
    terminal: Literal["both", "text", "note", "none", "only"] = "both"
    folds: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first column and those in ``text`` are words and set to the left.

    Attributes:
        note: what a reader must know to understand the numbers.
        strong: rows to stress, by position.
    """

    caption: str
    columns: tuple[str | Column, ...]
    rows: tuple[tuple[str | Noted, ...], ...]
    text: frozenset[int] = frozenset()
    note: str = ""
    strong: frozenset[int] = frozenset()

    @property
    def on_page(self) -> list[int]:
        """The columns of the page, by position."""
        columns = enumerate(self.columns)
        return [index for index, column in columns if isinstance(column, str) or column.terminal != "only"]


def rich_table(table: Table) -> WholeTable:
    """The table for the terminal; texts are shown as they are, as a name in a file may look like markup."""
    from rich.box import SIMPLE_HEAD
    from rich.text import Text

    from ..whole_table import WholeTable

    found = WholeTable(title=Text(table.caption), caption=Text(table.note), box=SIMPLE_HEAD, pad_edge=False,
                      collapse_padding=True)  # fmt: skip
    columns = [column if isinstance(column, Column) else Column(column) for column in table.columns]
    shown = [index for index, column in enumerate(columns) if column.terminal != "none"]
    for index in shown:
        words = [len(_told(row[index], columns[index])) for row in table.rows]
        name, justify = Text(columns[index].name), "left" if index == 0 or index in table.text else "right"
        folds = columns[index].folds or (justify == "left" and any(length > LONGEST for length in words))
        found.add_column(name, justify=justify, overflow="fold", no_wrap=not folds and index > 0)  # type: ignore[arg-type]
    for number, row in enumerate(table.rows):
        cells = [_told(row[index], columns[index]) for index in shown]
        texts = [Text(cell.replace("\u00a0", " "), style=STYLES.get(cell, "")) for cell in cells]
        found.add_row(*texts, style="bold" if number in table.strong else None)
    return found


def _told(cell: str | Noted, column: Column) -> str:
    if isinstance(cell, str):
        return cell
    if column.terminal == "note" and cell.note:
        return cell.note
    return f"{cell.text} ({cell.note})" if column.terminal == "both" and cell.note else cell.text
