"""attngraft fit: train one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from ..backbones import create_backbone, preprocessing_of
from ..comparison import Variant, parse_variant
from ..locking import check_free
from ..reporting import run_summary, write_report
from ..surgery import graft_plan, renew_head_, saved_classes
from ..training import Reading, Resume, RunFolder, fit, open_data, resolve_settings, starts_pretrained, watched
from . import options
from .output import collect_overrides, console, data_lines, print_json


def run(
    data: options.Data,
    backbone: options.Backbone,
    run_dir: Annotated[Path, typer.Option(help="Folder of the run; the same command again continues it.")],
    attention: Annotated[str, typer.Option(help="Variant NAME@WHERE:option=value,..., or none.")] = "none",
    recipe: options.RecipeName = "three-phase",
    seed: Annotated[int, typer.Option(help="Of head, grafts, data order, augmentation and dropout.", min=0)] = 0,
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
    fix_leaks: options.FixLeaks = None,
    limit: options.Limit = None,
    root: options.Root = None,
    download: options.Download = None,
    tensorboard: Annotated[bool | None, typer.Option("--tensorboard", help="Write TensorBoard files too.")] = None,
    resume: Annotated[Resume, typer.Option(help="auto, never or must.")] = "auto",
    set_: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Train a backbone, grafted or plain, on your images."""
    check_free(run_dir)
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
        fix_leaks=fix_leaks,
        limit=limit,
        root=str(root) if root else None,
        download=download,
        tensorboard=tensorboard,
    )
    settings = resolve_settings(recipe, overrides)
    variant = Variant("none", "none") if attention == "none" else parse_variant(attention)
    if variant.dynamic is not None:
        overrides["dynamic"] = variant.dynamic
    preprocessing = preprocessing_of(create_backbone(backbone, num_classes=2), settings.data.image_size)
    spec = preprocessing.input
    with watched(None) as shown:
        dataset = open_data(data, settings.data, spec=spec, recipe=settings.recipe, progress=Reading(shown))
    pretrained = starts_pretrained(pretrained, backbone, settings.recipe, weights)
    torch.manual_seed(seed)
    model = create_backbone(backbone, num_classes=len(dataset.classes), pretrained=pretrained, weights=weights)
    renew_head_(model, dataset.classes)
    has_new_head = saved_classes(backbone) not in ((), dataset.classes)
    variant.grow(model, variant.plan(model, spec.shape), seed)
    name = None if variant.is_plain and graft_plan(model) else variant.name  # a grafted run as backbone
    result = fit(model, dataset, recipe=recipe, run_dir=run_dir, seed=seed, resume=resume, variant=name, **overrides)
    description = RunFolder(result.run_dir).read()
    page = write_report(result.run_dir)
    if as_json:
        print_json(description)
        return
    out = console()
    out.print(run_summary(description))
    if has_new_head:
        out.print(f"note: {backbone} was trained on other classes, so it was given a new head.", markup=False)
    for line in data_lines(description["data"]):
        out.print(f"note: {line}", markup=False)
    for event in description.get("events", ()):
        out.print(f"note: {event['text']}", markup=False)
    out.print(f"report: {page}", markup=False, soft_wrap=True)
