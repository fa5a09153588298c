"""attngraft fit: train one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from ..settings import USUAL_RECIPE
from . import options
from .again import keep_answer, question, say_again
from .options import option
from .output import print_json
from .printout import Printout


@options.takes(*options.TRAINING, assignments=options.SETTINGS)
def run(
    data: options.Data,
    backbone: options.Backbone,
    run_dir: Annotated[Path, option("Folder of the run; the same command again continues it.", "FOLDER", *options.OUT)],
    settings: dict[str, Any],
    attention: Annotated[
        str, option("none, or NAME@WHERE:option=value,... (see attngraft sites).", "VARIANT")
    ] = "none",
    recipe: options.RecipeName = USUAL_RECIPE,
    seed: Annotated[int, option("Seed of head, grafts, data order, augmentation and dropout.", min=0)] = 0,
    resume: Annotated[
        Literal["auto", "never", "must"], option("Whether to continue a run that the folder holds.")
    ] = "auto",
    pretrained: options.Pretrained = None,
    weights: options.Weights = None,
    as_json: options.Json = False,
) -> None:
    """Train a backbone, grafted or plain, on your images."""
    before = question(
        *("fit", run_dir, [data], settings, recipe),
        backbone=backbone,
        attention=attention,
        seed=seed,
        resume=resume,
        pretrained=pretrained,
        weights=weights,
    )
    if resume != "never" and say_again(before, as_json):
        return
    from ..backbones import preprocessing_of
    from ..comparison import Variant, parse_variant
    from ..comparison.build_model import ModelSource
    from ..config import to_dict
    from ..locking import check_free
    from ..reporting import data_notes, run_summary, write_report
    from ..settings import resolve_settings
    from ..surgery import backbone_spec, graft_plan, saved_classes
    from ..training import Reading, RunFolder, Silent, fit, join_world, open_data, starts_pretrained, watched
    from ..training.preflight import check_grafts_learn

    chosen = resolve_settings(recipe, settings)
    world = join_world(chosen.machine)
    world.in_main(lambda: check_free(run_dir))
    variant = Variant("none", "none") if attention == "none" else parse_variant(attention)
    chosen = replace(chosen, recipe=variant.recipe(chosen.recipe))
    check_grafts_learn(chosen.recipe, has_grafts=not variant.is_plain)
    backbone = backbone_spec(backbone)
    start = starts_pretrained(pretrained, backbone, chosen.recipe, weights)
    source = ModelSource(backbone, start, weights, allow_grafts=True, in_channels=chosen.data.channels)
    preprocessing = chosen.data.preprocessing(preprocessing_of(source.template()))
    with watched(None if world.is_main else Silent()) as progress:
        begun, reading = RunFolder(run_dir).record_file, Reading(progress)
        dataset = open_data(data, chosen, preprocessing=preprocessing, begun=begun, progress=reading)
    model = source.build(dataset.classes, variant, seed, shape=preprocessing.input.shape)
    has_new_head = saved_classes(backbone) not in ((), dataset.classes)
    name = None if variant.is_plain and graft_plan(model) else variant.name  # a grafted run as backbone
    result = fit(model, dataset, recipe=chosen, run_dir=run_dir, seed=seed, resume=resume, variant=name)
    if not world.is_main:
        return
    record = RunFolder(result.run_dir).read()
    page = write_report(result.run_dir)
    shown = Printout()
    shown.table(run_summary(record))
    if has_new_head:
        shown.notes([f"{backbone} was trained for other outputs, so it was given a new head."])
    shown.notes([*data_notes(to_dict(record.data)), *(event.text for event in record.events)])
    shown.say(f"report: {page}")
    keep_answer(before, shown, "run.json", left_out=("kind", "format"))
    if as_json:
        print_json(record.to_json())
    else:
        shown.show()
