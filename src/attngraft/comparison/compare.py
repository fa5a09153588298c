"""Train every variant with the same seeds and compare them.

Pairs are made by construction: one seed gives every variant the same split, data order, augmentation, dropout and
head initialisation, so that the variants differ in their grafts and in nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..backbones import backbone_info, preprocessing_of
from ..config import to_dict
from ..data import Dataset
from ..environment import hardware, versions
from ..errors import ConfigError
from ..locking import Claim
from ..settings import Recipe, Settings, resolve_settings
from ..tasks import create_task, find_metric
from ..timestamp import timestamp
from ..training import (
    FitResult,
    Precision,
    Progress,
    Reading,
    Silent,
    join_world,
    open_data,
    starts_pretrained,
    titled,
    warm_up,
    watched,
)
from ..training.disk_space import kept_bytes, working_bytes
from .build_model import ModelSource
from .comparison_context import ComparisonContext
from .comparison_folder import (
    describe_request,
    earlier_variants,
    is_comparison,
    open_comparison,
    read_comparison,
    with_earlier_seeds,
    write_comparison,
)
from .contrasts import Evaluations, effects
from .factorial import factorial
from .thumbnails import write_samples
from .variant_table import price, variant_table
from .variants import BASELINE, Variant, matched_controls, parse_variants, split_variants, under, with_earlier


@dataclass(frozen=True)
class Comparison:
    """The outcome, as it stands in `comparison.json`.

    Attributes:
        run_dir: its folder.
        document: the content of `comparison.json`.
    """

    run_dir: Path
    document: Mapping[str, Any]

    @property
    def effects(self) -> list[dict[str, Any]]:
        """One entry per pair: mean, low, high (as fractions), p_adjusted, per_class, ..."""
        return list(self.document["effects"])

    @property
    def verdicts(self) -> dict[str, str]:
        """Variant -> "helps", "hurts", "no evidence" or "one seed", against the plain backbone."""
        return {e["variant"]: e["verdict"] for e in self.effects if e["against"] == BASELINE}

    def to_json(self) -> str:
        return json.dumps(self.document, indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        controls = {row["name"] for row in self.document.get("requested", []) if row["role"] == "control"}
        sentences = [e["sentence"] for e in self.effects if e["against"] not in controls]
        looks = self.document.get("looks", [])
        if len(looks) > 1:
            counts = ", then ".join(str(len(seeds)) for seeds in looks)
            sentences.append(
                f"This comparison was looked at {len(looks)} times (with {counts} seeds): each look adds a chance of a "
                "false alarm, which the intervals do not account for."
            )
        return "\n".join(sentences)


def compare(
    data: str | Path | Dataset | Any,
    *,
    backbone: str,
    attentions: str | Sequence[str],
    controls: str | Sequence[str] = (),
    seeds: int | Sequence[int] = 3,
    recipe: str | Path | Recipe | Settings = "three-phase",
    metric: str | None = None,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    run_dir: str | Path,
    progress: Progress | None = None,
    command: str | None = None,
    **overrides: Any,
) -> Comparison:
    """Train every variant with every seed and say what the attention is worth.

    Args:
        data: whatever `load_data` takes, or what it returns.
        backbone: as for `create_backbone`.
        attentions: variants, NAME[@WHERE][:option=value,...]; "none" is an A/A comparison. The option `dynamic` is
            that of the recipe, for this variant alone.
        controls: variants that separate attention from its side effects: "static", "capacity".
        seeds: how many, or which.
        recipe: packaged name, path of a .toml file, a Recipe, or Settings with all that is chosen.
        metric: what decides, by the name that the task gives it: "top1", "balanced-accuracy", "macro-f1", "map",
            "mae", ...; the task's primary metric where not given.
        pretrained: start from published weights; where not given, yes if there are any and the recipe is not "scratch".
        weights: a file of weights to start from, as for `create_backbone`.
        run_dir: a new folder, or that of the same comparison to be continued.
        progress: where to show progress; a bar on a terminal where not given.
        command: the command line, for the record.
        **overrides: fields of `Recipe`, `DataSettings` and `MachineSettings`, and `epochs`.

    Raises:
        ConfigError, BackboneError, DataError, GraftError, RunError: what was asked for does not fit.
        TrainingError: a run could not go on; what is finished stays.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    settings = resolve_settings(recipe, overrides)
    folder = Path(run_dir)
    chosen_seeds = with_earlier_seeds(folder, _seeds(seeds))
    attentions, controls = _listed(attentions), _listed(controls)
    variants = matched_controls(with_earlier(parse_variants(attentions, controls), earlier_variants(folder)))
    variants = under(settings.recipe, variants)
    start = None if weights is None else Path(weights)
    published = starts_pretrained(pretrained, backbone, settings.recipe, weights)
    source = ModelSource(backbone, published, start, in_channels=settings.data.channels)
    world, device = join_world(settings.machine), settings.machine.resolve_device()
    with watched(progress if world.is_main else Silent()) as shown, ExitStack() as held:
        claim = Claim(folder, held)
        if world.share(is_comparison(folder)):
            world.in_main(claim)  # in use: refused before any image is read
        template = source.template()
        preprocessing = settings.data.preprocessing(preprocessing_of(template))
        spec = preprocessing.input
        dataset = open_data(data, settings, preprocessing=preprocessing, progress=Reading(shown))
        task = create_task(dataset.task, dataset.classes)
        context = ComparisonContext(
            source=source,
            settings=settings,
            dataset=dataset,
            task=task,
            metric=find_metric(task, metric),
            preprocessing=preprocessing,
            precision=Precision(),
            plans={variant.name: variant.plan(template, spec.shape) for variant in variants},
            folder=folder,
            device=device,
            world=world,
        )
        model = source.fresh(dataset.classes, 0)  # weights that cannot be had: say so now
        info = backbone_info(model)
        request = describe_request(context, variants, chosen_seeds, info.weights if info and start else None)
        runs = len(variants) * len(chosen_seeds)
        needed = runs * kept_bytes(model, dataset) + working_bytes(model, settings.recipe)
        precision = world.in_main(lambda: open_comparison(context, request, template, claim, needed))
        context = replace(context, precision=precision)
        warm_up(template, precision, spec=spec, batch_size=settings.recipe.batch_size, device=device)
        results = _run_all(context, variants, chosen_seeds, shown)
        shown.stop()
        document = world.in_main(lambda: _conclude(context, variants, chosen_seeds, results, request, command))
        return Comparison(folder, document)


