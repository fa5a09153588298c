"""Plan a comparison: how many seeds, test images and hours it takes to find an effect that matters."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from ..config import to_dict
from ..data import Dataset
from ..errors import ConfigError, RunError, counted
from ..settings import USUAL_RECIPE, Recipe, Settings, check_lr_given, resolve_settings
from ..statistics.effects import Effect
from ..statistics.power import Noise, images_needed, planning_noise, seeds_needed
from ..surgery.own_networks import Backbone, backbone_spec
from ..tasks import Metric, find_metric, task_from
from ..training import Progress
from .analysis_plan import ALPHA
from .begin import Begun, ComparisonRequest, begun, listed
from .comparison_folder import read_comparison
from .comparison_record import ComparisonRecord
from .contrasts import Contrasts
from .run_all import run_all
from .variants import BASELINE

PILOT_SEEDS = 3
USUAL_EFFECTS = (0.005, 0.01, 0.02, 0.03, 0.05)  # of a metric in points
FACTORS = (0.5, 1.0, 2.0)  # of the effect asked for, where the metric has another unit


@dataclass(frozen=True)
class Pilot:
    """What was measured to plan with.

    Attributes:
        source: where it comes from, for people.
        effects: of attentions against the plain backbone; only their variances are used.
        images: test images, or groups of them.
        left: the largest gain that is possible.
        time_per_seed_s: training time of one seed in all variants; None where it is not known.
    """

    source: str
    effects: tuple[Effect, ...]
    images: int
    left: float
    time_per_seed_s: float | None


@dataclass(frozen=True)
class PlanRow:
    """What one effect takes.

    Attributes:
        effect: the true difference that is to be found, in the unit of the scores.
        seeds: that find it with the test images there are; None where 200 are too few.
        time_s: training time of all these seeds.
        images: test images that find it with 12 seeds; None where no number does.
    """

    effect: float
    seeds: int | None
    time_s: float | None
    images: int | None


@dataclass(frozen=True)
class PowerAnalysis:
    """A plan, before the seeds are spent.

    Attributes:
        detect: the effect that is to be found, in the unit that is shown.
        power: chance to find it.
        rows: one for each effect, `detect` among them.
        noise: that is planned with.
        images: test images, or groups of them, that the seeds are counted for.
        comparisons: attentions that are compared with the plain backbone.
    """

    metric: Metric
    detect: float
    power: float
    rows: tuple[PlanRow, ...]
    noise: Noise
    images: int
    comparisons: int
    source: str
    left: float

    @property
    def row(self) -> PlanRow:
        """Of the effect that was asked for."""
        return next(row for row in self.rows if math.isclose(self.metric.scale * row.effect, self.detect))

    @property
    def looks(self) -> tuple[int, ...] | None:
        """The plan of looks: the pilot, half of the seeds, all of them; None where no number of seeds is enough."""
        seeds = self.row.seeds
        if seeds is None:
            return None
        counts = [PILOT_SEEDS, (max(seeds, PILOT_SEEDS) + PILOT_SEEDS + 1) // 2, max(seeds, PILOT_SEEDS)]
        return tuple(sorted(set(counts)))

    def to_json(self) -> str:
        document = {
            "metric": self.metric.describe(),
            "detect": self.detect,
            "power": self.power,
            "rows": [to_dict(row) for row in self.rows],
            "noise": to_dict(self.noise),
            "images": self.images,
            "comparisons": self.comparisons,
            "source": self.source,
            "looks": None if self.looks is None else list(self.looks),
        }
        return json.dumps(document, indent=1)

    def __str__(self) -> str:
        size = f"{self.detect:g} {self.metric.unit}".rstrip() + f" {self.metric.label}"
        sure = f"with a chance of {100 * self.power:.0f} %"
        if self.row.effect > self.left:
            shown = f"{self.metric.scale * self.left:.3g} {self.metric.unit}".rstrip()
            return f"An effect of {size} is more than what is left to gain ({shown}): nothing can be planned for it."
        if self.row.seeds is not None:
            return f"Plan {counted(self.row.seeds, 'seed')} to find an effect of {size} {sure}, with these {counted(self.images, 'test image')}."
        limit = f"the {counted(self.images, 'test image', 'are')} the limit, not the seeds"
        if self.row.images is None:
            return f"No number of seeds finds an effect of {size} {sure}: {limit}, and with 12 seeds the seeds are too."
        return f"No number of seeds finds an effect of {size} {sure}: {limit}; {self.row.images:,} with 12 seeds do."


def power(
    data: str | Path | Dataset | Any = None,
    *,
    detect: float,
    power: float = 0.8,
    backbone: Backbone | None = None,
    attentions: str | Sequence[str] = "cbam",
    runs: Sequence[str | Path] = (),
    images: int | None = None,
    recipe: str | Path | Recipe | Settings = USUAL_RECIPE,
    metric: str | None = None,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    run_dir: str | Path | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> PowerAnalysis:
    """Plan how many seeds, test images and hours find an effect that matters.

    The noise comes from earlier comparisons, or from a pilot of three seeds in the folder of the comparison to come.
    Only variances are used, no effect is shown, and the pilot is the first look of the plan. The variance between
    seeds is planned with at its upper 80 % bound.

    Args:
        data: whatever `load_data` takes; not needed with `runs`.
        detect: the effect to find, in the unit that is shown (1.0 for one point).
        power: chance to find it.
        backbone: as for `compare`.
        recipe: as for `compare`.
        metric: as for `compare`.
        pretrained: as for `compare`.
        weights: as for `compare`.
        attentions: variants of the comparison to come.
        runs: folders of earlier comparisons of the same kind, instead of a pilot.
        images: test images of the comparison to come, where they are not those of the pilot or the earlier ones.
        run_dir: folder of the pilot and of the comparison to come.
        progress: where to show progress.
        **overrides: as for `compare`.

    Raises:
        ConfigError: an effect or a power that cannot be planned for, or neither data nor runs.
        RunError: a folder holds no comparison to plan with.
        BackboneError, DataError, GraftError: as for `compare`, of a pilot.
    """
    if not 0 < power < 1:
        raise ConfigError(f"power is {power}: expected a number between 0 and 1, for example 0.8.")
    if images is not None and images < 2:
        raise ConfigError(f"images is {images}: expected at least 2 test images.")
    chosen = tuple(listed(attentions))
    if runs:
        pilot, found_metric = _from_runs([Path(run) for run in runs], chosen, metric)
    elif data is None or backbone is None or run_dir is None:
        raise ConfigError(
            "nothing to plan from: give data, a backbone and a folder for a pilot, or earlier comparisons."
        )
    else:
        wanted = ComparisonRequest(
            backbone=backbone_spec(backbone),
            attentions=chosen,
            controls=(),
            seeds=PILOT_SEEDS,
            settings=check_lr_given(resolve_settings(recipe, overrides)),
            folder=Path(run_dir).expanduser(),
            metric=metric,
            pretrained=pretrained,
            weights=None if weights is None else Path(weights),
            is_pilot=True,
        )
        with begun(data, wanted, progress) as found:
            _size(found.context.metric, detect)  # before any run is trained
            pilot, found_metric = _measured(found), found.context.metric
    return plan_for(pilot, found_metric, detect, power, comparisons=len(chosen), images=images)


def plan_for(
    pilot: Pilot, metric: Metric, detect: float, power: float, *, comparisons: int, images: int | None = None
) -> PowerAnalysis:
    """The table over effects; `detect` in the unit that is shown.

    Raises:
        ConfigError: an effect that is not above 0 or above all differences.
    """
    effect = _size(metric, detect)
    noise, number = planning_noise(pilot.effects), images or pilot.images
    confidence = 1 - ALPHA / max(comparisons, 1)
    usual = USUAL_EFFECTS if metric.unit == "points" else tuple(factor * effect for factor in FACTORS)
    rows = []
    for size in sorted({effect, *(other for other in usual if not math.isclose(other, effect))}):
        seeds = seeds_needed(noise, number, size, confidence=confidence, power=power)
        time_s = None if seeds is None or pilot.time_per_seed_s is None else seeds * pilot.time_per_seed_s
        more = images_needed(noise, 12, size, confidence=confidence, power=power)
        more = more if more is None or metric.unit != "points" else max(more, math.ceil(1 / size))  # one changed image
        rows.append(PlanRow(size, seeds if size <= pilot.left else None, time_s, more if size <= pilot.left else None))
    return PowerAnalysis(metric, detect, power, tuple(rows), noise, number, comparisons, pilot.source, pilot.left)


def _size(metric: Metric, detect: float) -> float:
    """The effect on the metric's own scale.

    Raises:
        ConfigError: it is not above 0 or above all differences.
    """
    effect, span = detect / metric.scale, metric.bounds[1] - metric.bounds[0]
    if not 0 < effect < span:
        below = f" and below {metric.scale * span:g}" if math.isfinite(span) else ""
        raise ConfigError(f"detect is {detect:g} {metric.unit}".rstrip() + f": expected more than 0{below}.")
    return effect


def _measured(found: Begun) -> Pilot:
    """Train the pilot's runs, and look at their variances only."""
    context, seeds = found.context, found.seeds
    results = run_all(context, found.variants, seeds, found.progress)
    found.progress.stop()
    evaluations = results.evaluations()
    contrasts = Contrasts(evaluations, replace(context.analysis, looks=None))
    pairs = [
        contrasts.between(v.name, BASELINE) for v in found.variants[1:] if len(contrasts.seeds(v.name, BASELINE)) > 1
    ]
    values = [evaluation.value(context.metric.name) for evaluation in evaluations[BASELINE].values()]
    times = [run.train_time_s for runs in results.finished.values() for run in runs.values()]
    return Pilot(
        f"a pilot of {counted(len(seeds), 'seed')} in {context.folder}",
        _varied([pair.effect for pair in pairs], str(context.folder)),
        pairs[0].difference.shape[1] if pairs else 0,
        context.metric.left(fmean(values)),
        median(times) * len(found.variants),
    )


