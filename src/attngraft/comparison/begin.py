"""Begin a comparison, or come back to it: check what was asked for, open the data, plan the grafts, claim the folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import Any

from ..backbones import backbone_info
from ..config import Preprocessing
from ..data import Dataset
from ..data.cross_validation import Folds, cross_validation
from ..errors import ConfigError
from ..locking import Claim
from ..settings import Settings
from ..statistics.looks import Looks
from ..tasks import create_task, find_metric
from ..training import (
    Precision,
    Progress,
    Reading,
    Silent,
    doing,
    framed,
    join_world,
    open_data,
    starts_pretrained,
    warm_up,
    watched,
)
from ..training.disk_space import kept_bytes, working_bytes
from ..training.preflight import check_grafts_learn
from .analysis_plan import AnalysisPlan
from .build_model import ModelSource
from .comparison_context import ComparisonContext
from .comparison_folder import (
    COMPARISON_FILE,
    describe_request,
    earlier_variants,
    is_comparison,
    keep,
    open_comparison,
    with_earlier_seeds,
)
from .plain_controls import with_larger
from .robustness import check_corruptible
from .tuning import check_trials
from .variants import Variant, matched_controls, parse_variants, split_variants, under, with_earlier


@dataclass(frozen=True)
class ComparisonRequest:
    """What is asked for, besides the data; see `compare`.

    Attributes:
        settings: recipe, data and machine.
        folder: of the comparison.
        tune, robustness: as in `AnalysisPlan`.
        is_pilot: whether the runs are to plan the comparison with, whose looks are fixed later.
        folds, repeats: of cross-validation, which takes the place of `seeds`; 0 folds for a test set.
        preprocessing: as in `ModelSource`.
    """

    backbone: str
    attentions: tuple[str, ...]
    controls: tuple[str, ...]
    seeds: int | Sequence[int]
    settings: Settings
    folder: Path
    metric: str | None = None
    margin: float | None = None
    looks: Looks | None = None
    pretrained: bool | None = None
    weights: Path | None = None
    tune: int = 0
    robustness: bool = False
    is_pilot: bool = False
    folds: int = 0
    repeats: int = 1
    preprocessing: Preprocessing | Mapping[str, Any] | None = None

    @property
    def runs(self) -> int | Sequence[int]:
        """The seeds of a variant's runs, or how many: those of the last look, or a fold each."""
        return self.folds * self.repeats or (self.seeds if self.looks is None else self.looks.seeds[-1])


@dataclass(frozen=True)
class Begun:
    """A comparison whose runs can be trained.

    Attributes:
        request: as from `describe_request`.
        seeds: all that may be trained.
    """

    context: ComparisonContext
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    request: Mapping[str, Any]
    progress: Progress


