"""Search until a stated requirement is met or the budget is spent, and say the truth about it.

The search sees training and validation images only. What it finds best is trained anew with several seeds and answers
the test images once; the requirement is met where the interval of that answer says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...backbones import backbone_info, has_pretrained, preprocessing_of
from ...comparison import split_variants
from ...comparison.build_model import ModelSource
from ...config import Preprocessing, from_dict, to_dict
from ...data import Dataset
from ...errors import ConfigError, DataError, RunError
from ...locking import only_one
from ...settings.recipe import recipe_fields
from ...surgery.serialization import MODEL_FILE
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
from .proposals import require_optuna
from .requirement import Requirement, parse_requirement
from .search_folder import LOCK_FILE, SearchRecord, check_folder, open_record
from .search_loop import conclude, search
from .search_space import ATTENTIONS, build_space
from .trials import Workshop

FINE_TUNING = ("three-phase", "one-cycle")
FROM_RANDOM = ("one-cycle", "scratch")
CLOCK_FILE = "clock.json"


@dataclass(frozen=True)
class Iteration:
    """The outcome of a search, as it stands in `iterate.json`.

    Attributes:
        run_dir: its folder.
        document: the content of `iterate.json`.
    """

    run_dir: Path
    document: Mapping[str, Any]

    @property
    def is_met(self) -> bool:
        return self.verdict == "met"

    @property
    def verdict(self) -> str:
        """ "met" or "not met"."""
        return str(self.document["verdict"])

    @property
    def sentence(self) -> str:
        return str(self.document["sentence"])

    @property
    def model(self) -> Path | None:
        """The finalist's model of the first seed; None where nothing could be trained."""
        path = self.run_dir / MODEL_FILE
        return path if path.is_file() else None

    def to_json(self) -> str:
        return json.dumps(self.document, indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        return "\n".join([self.sentence, *self.document["notes"]])


def iterate(
    data: str | Path | Dataset,
    *,
    until: str,
    budget: str | float,
    backbone: str,
    run_dir: str | Path,
    seeds: int = 3,
    trials: int | None = None,
    attentions: Sequence[str] = ATTENTIONS,
    recipes: Sequence[str | Path | Recipe] | None = None,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    command: str | None = None,
    **overrides: Any,
) -> Iteration:
    """Search attentions, places and recipes for a model that is as good as asked.

    Args:
        data: a folder of class folders, the name of a built-in data set, or a loaded one with validation images.
        until: the requirement, for example "top1>=93% and latency_ms<=5".
        budget: of time: "90s", "45m", "2h", "1h30m", or seconds. Only the finalist may exceed it.
        backbone: as for `create_backbone`.
        run_dir: a new folder, or that of the same search to be continued.
        seeds: how many times the finalist is trained.
        trials: the most that are tried; as many as the budget allows where not given.
        attentions: variants to choose from; the plain backbone is "none".
        recipes: to choose from, the habit first; "three-phase" and "one-cycle" for pretrained backbones, "one-cycle" and
            "scratch" for others, where not given. All get as many epochs as the first.
        pretrained: start from published weights; where not given, yes if there are any.
        weights: a file of weights to start from, as for `create_backbone`.
        seed: of the search and of its trials; the finalist's are those that follow.
        progress: where to show progress; a bar on a terminal where not given.
        command: the command line, for the record.
        **overrides: fields of `Recipe`, `DataSettings` and `MachineSettings`, and `epochs`; what is given here is not
            searched.

    Raises:
        ConfigError, BackboneError, DataError, GraftError, RunError: what was asked for does not fit, or the folder is
            in use or belongs to another search.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    started = time.monotonic()
    require_optuna()
    requirement, budget_s = parse_requirement(until), parse_budget(budget)
    _check_counts(seeds, trials, seed)
    start = None if weights is None else Path(weights)
    names = recipes or (FINE_TUNING if start or _has_weights(pretrained, backbone) else FROM_RANDOM)
    searched, settings = _settings(names, overrides)
    pretrained = starts_pretrained(pretrained, backbone, searched[0], start)
    device, folder = settings.machine.resolve_device(), Path(run_dir)
    check_folder(folder)
    with watched(progress) as shown:
        source = ModelSource(backbone, pretrained, start)
        template = source.template()
        preprocessing = preprocessing_of(template, settings.data.image_size)
        spec = preprocessing.input
        space = build_space(_listed(attentions), searched, _fixed(overrides), template, spec)
        dataset = open_data(data, replace(settings, recipe=searched[0]), spec=spec, progress=Reading(shown))
        _check_data(dataset, requirement)
        # weights that cannot be had: say so now
        info = backbone_info(source.fresh(dataset.classes, 0))
        request = {
            "until": str(requirement),
            "clauses": [asdict(clause) for clause in requirement.clauses],
            "budget_s": budget_s,
            "trials_asked": trials,
            "seeds": seeds,
            "seed": seed,
            "backbone": backbone,
            "pretrained": pretrained,
            "weights": info.weights if start is not None and info is not None else None,
            "space": space.describe(),
            "preprocessing": to_dict(preprocessing),
            "data": to_dict(DataRecord.of(dataset)),
        }
        with only_one(folder / LOCK_FILE):
            record = open_record(folder, request)
            if record.document["status"] == "finished":
                return Iteration(folder, record.document)
            record.document.setdefault("command", command)
            precision = _precision(record, settings, template, preprocessing, device)
            clock = Clock(folder / CLOCK_FILE, budget_s, started)
            shop = Workshop(
                source, space, settings, _blind(dataset), preprocessing, precision, device,
                requirement, seeds, seed, clock, record, shown,
            )  # fmt: skip
            with clock.written_at_the_end():
                search(shop, trials)
                conclude(shop, dataset)
            return Iteration(folder, record.document)


def _check_counts(seeds: int, trials: int | None, seed: int) -> None:
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}: expected at least 1, and 3 to say something about other seeds.")
    if trials is not None and trials < 1:
        raise ConfigError(f"trials is {trials}: expected at least 1.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}: expected 0 or more.")
    if join_world().size > 1:
        raise ConfigError("a search runs in one process: start it without torchrun.")


def _has_weights(asked: bool | None, backbone: str) -> bool:
    return has_pretrained(backbone) if asked is None else asked


def _listed(attentions: str | Sequence[str]) -> list[str]:
    return split_variants(attentions) if isinstance(attentions, str) else list(attentions)


def _settings(
    names: str | Sequence[str | Path | Recipe], overrides: Mapping[str, Any]
) -> tuple[list[Recipe], Settings]:
    """The recipes, all as long as the first, and the other settings, with validation images."""
    every = [resolve_settings(name, overrides) for name in ([names] if isinstance(names, str) else names)]
    first = every[0]
    recipes = [load_recipe(settings.recipe, epochs=first.recipe.epochs) for settings in every]
    share = first.data.val_fraction or VALIDATION_SHARE
    return recipes, replace(first, data=replace(first.data, val_fraction=share))


def _fixed(overrides: Mapping[str, Any]) -> set[str]:
    """Fields of the recipe that the user has set."""
    return set(overrides) & set(recipe_fields())


def _check_data(dataset: Dataset, requirement: Requirement) -> None:
    if dataset.val is None:
        raise DataError(
            f"{dataset.name} has no validation images, by which the search decides: load it with val_fraction=0.15."
        )
    if len(dataset.classes) <= 5 and any(clause.metric == "top5" for clause in requirement.clauses):
        raise ConfigError(f"top5 says nothing about {len(dataset.classes)} classes: ask for top1.")


def _blind(dataset: Dataset) -> Dataset:
    """The data without their test images: the validation images stand in for them."""
    assert dataset.val is not None
    note = "in this run the validation images stand in for the test images, which a search does not see."
    report = replace(dataset.report, notes=(*dataset.report.notes, note))
    return replace(dataset, test=dataset.val, report=report)


def _precision(
    record: SearchRecord, settings: Settings, template: nn.Module, preprocessing: Preprocessing, device: torch.device
) -> Precision:
    """The precision of all models of the search, timed once and kept."""
    fixed = parse_precision(settings.machine.precision)
    if record.document["precision"] is not None:
        found = from_dict(Precision, record.document["precision"], where="precision")
        if fixed not in (None, found):
            raise RunError(f"the search in {record.folder} was begun with precision {found}: choose a new folder.")
        return found
    chosen = fixed or choose_precision(
        template, spec=preprocessing.input, batch_size=settings.recipe.batch_size, device=device
    )
    record.document["precision"] = to_dict(chosen)
    record.write()
    return chosen
