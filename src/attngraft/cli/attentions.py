"""attngraft attentions: the table of what can be grafted."""

from __future__ import annotations

import json
import sys
from importlib import resources
from typing import Annotated, Any

from rich.text import Text

from ..registry import Registry
from . import options
from .options import argument, option
from .output import NAME, NUMBER, console, print_json, say, table

CHANNELS, SIZE = 256, 14
PACKAGED = "attentions.json"  # `attention_rows(CHANNELS, SIZE)`, written by docs/tables.py: it needs no PyTorch

Row = dict[str, Any]


def run(
    name: Annotated[str | None, argument("NAME", "Show one attention with its options.")] = None,
    channels: Annotated[int, option("Channels of the feature map that costs are given for.", min=1)] = CHANNELS,
    size: Annotated[int, option("Height and width of that feature map.", min=1)] = SIZE,
    as_json: options.Json = False,
) -> None:
    """List the attentions with their costs and sources."""
    rows = known_rows(channels, size)
    if name is not None:
        rows = [_named(rows, name)]
    if as_json:
        print_json(rows)
    elif name is None:
        _print(rows, channels, size)
    else:
        _print_one(rows[0])


def known_rows(channels: int, size: int) -> list[Row]:
    """The packaged rows, or new ones for other costs or where a program has imported attentions of its own."""
    if (channels, size) == (CHANNELS, SIZE) and "attngraft.attention" not in sys.modules:
        return json.loads((resources.files(__package__) / PACKAGED).read_text(encoding="utf-8"))
    return attention_rows(channels, size)


def attention_rows(channels: int, size: int) -> list[Row]:
    """One row per registered attention, with its costs on a feature map of (channels, size, size)."""
    import torch

    from ..attention import ATTENTIONS, attention_options, create_attention
    from ..costs import count_macs, count_parameters

    rows = []
    for key, entry in sorted(ATTENTIONS.items()):
        with torch.device("meta"):
            module = create_attention(key, channels)
        rows.append(
            {
                "name": key,
                "summary": entry.summary,
                "control": entry.control,
                "options": attention_options(key),
                "parameters": count_parameters(module),
                "macs": count_macs(module, (channels, size, size)),
                "source": entry.source,
            }
        )
    return rows


def _named(rows: list[Row], name: str) -> Row:
    known = Registry[Row]("attention")
    for row in rows:
        known.register(row["name"], row)
    return known[name]


def _print(rows: list[Row], channels: int, size: int) -> None:
    columns = {"name": NAME, "parameters": NUMBER, "MACs": NUMBER, "what it does and where it is from": {}}
    cells = ((row["name"], f"{row['parameters']:,}", f"{row['macs']:,}", _summary(row)) for row in rows)
    title = f"attentions, costs on {channels} x {size} x {size}"
    console().print(table(columns, cells, title=title, caption="attngraft attentions NAME shows options"))


def _summary(row: Row) -> Text:
    paper = "" if row["control"] else f" ({row['source'].partition(';')[0]})"
    return Text.assemble(row["summary"], (paper, "dim"))


def _print_one(row: Row) -> None:
    console().print(Text.assemble((row["name"], "bold"), f": {row['summary']}"))
    say(f"source: {row['source']}", wrap=True)
    say(f"costs: {row['parameters']:,} parameters, {row['macs']:,} MACs")
    for key, value in row["options"].items():
        say(f"option {key} = {'+'.join(map(str, value)) if isinstance(value, (list, tuple)) else value}")