@contextmanager
def begun(data: str | Path | Dataset | Any, wanted: ComparisonRequest, progress: Progress | None) -> Iterator[Begun]:
    """Hold the folder of a comparison while its runs are trained.

    Args:
        data: whatever `load_data` takes, or what it returns.
        wanted: what is asked for.
        progress: where to show progress; a bar on a terminal where not given.

    Raises:
        ConfigError, BackboneError, DataError, GraftError, RunError: what was asked for does not fit; nothing is changed.
    """
    settings, folder, planned = wanted.settings, wanted.folder, wanted.looks
    check_trials(wanted.tune)
    _check_folds(wanted)
    variants = parse_variants(wanted.attentions, wanted.controls)
    variants = under(settings.recipe, matched_controls(with_earlier(variants, earlier_variants(folder))))
    check_grafts_learn(settings.recipe, has_grafts=not all(variant.is_plain for variant in variants))
    seeds = with_earlier_seeds(folder, _seeds(wanted.runs), variants)
    published = starts_pretrained(wanted.pretrained, wanted.backbone, settings.recipe, wanted.weights)
    source = ModelSource(
        wanted.backbone,
        published,
        wanted.weights,
        in_channels=settings.data.channels,
        preprocessing=wanted.preprocessing,
    )
    world, device = join_world(settings.machine), settings.machine.resolve_device()
    with watched(progress if world.is_main else Silent()) as shown, ExitStack() as held:
        claim = Claim(folder, held)
        if world.share(is_comparison(folder)):
            world.in_main(claim)  # in use: refused before any image is read
        template = source.template()
        source, preprocessing = source.settled(template, settings.data)
        spec = preprocessing.input
        variants = world.in_main(lambda: with_larger(variants, source, spec.shape, folder))
        record, reading = folder / COMPARISON_FILE, Reading(shown)
        dataset = open_data(data, settings, preprocessing=preprocessing, begun=record, progress=reading)
        preprocessing = framed(replace(preprocessing, depth=dataset.depth), dataset, settings.data)
        spec = preprocessing.input
        folds = _folds(dataset, wanted)
        dataset = dataset if folds is None else folds.whole
        if wanted.robustness:
            check_corruptible(dataset.test.store.channels)
        task = create_task(dataset.task, dataset.classes)
        metric = find_metric(task, wanted.metric)
        groups = dataset.test.groups if folds is None else None  # groups stay in one fold, which is then the unit
        plan = AnalysisPlan.of(metric, margin=wanted.margin, looks=planned, groups=groups)
        plan = replace(plan, folds=wanted.folds, repeats=wanted.repeats)
        context = ComparisonContext(
            source=source,
            settings=settings,
            dataset=dataset,
            task=task,
            analysis=replace(plan, tune=wanted.tune, robustness=wanted.robustness, is_pilot=wanted.is_pilot),
            preprocessing=preprocessing,
            precision=Precision(),
            plans={variant.name: variant.plan(template, spec.shape) for variant in variants},
            folder=folder,
            device=device,
            world=world,
            folds=folds,
        )
        model = source.fresh(dataset.classes, 0)  # weights that cannot be had: say so now
        for spec_of_larger in {variant.backbone for variant in variants if variant.backbone is not None}:
            replace(source, backbone=spec_of_larger).fresh(dataset.classes, 0)
        info = backbone_info(model)
        request = describe_request(context, variants, seeds, info.weights if info and wanted.weights else None)
        runs = len(variants) * len(seeds)
        needed = runs * kept_bytes(model, dataset) + working_bytes(model, settings.recipe)
        doing(shown, "warming up")
        precision = world.in_main(lambda: open_comparison(context, request, template, claim, needed))
        warm_up(template, precision, spec=spec, batch_size=settings.recipe.batch_size, device=device, task=task)
        larger = {v.slug: {"backbone": v.backbone, "like": v.options.get("like")} for v in variants if v.backbone}
        world.in_main(lambda: keep(folder, "matched", larger))
        yield Begun(replace(context, precision=precision), variants, seeds, request, shown)


def listed(variants: str | Sequence[str]) -> list[str]:
    """A sequence of variants, also where they were given as one text."""
    return split_variants(variants) if isinstance(variants, str) else list(variants)


def _check_folds(wanted: ComparisonRequest) -> None:
    """Raise ConfigError for what does not go with cross-validation."""
    if not wanted.folds:
        if wanted.repeats != 1:
            raise ConfigError("repeats is for folds: give folds too, or leave it out.")
        return
    data = wanted.settings.data
    asked = {
        "looks": wanted.looks is not None,
        "tune": wanted.tune > 0,
        "robustness": wanted.robustness,
        "resample_train": data.resample_train != 1,
        "val_fraction": data.val_fraction > 0,
        f"the recipe {wanted.settings.recipe.name}, which decides on validation images,": (
            wanted.settings.recipe.uses_validation
        ),
    }
    idle = [name for name, is_asked in asked.items() if is_asked]
    if idle:
        raise ConfigError(f"{' and '.join(idle)} cannot be had with folds: leave out the one or the other.")


def _folds(dataset: Dataset, wanted: ComparisonRequest) -> Folds | None:
    if not wanted.folds:
        return None
    chosen = wanted.settings.data
    return cross_validation(dataset, wanted.folds, wanted.repeats, seed=chosen.split_seed, fix_leaks=chosen.fix_leaks)


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(map(index, seeds))
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0:
        raise ConfigError(f"seeds is {seeds!r}: expected a number of at least 1, or different numbers from 0 on.")
    return chosen
