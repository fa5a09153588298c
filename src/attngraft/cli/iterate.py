"""attngraft iterate: search until a stated requirement is met or the budget is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .options import option
from .output import command_line, console, names, print_json, say, say_notes

if TYPE_CHECKING:
    from ..continual import Iteration

NOT_MET = 1


@options.takes(*options.TRAINING, assignments=options.SETTINGS)
def run(
    data: options.Data,
    until: Annotated[str, option("METRIC OP NUMBER, joined by and: 'top1>=93% and latency_ms<=5'.", "REQUIREMENT")],
    budget: Annotated[str, option("Time that may be used: 90s, 45m, 2h, 1h30m.", "TIME")],
    backbone: options.Backbone,
    out: Annotated[Path, option("Folder of the search; the same command again continues it.", "FOLDER", *options.OUT)],
    settings: dict[str, Any],
    trials: Annotated[int | None, option("Largest number of trials; by default what the budget allows.")] = None,
    seeds: Annotated[int, option("How many times the best trial is trained again.")] = 3,
    attention: Annotated[
        str, option("Variants to choose from, comma-separated: NAME@WHERE:option=value,...", "VARIANTS")
    ] = "none,cbam,se,eca,coord",
    recipe: Annotated[
        str | None, option("Recipes to choose from, comma-separated; the first is the usual one.", "NAMES")
    ] = None,
    seed: Annotated[int, option("Seed of the search and its trials.")] = 0,
    pretrained: options.Pretrained = None,
    weights: options.Weights = None,
    as_json: options.Json = False,
) -> None:
    """Search until a requirement is met or the budget is spent.

    Attentions, sites, recipes and learning rates are searched. The exit code is 1 if the requirement is not met.
    """
    from ..comparison import split_variants
    from ..continual import iterate
    from ..reporting import write_report

    result = iterate(
        data,
        until=until,
        budget=budget,
        backbone=backbone,
        run_dir=out,
        seeds=seeds,
        trials=trials,
        attentions=split_variants(attention),
        recipes=list(names(recipe)) if recipe else None,
        pretrained=pretrained,
        weights=weights,
        seed=seed,
        command=command_line(),
        **settings,
    )
    page = write_report(result.run_dir)
    if as_json:
        print_json(json.loads(result.to_json()))
    else:
        _print(result, page)
    if not result.is_met:
        raise typer.Exit(NOT_MET)


def _print(result: Iteration, page: Path) -> None:
    from ..reporting import best_trials_table, data_notes

    console().print(best_trials_table(result.record))
    say_notes([*data_notes(result.document["data"]), *result.document["notes"]])
    say(result.sentence, wrap=True, style="bold")
    if result.model is not None:
        say(f"model: {result.model}")
    say(f"report: {page}")
