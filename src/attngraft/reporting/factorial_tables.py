"""The 2 x 2 tables of CBAM and its halves, each trained on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .number_format import interval, percent, points
from .tables import Table

EFFECTS = {"channel": "channel gates", "spatial": "spatial gates", "interaction": "interaction of both"}


def square_tables(comparison: Mapping[str, Any]) -> list[dict[str, Table]]:
    """Of each complete square its "cells" and its "effects"; nothing for a comparison without one."""
    first = comparison.get("factorial")
    seeds = len(comparison["seeds"])
    n = f"{seeds} seed{'' if seeds == 1 else 's'}"
    squares = [first, *first["others"]] if first else []
    return [{"cells": _cells(square, n), "effects": _effects(square)} for square in squares]


def _cells(square: Mapping[str, Any], n: str) -> Table:
    names = square["variants"]
    texts = {half: f"{percent(top1)} ({names[half]})" for half, top1 in square["cells"].items()}
    rows = (
        ("without channel gates", texts["none"], texts["spatial"]),
        ("with channel gates", texts["channel"], texts["both"]),
    )
    columns = ("mean top-1", "without spatial gates", "with spatial gates")
    return Table(f"'{names['both']}' and its halves, {n}", columns, rows)


def _effects(square: Mapping[str, Any]) -> Table:
    rows = tuple((word, points(square[key]["mean"], 2), interval(dict(square[key]))) for key, word in EFFECTS.items())
    return Table(f"Main effects and interaction, '{square['variants']['both']}'", ("", "points", "95 % interval"), rows)
