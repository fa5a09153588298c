"""A bench for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .bench_numbers import (
    NETWORKS,
    OURS,
    Row,
    batch,
    competitors,
    entry,
    feature_map,
    grouped,
    held,
    median,
    middle,
    network,
    ratio,
    rounds,
    setting,
    times,
)
from .bench_numbers import bench_notes as _notes
from .folder import check_bench
from .numbers import MISSING
from .parts import plain

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def bench_tables(document: Mapping[str, Any]) -> list[Table]:
    """Tables for rich, one per direction or mode and precision.

    Raises:
        RunError: the document lacks something or is of another kind.
    """
    checked = check_bench(dict(document))
    tables = [
        _modules(key, rows, checked["summaries"])
        for key, rows in grouped(checked["modules"], ("direction", "dtype", "layout")).items()
    ]
    tables += [_models(key, rows) for key, rows in grouped(checked["models"], ("mode", "dtype", "layout")).items()]
    tables += [_loop(checked["loop"])] if checked["loop"] else []
    return tables + ([_memory(checked["memory"])] if checked["memory"] else [])


def bench_notes(document: Mapping[str, Any]) -> list[str]:
    """What could not be measured, and why.

    Raises:
        RunError: the document lacks something or is of another kind.
    """
    return _notes(check_bench(dict(document)))


def _modules(key: tuple[str, ...], rows: Sequence[Row], summaries: Sequence[Row]) -> Table:
    direction, dtype, layout = key
    names = competitors(rows)
    table = _table(
        f"{direction}, {dtype} {layout}, batch {_batches(rows)}, {rounds(rows, 'time_ms')}",
        "median ms (in brackets: over attngraft's); limit: attngraft's time over the traffic limit",
    )
    _columns(table, ("attention", "map"), (OURS, *names, "limit"))
    for (attention,), found in grouped(rows, ("attention",)).items():
        for row in found:
            cells = [_compared(entry(row, name)) for name in names]
            ours = median(entry(row, OURS).get("time_ms"))
            table.add_row(*_texts(attention, feature_map(row), ours, *cells, times(row["over_limit"]["median"])))
        for summary in summaries if len(found) > 1 else ():
            if [str(summary[name]) for name in ("attention", "direction", "dtype", "layout")] == [attention, *key]:
                means = {mean["name"]: f"({times(mean['speedup'])})" for mean in summary["means"]}
                cells = [means.get(name, MISSING) for name in names]
                table.add_row(*_texts("", "geometric mean", "", *cells, times(summary["over_limit"])), style="bold")
        table.add_section()
    return table


def _models(key: tuple[str, ...], rows: Sequence[Row]) -> Table:
    mode, dtype, layout = key
    batches = " or ".join(dict.fromkeys(map(batch, rows)))
    title = f"{mode}, {dtype} {layout}, batch {batches}, {rounds(rows, 'time_ms')}"
    table = _table(title, "median ms (in brackets: over the plain network's, with quartiles)")
    _columns(table, ("network", "attention"), NETWORKS)
    for row in rows:
        cells = [_over_plain(entry(row, name)) for name in NETWORKS[1:]]
        plain_time = median(entry(row, NETWORKS[0]).get("time_ms"))
        table.add_row(*_texts(network(row), row["attention"], plain_time, *cells))
    return table


def _loop(rows: Sequence[Row]) -> Table:
    table = _table("fit beside bare training steps, images/s", "ratio: time of fit over bare steps (quartiles)")
    _columns(table, ("network", "batch", "precision"), ("bare", "loader", "fit", "ratio"))
    for row in rows:
        rates = [median(row[name]) for name in ("bare", "loader", "fit")]
        table.add_row(*_texts(network(row), batch(row), setting(row), *rates, ratio(row["over_bare"])))
    return table


def _memory(rows: Sequence[Row]) -> Table:
    batches = " or ".join(dict.fromkeys(map(batch, rows)))
    table = _table(
        f"memory of a training step, batch {batches}, {rounds(rows, 'peak_bytes')}",
        "in brackets: more than the plain network; saved: kept by autograd for the backward pass",
    )
    _columns(table, ("network", "precision", ""), NETWORKS)
    for row in rows:
        peaks, saved = ([held(entry(row, name), what) for name in NETWORKS] for what in ("peak", "saved"))
        table.add_row(*_texts(f"{network(row)} {row['attention']}", setting(row), "peak", *peaks))
        table.add_row(*_texts("", "", "saved", *saved), end_section=True)
    return table


def _table(title: str, caption: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    box = SIMPLE_HEAD
    return Table(title=Text(title), caption=Text(caption), box=box, pad_edge=False, collapse_padding=True)


def _columns(table: Table, words: Sequence[str], numbers: Sequence[str]) -> None:
    for name in words:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)


def _texts(*cells: Any) -> list[Text]:
    """Cells that are shown as they are: a name in a file may look like markup."""
    from rich.text import Text

    return [Text(str(cell)) for cell in cells]


def _batches(rows: Sequence[Row]) -> str:
    return " or ".join(dict.fromkeys(plain(row["shape"][:1]) for row in rows))


def _compared(found: Row) -> str:
    if not found.get("time_ms"):
        return MISSING
    return f"{median(found['time_ms'])} ({times(middle(found.get('speedup')))})"


def _over_plain(found: Row) -> str:
    if not found.get("time_ms"):
        return MISSING
    return f"{median(found['time_ms'])} ({ratio(found.get('over_plain')).replace(' (', ', ').rstrip(')')})"
