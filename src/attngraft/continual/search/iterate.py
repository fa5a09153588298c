"""Search until a stated requirement is met or the budget is spent.

The search sees training and validation images only. The best trial is trained anew with several seeds and tested once on
the test images; the requirement is met where the interval of that result says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...backbones import backbone_info, has_pretrained
from ...comparison import split_variants
from ...comparison.build_model import ModelSource
from ...config import Preprocessing
from ...data import Dataset
from ...data.leak_pictures import write_leak_pictures
from ...errors import ConfigError, DataError, RunError
from ...locking import only_one
from ...settings import check_lr_given
from ...settings.recipe import USUAL_RECIPE, recipe_fields
from ...surgery.own_networks import Backbone, backbone_spec
from ...tasks import Task, create_task
from ...training import (
    DataRecord,
    Precision,
    Progress,
    Reading,
    Recipe,
    Settings,
    choose_precision,
    join_world,
    load_recipe,
    open_data,
    parse_precision,
    resolve_settings,
    starts_pretrained,
    watched,
)
from ...training.open_data import VALIDATION_SHARE
from .budget import Clock, parse_budget
from .requirement import parse_requirement, quantities_of, split_requirement
from .search_context import SearchContext
from .search_loop import conclude, search
from .search_record import ITERATION_FILE, LOCK_FILE, ClauseRecord, Iteration, SearchRecord, check_folder, open_search
from .search_space import ATTENTIONS, build_space, require_optuna

FINE_TUNING = (USUAL_RECIPE, "one-cycle")
FROM_RANDOM = ("one-cycle", "scratch")
CLOCK_FILE = "clock.json"


def iterate(
    data: str | Path | Dataset | Any,
    *,
    until: str,
    budget: str | float,
    backbone: Backbone,
    run_dir: str | Path,
    seeds: int = 3,
    trials: int | None = None,
    attentions: Sequence[str] = ATTENTIONS,
    recipes: Sequence[str | Path | Recipe] | None = None,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    command: str | None = None,
    **overrides: Any,
) -> Iteration:
    """Search attentions, places and recipes for a model that meets a requirement.

    Args:
        data: whatever `load_data` takes, or what it returns, with validation images.
        until: the requirement, for example "top1>=93% and latency_ms<=5".
        budget: of time: "90s", "45m", "2h", "1h30m", or seconds. Only the finalist may exceed it.
        backbone: as for `compare`.
        run_dir: a new folder, or that of the same search to be continued.
        seeds: number of trainings of the finalist.
        trials: largest number; what the budget allows where not given.
        attentions: variants to choose from; the plain backbone is "none".
        recipes: to choose from, the default first; "full" and "one-cycle" for pretrained backbones, "one-cycle" and
            "scratch" for others, where not given. All get as many epochs as the first.
        pretrained: start from published weights; where not given, yes if there are any.
        weights: a file of weights to start from, as for `create_backbone`.
        preprocessing: how a network of your own wants its images, as for `fit`; what is assumed without it is logged.
        seed: of the search and of its trials; the finalist's are those that follow.
        progress: where to show progress; a bar on a terminal where not given.
        command: the command line, for the record.
        **overrides: fields of `Recipe`, `DataSettings` and `MachineSettings`, and `epochs`; what is given here is not
            searched.

    Raises:
        ConfigError, BackboneError, DataError, GraftError, RunError: an argument does not fit, or the folder is in use or
            belongs to another search.
        KeyboardInterrupt: interrupted; the same call continues.
    """
    started, backbone = time.monotonic(), backbone_spec(backbone)
    require_optuna()
    split_requirement(until)
    budget_s = parse_budget(budget)
    _check_counts(seeds, trials, seed)
    start = None if weights is None else Path(weights).expanduser()
    has_weights = start is not None or (has_pretrained(backbone) if pretrained is None else pretrained)
    names = recipes or (FINE_TUNING if has_weights else FROM_RANDOM)
    variants = split_variants(attentions) if isinstance(attentions, str) else attentions
    searched, settings = _settings(names, overrides)
    published = starts_pretrained(pretrained, backbone, searched[0], start)
    source = ModelSource(backbone, published, start, in_channels=settings.data.channels, preprocessing=preprocessing)
    device, folder = settings.machine.resolve_device(), Path(run_dir).expanduser()
    check_folder(folder)
    with watched(progress) as shown:
        template = source.template()
        source, used = source.settled(template, settings.data)
        spec = used.input
        space = build_space(variants, searched, set(overrides) & set(recipe_fields()), template, spec)
        first = replace(settings, recipe=searched[0])
        begun, reading = folder / ITERATION_FILE, Reading(shown)
        dataset = open_data(data, first, preprocessing=used, begun=begun, progress=reading)
        used = replace(used, depth=dataset.depth)
        blind, task = _without_test_images(dataset), create_task(dataset.task, dataset.classes)
        space = space.without(_unsupported(task))
        requirement = parse_requirement(until, known := quantities_of(task))
        info = backbone_info(source.fresh(dataset.classes, 0))  # weights that are not available are an error now
        wanted = SearchRecord(
            until=str(requirement),
            clauses=tuple(ClauseRecord(c.metric, c.operator, c.number) for c in requirement.clauses),
            budget_s=budget_s,
            trials_asked=trials,
            seeds=seeds,
            seed=seed,
            backbone=backbone,
            pretrained=source.pretrained,
            weights=info.weights if start is not None and info is not None else None,
            space=space.describe(),
            preprocessing=used,
            data=DataRecord.of(dataset),
            quantities={name: quantity.describe() for name, quantity in known.items()},
            group_by=dataset.grouped_by,
            command=command,
        )
        with only_one(folder / LOCK_FILE):
            opened = open_search(folder, wanted)
            if opened.record.status != "finished":
                write_leak_pictures(folder, dataset)
                context = SearchContext(
                    source=source,
                    space=space,
                    settings=settings,
                    task=task,
                    dataset=blind,
                    preprocessing=used,
                    precision=_precision(opened, settings, template, used, device),
                    device=device,
                    requirement=requirement,
                    clock=Clock(folder / CLOCK_FILE, budget_s, started),
                    iteration=opened,
                    progress=shown,
                )
                with context.clock.written_at_the_end():
                    search(context, trials)
                    conclude(context, dataset)
            return opened


def _check_counts(seeds: int, trials: int | None, seed: int) -> None:
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}: expected at least 1, and 3 to say something about other seeds.")
    if trials is not None and trials < 1:
        raise ConfigError(f"trials is {trials}: expected at least 1.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}: expected 0 or more.")
    if join_world().size > 1:
        raise ConfigError("a search runs in one process: start it without torchrun.")


def _settings(
    names: str | Sequence[str | Path | Recipe], overrides: Mapping[str, Any]
) -> tuple[list[Recipe], Settings]:
    """The recipes, all as long as the first, and the other settings, with validation images."""
    every = [
        check_lr_given(resolve_settings(name, overrides)) for name in ([names] if isinstance(names, str) else names)
    ]
    first = every[0]
    recipes = [load_recipe(settings.recipe, epochs=first.recipe.epochs) for settings in every]
    share = first.data.val_fraction or VALIDATION_SHARE
    return recipes, replace(first, data=replace(first.data, val_fraction=share))


def _without_test_images(dataset: Dataset) -> Dataset:
    """The data with the validation images in place of the test images, which a search does not see."""
    if dataset.val is None:
        raise DataError(
            f"{dataset.name} has no validation images, by which the search decides: load it with val_fraction=0.15."
        )
    note = "in this run the validation images stand in for the test images, which a search does not see."
    report = replace(dataset.report, notes=(*dataset.report.notes, note))
    return replace(dataset, test=dataset.val, report=report)


def _unsupported(task: Task) -> set[str]:
    """Choices of the search space that this task does not have."""
    needs = {"mixup": "mix", "label_smoothing": "label-smoothing"}
    return {choice for choice, capability in needs.items() if capability not in task.supports}


def _precision(
    opened: Iteration, settings: Settings, template: nn.Module, preprocessing: Preprocessing, device: torch.device
) -> Precision:
    """The precision of all models of the search, timed once and kept."""
    fixed, found = parse_precision(settings.machine.precision), opened.record.precision
    if found is not None:
        if fixed not in (None, found):
            raise RunError(f"the search in {opened.run_dir} was begun with precision {found}: choose a new folder.")
        return found
    opened.record.precision = fixed or choose_precision(
        template, spec=preprocessing.input, batch_size=settings.recipe.batch_size, device=device
    )
    opened.write()
    return opened.record.precision
