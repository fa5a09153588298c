"""Tables are whole at any width: no cell, head, title or note is cut, and nothing is wider than the terminal."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from fake_bench import document as bench_document
from fake_search import search, trial
from rich.box import SIMPLE_HEAD
from rich.text import Text

from attngraft.cli.output import NAME, NUMBER, TEXT, table
from attngraft.cli.printout import Printout, _from_json, _to_json
from attngraft.config import from_dict
from attngraft.continual.search.search_record import SearchRecord
from attngraft.reporting import bench_tables, best_trials_table
from attngraft.reporting.tables import Column, Noted, Table, rich_table
from attngraft.terminal import SafeConsole
from attngraft.whole_table import WholeTable

PATH = "Ergebnisse für März/compare-grüne-Äpfel/runs/cbam-layer4-reduction-16/seed-0"
VARIANT = "channel-attention@layer4:reduction=16,kernel_size=7"
WORD = "Donaudampfschifffahrtsgesellschaftskapitänsmütze"


def verdicts() -> list[WholeTable]:
    columns = (
        "variant",
        "balanced accuracy",
        Column("effect, points", folds=True),
        Column("params"),
        "p, corrected",
        "verdict",
    )
    row = (VARIANT, "77.8 ± 13.0 %", Noted("+1.25", "\u22128.05 to +10.55"), "+13.1 %", "0.0421", "no evidence")
    return [rich_table(Table("A caption that is as long as a line of the terminal or two of them " + WORD, columns,
                             (row, (WORD, *row[1:])), frozenset({5}), note="a note: " + PATH, strong=frozenset({1})))]  # fmt: skip


def paths() -> list[WholeTable]:
    columns = {"run": TEXT, "variant": NAME, "seed": NUMBER, "top-1": NUMBER, "calibration error": NUMBER}
    return [table(columns, [(PATH, VARIANT, "0", "77.8 %", "12.5 %"), (WORD, "se", "10", "0.1 %", "1 %")], title=WORD)]


def many() -> list[WholeTable]:
    """More numbers than fit beside each other."""
    columns = {"site": NAME} | {f"measure {number}": NUMBER for number in range(12)}
    return [table(columns, [(PATH, *(f"{number}234.5678" for number in range(12)))], box=SIMPLE_HEAD, pad_edge=False)]


def facts() -> list[WholeTable]:
    return [
        table(
            {"": NAME, " ": TEXT},
            [(VARIANT, PATH), ("sentence", f"a sentence of words, and {WORD}")],
            show_header=False,
        )
    ]


def benches() -> list[WholeTable]:
    return bench_tables(bench_document(attention=VARIANT))


def trials() -> list[WholeTable]:
    made = [trial(number, "finished", 0.5 + 0.1 * number, variant=VARIANT) for number in range(1, 4)]
    return [best_trials_table(from_dict(SearchRecord, search(trials=made)))]


KINDS = (verdicts, paths, many, facts, benches, trials)


def shown(made: WholeTable, width: int) -> str:
    console = SafeConsole(width=width, file=io.StringIO(), highlight=False, markup=False, emoji=False)
    console.print(made)
    return console.file.getvalue()


def plain(text: object) -> str:
    return text.plain if isinstance(text, Text) else str(text or "")


def letters(texts: Iterable[str]) -> Counter[str]:
    return Counter("".join("".join(text.split()) for text in texts))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [30, 50, 72, 80, 120, 250])
def test_nothing_is_cut_or_wider_than_the_terminal(kind: Callable[[], list[WholeTable]], width: int):
    for made in kind():
        out = shown(made, width)
        cells = [plain(cell) for column in made.columns for cell in column.cells]
        heads = [plain(column.header) for column in made.columns] if made.show_header else []
        assert "…" not in out
        assert max(map(len, out.splitlines())) <= width
        assert not letters([*cells, *heads, plain(made.title), plain(made.caption)]) - letters([out])
        words = set(out.replace("│", " ").replace("┃", " ").replace(":", " ").split())
        numbers = {plain(c) for column in made.columns if column.justify == "right" for c in column.cells}
        assert {word for text in [*numbers, *heads] for word in text.replace(":", " ").split()} <= words


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_that_was_kept_is_the_same_at_another_width(kind: Callable[[], list[WholeTable]]):
    for made in kind():
        shown(made, 72)
        kept = _from_json(_to_json(made))
        assert shown(kept, 100) == shown(made, 100)


def test_names_break_between_their_parts_and_dates_between_words():
    made = table(
        {"run": TEXT, "made": TEXT, "top-1": NUMBER}, [("one run/attention-cbam/seed-0", "2026-11-30 22:41", "77.8 %")]
    )
    lines = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in shown(made, 44).splitlines() if line[0] == "│"
    ]
    told = [line[0] for line in lines]
    assert "".join("".join(told).split()) == "onerun/attention-cbam/seed-0"
    assert all(line.endswith(("/", "-")) for line in told[1:-1])
    assert shown(made, 36).count("2026-11-30") == 1


def test_what_is_printed_again_is_printed_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    kept = Printout()
    kept.table(many()[0])
    kept.show()
    out = capsys.readouterr().out
    assert "11234.5678" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("width", [80, 64])
def test_heads_fold_before_names_do(width: int):
    made = WholeTable(box=SIMPLE_HEAD)
    made.add_column(Text("way"))
    for head in ("top-1, new images", "top-1, old images", "parameters changed", "minutes of training"):
        made.add_column(Text(head), justify="right", no_wrap=True)
    made.add_row(*map(Text, ("bn-statistics", "50.0 %", "60.0 %", "4.8 k (0.0 %)", "1.8")))
    console = SafeConsole(width=width, record=True, file=io.StringIO())
    console.print(made)
    assert "bn-statistics" in console.export_text()
