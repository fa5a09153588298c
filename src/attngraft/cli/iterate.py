"""attngraft iterate: search until a stated requirement is met or the budget is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..comparison import split_variants
from ..continual.search.iterate import Iteration, iterate
from ..continual.search.search_space import ATTENTIONS
from ..reporting import write_report
from . import options
from .output import collect_overrides, command_line, console, data_lines, print_json

NOT_MET = 1
MOST_SHOWN = 5


def run(
    data: options.Data,
    until: Annotated[
        str, typer.Option(help="The requirement: METRIC OP NUMBER, joined by and: 'top1>=93% and latency_ms<=5'.")
    ],
    budget: Annotated[str, typer.Option(help="Time that may be used: 90s, 45m, 2h, 1h30m.")],
    backbone: options.Backbone,
    out: Annotated[Path, typer.Option(help="Folder of the search; the same command again continues it.")],
    trials: Annotated[
        int | None, typer.Option(help="The most that are tried; by default what the budget allows.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many times the finalist is trained.")] = 3,
    attention: Annotated[
        str, typer.Option(help="Variants to choose from, NAME@WHERE:option=value,..., comma-separated.")
    ] = ",".join(ATTENTIONS),
    recipe: Annotated[
        str | None, typer.Option(help="Recipes to choose from, comma-separated, the habit first.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the search and its trials.")] = 0,
    epochs: options.Epochs = None,
    image_size: options.ImageSize = None,
    batch_size: options.BatchSize = None,
    augment: options.Augment = None,
    pretrained: options.Pretrained = None,
    weights: options.Weights = None,
    precision: options.PrecisionName = None,
    device: options.Device = None,
    workers: options.Workers = None,
    on_nonfinite: options.OnNonfinite = None,
    skip_broken: options.SkipBroken = None,
    limit: options.Limit = None,
    root: options.Root = None,
    download: options.Download = None,
    set_: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Search attentions, places and recipes until a requirement is met or the budget is spent; exit code 1 if not met."""
    overrides = collect_overrides(
        set_ or (),
        epochs=epochs,
        image_size=image_size,
        batch_size=batch_size,
        augment=augment,
        precision=precision,
        device=device,
        workers=workers,
        on_nonfinite=on_nonfinite,
        skip_broken=skip_broken,
        limit=limit,
        root=str(root) if root else None,
        download=download,
    )
    result = iterate(
        data,
        until=until,
        budget=budget,
        backbone=backbone,
        run_dir=out,
        seeds=seeds,
        trials=trials,
        attentions=split_variants(attention),
        recipes=[name.strip() for name in recipe.split(",")] if recipe else None,
        pretrained=pretrained,
        weights=weights,
        seed=seed,
        command=command_line(),
        **overrides,
    )
    page = write_report(result.run_dir)
    if as_json:
        print_json(json.loads(result.to_json()))
    else:
        _print(result, page)
    if not result.is_met:
        raise typer.Exit(NOT_MET)


def _print(result: Iteration, page: Path) -> None:
    out = console()
    out.print(_best_trials(result))
    for line in [*data_lines(result.document["data"]), *result.document["notes"]]:
        out.print(f"note: {line}", markup=False)
    out.print(result.sentence, markup=False, style="bold")
    if result.model is not None:
        out.print(f"model: {result.model}", markup=False, soft_wrap=True)
    out.print(f"report: {page}", markup=False, soft_wrap=True)


def _best_trials(result: Iteration) -> Table:
    rows = [row for row in result.document["trials"] if row["status"] == "finished"]
    best = sorted(rows, key=lambda row: -row["score"])[:MOST_SHOWN]
    table = Table(title=f"best of {len(result.document['trials'])} trials, on the validation images")
    for name in ("trial", "variant", "recipe"):
        table.add_column(name, overflow="fold")
    for name in ("top-1", "lr", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in best:
        lr = row["params"].get("lr_scale")
        table.add_row(
            str(row["number"]),
            Text(row["variant"]),
            Text(row["recipe"]),
            f"{100 * row['measured']['top1']['value']:.1f} %",
            "" if lr is None else f"x {lr:g}",
            f"{row['time_s']:.0f} s",
        )
    return table
