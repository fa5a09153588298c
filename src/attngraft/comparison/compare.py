"""Train every variant with the same seeds and compare them.

Pairs are made by construction: one seed gives every variant the same split, data order, augmentation, dropout and
head initialisation, so that the variants differ in their grafts and in nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from ..answers import Question
from ..config import Preprocessing, to_dict
from ..data import Dataset
from ..data_frames import data_frame
from ..errors import ConfigError
from ..locking import check_free
from ..settings import USUAL_RECIPE, Recipe, Settings, check_lr_given, resolve_settings
from ..statistics.looks import parse_looks
from ..surgery.own_networks import Backbone, backbone_spec
from ..training import Progress, watched
from .analysis_plan import AnalysisPlan
from .begin import ComparisonRequest, begun, listed
from .comparison_folder import read_comparison
from .conclusion import Conclusion
from .run_all import run_all
from .same_at_start import measure_start
from .tuning import tune as tune_rates

log = logging.getLogger(__name__)


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
        """Variant -> "helps", "hurts", "no evidence", "one seed" or "diverged", against the baseline."""
        return {e["variant"]: e["verdict"] for e in self.effects if e["against"] == self.document["baseline"]}

    def to_frame(self) -> Any:
        """The effects as a pandas.DataFrame, one row per pair.

        Raises:
            ConfigError: pandas is not installed.
        """
        return data_frame(self.effects)

    def to_json(self) -> str:
        return json.dumps(self.document, indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        controls = {row["name"] for row in self.document.get("requested", []) if row["role"] == "control"}
        sentences = [e["sentence"] for e in self.effects if e["against"] not in controls]
        sentences += [e["sentence"] for e in self.document.get("robustness", {}).get("effects", [])]
        return "\n".join([*sentences, *self.document.get("notes", [])])


def compare(
    data: str | Path | Dataset | Any,
    *,
    backbone: Backbone,
    attentions: str | Sequence[str],
    controls: str | Sequence[str] = (),
    seeds: int | Sequence[int] = 3,
    recipe: str | Path | Recipe | Settings = USUAL_RECIPE,
    metric: str | None = None,
    margin: float | None = None,
    looks: str | Sequence[int] | None = None,
    tune: int = 0,
    robustness: bool = False,
    folds: int = 0,
    repeats: int = 1,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    run_dir: str | Path,
    at_once: int = 1,
    progress: Progress | None = None,
    command: str | None = None,
    **overrides: Any,
) -> Comparison:
    """Train every variant with every seed and say what the attention is worth.

    Args:
        data: whatever `load_data` takes, or what it returns.
        backbone: as for `create_backbone`; or a network of your own: a `torch.nn.Module` (its copies get new heads), a
            function (num_classes) -> module, or "file.py:function".
        attentions: variants, `NAME[@WHERE][:option=value,...]`; "none" is an A/A comparison. The option `dynamic` is
            that of the recipe, for this variant alone.
        controls: variants that separate attention from its side effects: "static", "capacity".
        seeds: how many, or which; without effect where looks are planned.
        recipe: packaged name, path of a .toml file, a Recipe, or Settings with all that is chosen.
        metric: what decides, by the name that the task gives it: "top1", "balanced-accuracy", "macro-f1", "map",
            "mae", ...; the task's primary metric where not given.
        margin: a difference that matters, in the unit that is shown (1.0 for one point): the sentences then also say
            whether a variant is as good as the plain backbone, no worse or worse.
        looks: after how many seeds the comparison is looked at, "auto" for 5, 8 and 12: it trains on until it is
            settled or futile, with one error rate over all looks.
        tune: trials of learning rates that every variant, the plain backbone included, gets on validation images before
            the seeds are spent; 0 turns it off.
        robustness: also compare under eight corruptions of the test images.
        folds: compare by cross-validation in so many folds, where images are too few for a test set; instead of `seeds`.
        repeats: how many times all images are parted into folds anew.
        pretrained: start from published weights; where not given, yes if there are any and the recipe is not "scratch" or "fast".
        weights: a file of weights to start from, as for `create_backbone`.
        preprocessing: how a network of your own wants its images, as for `fit`; what is assumed without it is logged.
        run_dir: a new folder, or that of the same comparison to be continued.
        at_once: trainings at a time, each on one thread in a process of its own; on CPUs under Linux, elsewhere one.
        progress: where to show progress; a bar on a terminal where not given.
        command: the command line, for the record.
        **overrides: fields of `Recipe`, `DataSettings` and `MachineSettings`, and `epochs`.

    Raises:
        ConfigError, BackboneError, DataError, GraftError, RunError: what was asked for does not fit.
        TrainingError: a run could not go on; what is finished stays.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    if at_once < 1:
        raise ConfigError(f"at_once is {at_once}: expected 1 or more trainings at a time, such as the number of cores.")
    wanted = ComparisonRequest(
        backbone=backbone_spec(backbone),
        attentions=tuple(listed(attentions)),
        controls=tuple(listed(controls)),
        seeds=seeds,
        settings=check_lr_given(resolve_settings(recipe, overrides)),
        folder=Path(run_dir).expanduser(),
        metric=metric,
        margin=margin,
        looks=None if looks is None else parse_looks(looks),
        pretrained=pretrained,
        weights=None if weights is None else Path(weights).expanduser(),
        tune=tune,
        robustness=robustness,
        folds=folds,
        repeats=repeats,
        preprocessing=preprocessing,
    )
    asked = _question(data, wanted) if isinstance(backbone, str) else None
    if asked is not None and asked.answer() is not None:
        check_free(wanted.folder)
        with watched(progress):
            log.info(asked.told)
        return Comparison(wanted.folder, read_comparison(wanted.folder))
    with begun(data, wanted, progress) as found:
        measure_start(found.context, found.variants, found.seeds[0], found.progress)
        variants, tuning = tune_rates(found.context, found.variants, wanted.tune, found.progress)
        conclude = Conclusion(found.context, variants, found.request, command, tuning)
        for look in _stages(found.context.analysis, found.seeds):
            results = run_all(found.context, variants, look, found.progress, at_once=at_once)
            found.progress.stop()
            document = found.context.world.in_main(partial(conclude, look, results))
            if document.get("stopped"):
                break
        if asked is not None:
            asked.keep({})
        return Comparison(wanted.folder, document)


def _question(data: str | Path | Dataset | Any, wanted: ComparisonRequest) -> Question | None:
    """What is asked for; None for data or networks in Python, which cannot be told by files."""
    if not isinstance(data, (str, Path)):
        return None
    words = {field.name: getattr(wanted, field.name) for field in fields(wanted)}
    words |= {"settings": to_dict(wanted.settings)}
    del words["folder"]
    return Question.about("ag.compare", wanted.folder, [data], wanted.backbone, wanted.weights, **words)


def _stages(plan: AnalysisPlan, seeds: Sequence[int]) -> list[Sequence[int]]:
    """The seeds at each look: the planned ones, and then all that there are."""
    planned = () if plan.looks is None else plan.looks.seeds
    return [*(seeds[:count] for count in planned if count < len(seeds)), seeds]
