"""attngraft power: plan a comparison before its seeds are spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import command
from ..settings import USUAL_RECIPE
from . import options
from .options import option
from .output import console, print_json, say

NOT_POSSIBLE = 1


@options.takes(*options.TRAINING, assignments=options.SETTINGS)
def run(
    detect: Annotated[float, option("The effect to find, in points or the metric's unit.", "SIZE")],
    settings: dict[str, Any],
    data: Annotated[str | None, options.argument("[DATA]", "As for compare; not needed with --from.")] = None,
    backbone: Annotated[str | None, option("As for compare; not needed with --from.", "NAME")] = None,
    attention: Annotated[str, option("Variants of the comparison, comma-separated.", "VARIANTS")] = "cbam",
    power: Annotated[float, option("Chance to find the effect.", min=0.0, max=1.0)] = 0.8,
    from_: Annotated[
        list[Path] | None,
        option("Folder of an earlier comparison to plan from, instead of a pilot. Repeatable.", "FOLDER", "--from"),
    ] = None,
    images: Annotated[int | None, option("Test images of the comparison, where they are others.")] = None,
    recipe: options.RecipeName = USUAL_RECIPE,
    metric: Annotated[str | None, option("What decides, as for compare.", "NAME")] = None,
    out: Annotated[
        Path | None,
        option(
            "Folder of the pilot and the comparison.  [default: runs/compare-DATA-BACKBONE]", "FOLDER", *options.OUT
        ),
    ] = None,
    pretrained: options.Pretrained = None,
    weights: options.Weights = None,
    as_json: options.Json = False,
) -> None:
    """Plan how many seeds, test images and hours find an effect that matters.

    The noise comes from earlier comparisons (--from), or from a pilot of three seeds, which is the comparison's first
    look. The exit code is 1 if no number of seeds finds the effect.
    """
    from ..comparison import power as plan
    from ..reporting import power_table
    from .compare import usual_folder

    folder = out or (usual_folder(data, backbone) if data and backbone else None)
    found = plan(
        data,
        detect=detect,
        power=power,
        backbone=backbone,
        attentions=attention,
        runs=from_ or (),
        images=images,
        recipe=recipe,
        metric=metric,
        pretrained=pretrained,
        weights=weights,
        run_dir=folder,
        **settings,
    )
    if as_json:
        print_json(json.loads(found.to_json()))
    else:
        console().print(power_table(found))
        say(found, wrap=True, style="bold")
        if found.looks is not None and folder is not None and not from_:
            counts = ",".join(map(str, found.looks))
            asked = (data, "--backbone", backbone, "--attention", attention, "--looks", counts, "--out", folder)
            say("go on with the same settings:")
            say(command("compare", *asked))
    if found.row.seeds is None:
        raise typer.Exit(NOT_POSSIBLE)
