"""Tables for the terminal of which nothing is cut."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

_WIDEST = 100_000  # columns of a terminal in which nothing folds
# What shrinks in turn: heads, columns that fold, the others, all names; and to how many columns parts of names fold at most.
_STEPS = (("head", _WIDEST), ("folding", 18), ("folding", 12), ("other", 18), ("name", 12), ("name", 8))
_WORDS = re.compile(r"\S+")
_PARTS = re.compile(r"[^/,:@+_-]*[/,:@+_-]+|[^/,:@+_-]+")  # of a path, a variant or a list


class WholeTable(Table):
    """A table that cuts nothing: names fold where the terminal is narrow, and where that is not enough rows become lists.

    Names break behind a space, a slash or a comma if they can; numbers and heads between words alone.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As rich does it, with columns that are as wide as their words."""
        rows = list(zip(*(map(_text, column.cells) for column in self.columns), strict=True))
        widths = self._fitted(console, options)
        if widths is None:
            yield from self._lists(rows)
            return
        made = Table(title=self.title, caption=self.caption, box=self.box, show_header=self.show_header,
                     pad_edge=self.pad_edge, collapse_padding=self.collapse_padding)  # fmt: skip
        for column, width in zip(self.columns, widths, strict=True):
            made.add_column(_text(column.header), justify=column.justify, overflow="fold", width=width)
        for row, cells in zip(self.rows, rows, strict=True):
            made.add_row(*(_broken(cell, width) for cell, width in zip(cells, widths, strict=True)), style=row.style)
        yield from Table.__rich_console__(made, console, options)

    def natural_width(self, console: Console) -> int:
        """Columns of the terminal that it takes where nothing folds."""
        return console.measure(self, options=console.options.update(width=_WIDEST)).maximum

    def _fitted(self, console: Console, options: ConsoleOptions) -> list[int] | None:
        """The width of each column; None where the terminal is too narrow for their words."""
        widths = [max(map(cell_len, self._lines(column)), default=0) for column in self.columns]
        around = self.natural_width(console) - sum(widths)
        for kind, longest in _STEPS:
            least = [
                self._least(column, longest)
                if kind in _kinds(column)
                else self._whole(column)
                if kind == "head"
                else width
                for column, width in zip(self.columns, widths, strict=True)
            ]
            while sum(widths) + around > options.max_width:
                wide = [number for number, width in enumerate(widths) if width > least[number]]
                if not wide:
                    break
                widths[max(wide, key=widths.__getitem__)] -= 1
        return widths if sum(widths) + around <= options.max_width else None

    def _lines(self, column: Column) -> list[str]:
        head = [_text(column.header)] if self.show_header else []
        return [line for text in (*head, *map(_text, column.cells)) for line in text.plain.splitlines()]

    def _whole(self, column: Column) -> int:
        """The width at which no cell folds, and the head between words alone."""
        cells = [cell_len(line) for cell in column.cells for line in _text(cell).plain.splitlines()]
        return max([*cells, *self._head(column)], default=0)

    def _head(self, column: Column) -> list[int]:
        """Widths of the words of a head."""
        return [cell_len(word) for word in _text(column.header).plain.split()] if self.show_header else []

    def _least(self, column: Column, longest: int) -> int:
        """The width of the longest word; of names, that of their longest part where it is not above `longest`."""
        words = [word for cell in column.cells for word in _WORDS.findall(_text(cell).plain)]
        if _is_name(column):
            sizes = [min(cell_len(part), longest) if _has_letters(part) else cell_len(part)
                     for word in words for part in _parts(word)]  # fmt: skip
        else:
            sizes = list(map(cell_len, words))
        return max([*sizes, *self._head(column)], default=0)

    def _lists(self, rows: Sequence[Sequence[Text]]) -> RenderResult:
        """Each row as lines of its own."""
        for told in (self.title, *(self._list(row) for row in rows), self.caption):
            if told:
                yield _text(told)

    def _list(self, cells: Sequence[Text]) -> Text:
        heads = [_text(column.header).plain if self.show_header else "" for column in self.columns]
        lines = [
            f"{head}: {cell.plain}" if head else cell.plain for head, cell in zip(heads, cells, strict=True) if cell
        ]
        return Text("\n  ".join(lines))


def _is_name(column: Column) -> bool:
    return column.justify == "left"


def _kinds(column: Column) -> tuple[str, ...]:
    return ("other" if column.no_wrap else "folding", *(("name",) if _is_name(column) else ()))


def _has_letters(word: str) -> bool:
    return any(map(str.isalpha, word))


def _parts(word: str) -> list[str]:
    """Where a name may break; numbers, dates and times are whole."""
    return _PARTS.findall(word) if _has_letters(word) else [word]


def _text(cell: RenderableType | None) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))


def _broken(text: Text, width: int) -> Text:
    """The text with breaks behind parts of names that are longer than the width."""
    breaks = []
    for word in _WORDS.finditer(text.plain):
        at, filled = word.start(), 0
        for part in _parts(word[0]) if cell_len(word[0]) > width else ():
            if filled and filled + cell_len(part) > width:
                breaks.append(at)
                filled = 0
            at, filled = at + len(part), filled + cell_len(part)
    return Text("\n").join(text.divide(breaks)) if breaks else text