def _run_all(
    context: ComparisonContext, variants: Sequence[Variant], seeds: Sequence[int], progress: Progress
) -> dict[str, list[FitResult]]:
    """Every variant with every seed; seed by seed, so that an unfinished comparison has whole pairs."""
    results: dict[str, list[FitResult]] = {variant.name: [] for variant in variants}
    total = len(variants) * len(seeds)
    for number, (seed, variant) in enumerate((s, v) for s in seeds for v in variants):
        title = f"run {number + 1} of {total}: {variant.name}, seed {seed}"
        result = context.fit(variant, seed, titled(progress, title))
        results[variant.name].append(replace(result, model=nn.Identity()))  # weights stay on disk
    return results


def _conclude(
    context: ComparisonContext,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    results: Mapping[str, Sequence[FitResult]],
    request: Mapping[str, Any],
    command: str | None,
) -> Mapping[str, Any]:
    """Weigh the finished runs and write `comparison.json`."""
    evaluations: Evaluations = {name: [result.evaluation for result in runs] for name, runs in results.items()}
    rows = variant_table(context, variants, seeds, results)
    halves = factorial(variants, evaluations, context.metric)
    prices = {row["name"]: price(row, rows[0]) for row in rows}
    document = {
        **request,
        "status": "finished",
        "command": command,
        "created": timestamp(),
        "precision": to_dict(context.precision),
        "variants": rows,
        "effects": effects(variants, evaluations, context.task, context.metric, prices),
        **({"factorial": halves} if halves else {}),
        "hardware": hardware(),
        "versions": versions(),
        "looks": _looks(context.folder, seeds),
        "samples": write_samples(context, variants, evaluations),
    }
    write_comparison(context.folder, document)
    return document


def _listed(variants: str | Sequence[str]) -> list[str]:
    """A sequence of variants, also where they were given as one text."""
    return split_variants(variants) if isinstance(variants, str) else list(variants)


def _looks(folder: Path, seeds: Sequence[int]) -> list[list[int]]:
    """The sets of seeds that this comparison was concluded with, this one last."""
    earlier = read_comparison(folder).get("looks", [])
    return earlier if earlier and earlier[-1] == list(seeds) else [*earlier, list(seeds)]


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0:
        raise ConfigError(f"seeds is {seeds!r}: expected a number of at least 1, or different numbers from 0 on.")
    return chosen
