"""attngraft compare: with and without attention, honestly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .options import option
from .output import command_line, console, print_json, say, say_notes


@options.takes(*options.TRAINING, assignments=True)
def run(
    data: options.Data,
    backbone: options.Backbone,
    settings: dict[str, Any],
    attention: Annotated[
        str,
        option(
            "Variants, comma-separated: NAME@WHERE:option=value,...; none compares the backbone with itself.",
            "VARIANTS",
        ),
    ] = "cbam",
    controls: Annotated[str, option("Controls, comma-separated: static, capacity, larger, longer.", "NAMES")] = "",
    seeds: Annotated[str, option("Number of seeds, or the seeds: 3, or 0,1,7.", "SEEDS")] = "3",
    recipe: options.RecipeName = "three-phase",
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What decides: top1, balanced-accuracy, macro-f1, auroc, sensitivity@specificity, quadratic-kappa, "
            "top5, nll or brier; map, macro-f1 or micro-f1 for several labels; mae, rmse or r2 for numbers.  "
            "[default: top1, map or mae]",
        ),
    ] = None,
    margin: Annotated[
        float | None,
        option(
            "A difference that matters, in points or the metric's unit: also say as good as, no worse or worse.", "SIZE"
        ),
    ] = None,
    looks: Annotated[
        str | None,
        option(
            "Numbers of seeds after which to look, or auto for 5,8,12: train on until settled or futile, with one "
            "error rate over all looks.",
            "COUNTS",
        ),
    ] = None,
    tune: Annotated[
        int, option("Trials of learning rates that every variant gets on validation images before the seeds.", "N")
    ] = 0,
    robustness: Annotated[
        bool, options.switch("--robustness", "Also compare under eight corruptions of the test images.")
    ] = False,
    run_dir: Annotated[
        Path | None,
        option(
            "Folder of the comparison; the same command again continues it.  [default: runs/compare-DATA-BACKBONE]",
            "FOLDER",
        ),
    ] = None,
    pretrained: options.Pretrained = None,
    weights: options.Weights = None,
    as_json: options.Json = False,
) -> None:
    """Train with and without attention and say what the difference is worth.

    Every variant is trained with the same seeds and the same recipe.
    """
    from ..comparison import compare, split_variants
    from ..reporting import comparison_table, data_notes, write_report
    from ..training import join_world

    result = compare(
        data,
        backbone=backbone,
        attentions=split_variants(attention),
        controls=split_variants(controls),
        seeds=_seeds(seeds),
        recipe=recipe,
        metric=metric,
        margin=margin,
        looks=looks,
        tune=tune,
        robustness=robustness,
        pretrained=pretrained,
        weights=weights,
        run_dir=run_dir or usual_folder(data, backbone),
        command=command_line(),
        **settings,
    )
    if not join_world().is_main:
        return
    page = write_report(result.run_dir)
    if as_json:
        print_json(json.loads(result.to_json()))
        return
    console().print(comparison_table(result.document))
    say_notes(data_notes(result.document["data"]))
    say(result, wrap=True, style="bold")
    say(f"report: {page}")


def _seeds(text: str) -> int | list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise typer.BadParameter(
            f"'{text}': expected a number such as 3, or a list such as 0,1,7.", param_hint="--seeds"
        )
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else numbers


def usual_folder(data: str, backbone: str) -> Path:
    """The folder of a comparison where none is named."""
    return Path("runs") / f"compare-{_slug(data)}-{_slug(backbone)}"


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in Path(text).name or text).strip("-")
