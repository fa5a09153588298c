"""attngraft attentions: the table of what can be grafted."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from ..attention import ATTENTIONS, attention_options, create_attention
from ..costs import count_macs, count_parameters
from .output import console, print_json


def run(
    name: Annotated[str | None, typer.Argument(help="Show one attention with its options.")] = None,
    channels: Annotated[
        int, typer.Option(min=1, help="Channels of the feature map that the costs are given for.")
    ] = 256,
    size: Annotated[int, typer.Option(min=1, help="Height and width of that feature map.")] = 14,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List the attentions with their parameters, multiply-accumulates and sources."""
    rows = attention_rows(channels, size)
    if name is not None:
        rows = [row for row in rows if row["name"] == ATTENTIONS[name].name]
    if as_json:
        print_json(rows)
    elif name is None:
        console().print(_table(rows, channels, size))
    else:
        _print_one(rows[0])


def _table(rows: list[dict[str, Any]], channels: int, size: int) -> Table:
    table = Table(
        title=f"attentions, costs on {channels} x {size} x {size}", caption="attngraft attentions NAME shows options"
    )
    table.add_column("name", no_wrap=True)
    table.add_column("parameters", justify="right")
    table.add_column("MACs", justify="right")
    table.add_column("what it does and where it is from")
    for row in rows:
        paper = row["source"].partition(";")[0]
        text = f"{row['summary']} [dim]({paper})[/]" if not row["control"] else row["summary"]
        table.add_row(row["name"], f"{row['parameters']:,}", f"{row['macs']:,}", text)
    return table


def _print_one(row: dict[str, Any]) -> None:
    out = console()
    out.print(f"[bold]{row['name']}[/]: {row['summary']}", markup=True)
    out.print(f"source: {row['source']}", markup=False)
    out.print(f"costs: {row['parameters']:,} parameters, {row['macs']:,} MACs")
    for key, value in row["options"].items():
        out.print(f"option {key} = {_plain(value)}", markup=False)


def attention_rows(channels: int, size: int) -> list[dict[str, Any]]:
    """One row per attention, for one feature map of (channels, size, size)."""
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


def _plain(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
