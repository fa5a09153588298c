"""attngraft iterate: search until a stated requirement is met or the budget is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .again import keep_answer, question, say_again
from .options import option
from .output import command_line, names, print_json
from .printout import Printout

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
    asked = None
    if not any(name.endswith(".toml") for name in names(recipe or "")):  # files that the search itself compares
        asked = question(
            *("iterate", out, [data], settings, None),
            recipes=recipe,
            until=until,
            budget=budget,
            backbone=backbone,
            trials=trials,
            seeds=seeds,
            attention=attention,
            seed=seed,
            pretrained=pretrained,
            weights=weights,
        )
    before = say_again(asked, as_json)
    if before is not None:
        _leave(before["is_met"])
        return
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
    shown = _printout(result, page)
    keep_answer(asked, shown, "iterate.json", is_met=result.is_met)
    if as_json:
        print_json(json.loads(result.to_json()))
    else:
        shown.show()
    _leave(result.is_met)


def _leave(is_met: bool) -> None:
    if not is_met:
        raise typer.Exit(NOT_MET)


def _printout(result: Iteration, page: Path) -> Printout:
    from ..reporting import best_trials_table, data_notes

    shown = Printout()
    shown.table(best_trials_table(result.record))
    shown.notes([*data_notes(result.document["data"]), *result.document["notes"]])
    shown.say(result.sentence, wrap=True, style="bold")
    if result.model is not None:
        shown.say(f"model: {result.model}")
    shown.say(f"report: {page}")
    return shown
