"""attngraft fit: train one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from . import options
from .output import console, print_json, say, say_notes


@options.takes(*options.TRAINING, assignments=True)
def run(
    data: options.Data,
    backbone: options.Backbone,
    run_dir: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder of the run; the same command again continues it.")
    ],
    settings: dict[str, Any],
    attention: Annotated[
        str, typer.Option(metavar="VARIANT", help="none, or NAME@WHERE:option=value,... (see attngraft sites).")
    ] = "none",
    recipe: options.RecipeName = "three-phase",
    seed: Annotated[int, typer.Option(help="Seed of head, grafts, data order, augmentation and dropout.", min=0)] = 0,
    resume: Annotated[
        Literal["auto", "never", "must"], typer.Option(help="Whether to continue a run that the folder holds.")
    ] = "auto",
    pretrained: options.Pretrained = None,
    weights: options.Weights = None,
    as_json: options.Json = False,
) -> None:
    """Train a backbone, grafted or plain, on your images."""
    import torch

    from ..backbones import create_backbone, preprocessing_of
    from ..comparison import Variant, parse_variant
    from ..locking import check_free
    from ..reporting import data_notes, run_summary, write_report
    from ..settings import resolve_settings
    from ..surgery import graft_plan, renew_head_, saved_classes
    from ..training import Reading, RunFolder, Silent, fit, join_world, open_data, starts_pretrained, watched

    resolved = resolve_settings(recipe, settings)
    world = join_world(resolved.machine)
    world.in_main(lambda: check_free(run_dir))
    variant = Variant("none", "none") if attention == "none" else parse_variant(attention)
    if variant.dynamic is not None:
        settings["dynamic"] = variant.dynamic
    preprocessing = preprocessing_of(create_backbone(backbone, num_classes=2), resolved.data.image_size)
    spec = preprocessing.input
    with watched(None if world.is_main else Silent()) as shown:
        dataset = open_data(data, resolved.data, spec=spec, recipe=resolved.recipe, progress=Reading(shown))
    pretrained = starts_pretrained(pretrained, backbone, resolved.recipe, weights)
    torch.manual_seed(seed)
    model = create_backbone(backbone, num_classes=len(dataset.classes), pretrained=pretrained, weights=weights)
    renew_head_(model, dataset.classes)
    has_new_head = saved_classes(backbone) not in ((), dataset.classes)
    variant.grow(model, variant.plan(model, spec.shape), seed)
    name = None if variant.is_plain and graft_plan(model) else variant.name  # a grafted run as backbone
    result = fit(model, dataset, recipe=recipe, run_dir=run_dir, seed=seed, resume=resume, variant=name, **settings)
    if not world.is_main:
        return
    description = RunFolder(result.run_dir).read()
    page = write_report(result.run_dir)
    if as_json:
        print_json(description)
        return
    console().print(run_summary(description))
    if has_new_head:
        say_notes([f"{backbone} was trained on other classes, so it was given a new head."])
    say_notes([*data_notes(description["data"]), *(event["text"] for event in description.get("events", ()))])
    say(f"report: {page}")