def _from_runs(folders: Sequence[Path], attentions: Sequence[str], metric: str | None) -> tuple[Pilot, Metric]:
    records = [ComparisonRecord.from_json(read_comparison(folder), str(folder)) for folder in folders]
    first = records[0]
    found_metric = find_metric(task_from(first.task, first.data.classes), first.metric.name)
    for folder, record in zip(folders, records, strict=True):
        if record.metric.name != (metric or first.metric.name):
            raise RunError(
                f"the comparison in {folder} was made by {record.metric.label}: give comparisons by one metric."
            )
        if record.backbone != first.backbone:
            raise RunError(
                f"the comparison in {folder} is of {record.backbone} and that in {folders[0]} of {first.backbone}, which vary "
                "by themselves: plan from comparisons of one backbone."
            )
    effects, times, values = [], [], []
    for record in records:
        against = record.against_baseline
        effects += [effect for effect in against if effect.variant in attentions] or against
        times += [time for variant in record.variants for time in variant.train_time_s]
        base = record.variant(record.baseline)
        values += list(base.scores) if base else []
    source = counted(len(folders), "earlier comparison")
    return (
        Pilot(
            source,
            _varied(effects, ", ".join(map(str, folders))),
            effects[0].images if effects else 0,
            found_metric.left(fmean(values)) if values else found_metric.bounds[1] - found_metric.bounds[0],
            median(times) * (1 + len(attentions)) if times else None,
        ),
        found_metric,
    )


def _varied(effects: Sequence[Effect], where: str) -> tuple[Effect, ...]:
    """The effects whose noise is known.

    Raises:
        RunError: none is.
    """
    known = tuple(effect for effect in effects if effect.method == "crossed")
    if not known:
        raise RunError(
            f"nothing can be planned from {where}: expected at least two seeds and two test images whose answers differ."
        )
    return known
