"""The content of `comparison.json`, for what reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import Preprocessing, from_dict
from ..costs import Latency
from ..errors import ConfigError
from ..settings.recipe import Recipe
from ..statistics.effects import Effect
from ..statistics.margins import MarginVerdict
from ..tasks import primary, task_from
from ..training import DataRecord, Precision
from .tuning import Tuning


@dataclass(frozen=True)
class MetricRecord:
    """What the variants are compared by; see `tasks.Metric`."""

    name: str
    label: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class VariantRecord:
    """One variant: its scores over the seeds, and what it costs.

    Attributes:
        scores: value of the metric for each seed.
        parameters, macs, latency_ms and what is added: None where nothing was trained here; latency of one batch.
        runs: folders of the runs, relative to that of the comparison.
    """

    name: str
    slug: str
    role: str
    scores: tuple[float, ...]
    parameters: int | None = None
    macs: int | None = None
    parameters_added: int | None = None
    macs_added: int | None = None
    loss_mean: float | None = None
    latency_ms: Latency | None = None
    train_time_s: tuple[float, ...] = ()
    sites: int = 0
    plan: Mapping[str, Any] | None = None
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassEffectRecord:
    """The effect on the test images of one class, its p-value corrected over the classes."""

    class_: str
    images: int
    mean: float
    low: float
    high: float
    p_adjusted: float


@dataclass(frozen=True, kw_only=True)
class EffectRecord(Effect):
    """The effect of a variant against another one, and what it allows to say.

    Attributes:
        p_adjusted: corrected over the effects that were tested together, to be compared with 0.05.
        smallest_detectable: effect that this comparison finds with 80 % power.
        detectable_low, detectable_high: what it may be, with 80 % confidence.
        paired_seeds, seed_effects: the seeds in which both ended, and the mean difference of each.
        answers_differ: part of the test images that are answered differently.
        failed_seeds: in which the variant diverged.
        margin: what is said about the margin, where one was named.
        verdict: in a word.
        sentence: the verdict with its numbers.
        per_class: where the metric is a mean over images that have classes.
    """

    variant: str
    against: str
    p_adjusted: float
    smallest_detectable: float
    verdict: str
    sentence: str
    detectable_low: float | None = None
    detectable_high: float | None = None
    paired_seeds: tuple[int, ...] = ()
    seed_effects: tuple[float, ...] = ()
    answers_differ: float | None = None
    failed_seeds: tuple[int, ...] = ()
    margin: MarginVerdict | None = None
    per_class: tuple[ClassEffectRecord, ...] = ()


@dataclass(frozen=True)
class SquareScores:
    """Mean scores with neither half of CBAM, one of them, and both."""

    none: float
    channel: float
    spatial: float
    both: float


@dataclass(frozen=True)
class SquareVariants:
    """The variants that these scores are of, by name."""

    none: str
    channel: str
    spatial: str
    both: str


@dataclass(frozen=True, kw_only=True)
class TestedEffect(Effect):
    """An effect with its p-value corrected over all effects of the design."""

    p_adjusted: float | None = None


@dataclass(frozen=True)
class SquareRecord:
    """CBAM with its halves: main effects, interaction, and the mean score in each of the four cells."""

    channel: TestedEffect
    spatial: TestedEffect
    interaction: TestedEffect
    cells: SquareScores
    variants: SquareVariants
    others: tuple[SquareRecord, ...] = ()


@dataclass(frozen=True)
class SampleRecord:
    """A test image that a variant predicts better ("fixed") or worse ("broken") than the baseline, seed by seed."""

    id: str
    file: str
    label: str
    variant: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    direction: str


@dataclass(frozen=True)
class AnalysisRecord:
    """What was fixed before the runs: see `AnalysisPlan`.

    Attributes:
        margin: in the unit that is shown.
        looks: after how many seeds.
        group_by: what the test images were grouped by.
        groups: how many groups of test images there are.
        folds, repeats: of cross-validation; None for a test set of its own.
        tune: trials that every variant got before.
        is_pilot: whether the runs so far are to plan with.
    """

    margin: float | None = None
    looks: tuple[int, ...] | None = None
    group_by: str | None = None
    groups: int | None = None
    tune: int = 0
    is_pilot: bool = False
    folds: int | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class LookRecord:
    """The planned look that this is: how many seeds, its level, and the conditional power of what is not settled."""

    seeds: int
    level: float
    conditional_power: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RobustnessEffect(Effect):
    """The effect of a variant on the metric, averaged over corruptions of the test images."""

    variant: str
    p_adjusted: float
    verdict: str
    sentence: str


@dataclass(frozen=True)
class RobustnessRecord:
    """Effects under corruptions; `values` are those of the metric for each run, by variant."""

    severity: int
    corruptions: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    effects: tuple[RobustnessEffect, ...]


@dataclass(frozen=True)
class LeftOutRecord:
    """A run that does not enter, and why."""

    variant: str
    seed: int
    reason: str


@dataclass(frozen=True)
class StartRecord:
    """How a grafted network differs from the plain one before any training, both with the same head and seed.

    Attributes:
        images: test images that both predicted.
        kept: those whose prediction is the same: the highest logit; for several labels or numbers, all outputs.
        equal: whether all outputs are equal bit for bit.
        largest_change: of an output, over the range of the plain network's outputs; None where there is none.
        head: "own", which came with the weights, or "new".
    """

    images: int
    kept: int
    equal: bool
    largest_change: float | None
    head: str


@dataclass(frozen=True)
class PredictionsRecord:
    """The files of predictions that a comparison was made from, without any training.

    Attributes:
        files: their names.
        columns: what each column was taken for.
    """

    files: tuple[str, ...]
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class ComparisonRecord:
    """The content of `comparison.json`.

    Attributes:
        backbone, recipe: of the trainings; None where they are not known.
        predictions: the files that it was made from, where the trainings are not ours.
        metric: what the variants are compared by.
        task: what was learned, as `describe_task` says it.
        requested: the variants that were asked for.
        looks: the sets of seeds that it was concluded with.
        analysis: what was fixed before the runs.
        look: the planned look that this is.
        stopped: "settled", "futile" or "all looks taken", of planned looks.
        left_out: runs that do not enter.
        matched: what controls turned out to be, by their slug.
        at_start: what grafting alone changes, by the slug of the variant; earlier versions did not measure it.
        tuning: what was tried before the seeds.
        robustness: effects under corruptions.
        notes: sentences that hold for all verdicts.
        factorial: the first complete square of CBAM and its halves, with the others inside.
    """

    status: str
    data: DataRecord
    seeds: tuple[int, ...]
    baseline: str
    metric: MetricRecord
    backbone: str | None = None
    recipe: Recipe | None = None
    predictions: PredictionsRecord | None = None
    task: Mapping[str, Any] | None = None
    pretrained: bool = True
    weights: str | None = None
    preprocessing: Preprocessing | None = None
    precision: Precision | None = None
    requested: tuple[Mapping[str, Any], ...] = ()
    variants: tuple[VariantRecord, ...] = ()
    effects: tuple[EffectRecord, ...] = ()
    factorial: SquareRecord | None = None
    samples: tuple[SampleRecord, ...] = ()
    looks: tuple[tuple[int, ...], ...] = ()
    analysis: AnalysisRecord = AnalysisRecord()
    look: LookRecord | None = None
    stopped: str | None = None
    left_out: tuple[LeftOutRecord, ...] = ()
    matched: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    at_start: Mapping[str, StartRecord] = field(default_factory=dict)
    tuning: Tuning | None = None
    robustness: RobustnessRecord | None = None
    notes: tuple[str, ...] = ()
    hardware: Mapping[str, Any] | None = None
    versions: Mapping[str, Any] | None = None
    created: str | None = None
    command: str | None = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any], where: str = "comparison") -> ComparisonRecord:
        """Read `comparison.json`, also that of an earlier version, which knew one metric.

        Raises:
            ConfigError: an entry is missing, unknown or of another kind.
        """
        values = {key: value for key, value in document.items() if key not in ("kind", "format")}
        data = from_dict(DataRecord, values.get("data", {}), where=f"{where}.data")
        values.setdefault("metric", primary(task_from(values.get("task"), data.classes)).describe())
        metric = from_dict(MetricRecord, values["metric"], where=f"{where}.metric")
        rows = values.get("variants", [])
        if isinstance(rows, list):
            values["variants"] = [_variant(row, metric.name) if isinstance(row, dict) else row for row in rows]
        effects = values.get("effects", [])
        if isinstance(effects, list):
            values["effects"] = [_effect(effect) if isinstance(effect, dict) else effect for effect in effects]
        found = from_dict(cls, values, where=where)
        for key in ("backbone", "recipe"):
            if found.predictions is None and getattr(found, key) is None:
                raise ConfigError(f"{where} is incomplete: it has no '{key}'")
        names = [variant.name for variant in found.variants]
        for effect in found.effects:
            for name in (effect.variant, effect.against):
                if name not in names:
                    raise ConfigError(f"{where} has an effect of '{name[:40]}' but no such variant")
        return found

    @property
    def title(self) -> str:
        """What was compared on which data."""
        return f"predictions of {self.data.name}" if self.predictions else f"{self.backbone} on {self.data.name}"

    def variant(self, name: str) -> VariantRecord | None:
        """A variant by name."""
        return next((variant for variant in self.variants if variant.name == name), None)

    def effect_on(self, name: str) -> EffectRecord | None:
        """The effect of a variant against the baseline."""
        return next((effect for effect in self.against_baseline if effect.variant == name), None)

    @property
    def against_baseline(self) -> list[EffectRecord]:
        return [effect for effect in self.effects if effect.against == self.baseline]

    @property
    def controls(self) -> list[str]:
        """Names of the variants that separate attention from its side effects."""
        return [variant.name for variant in self.variants if variant.role == "control"]


def _variant(row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The row with the scores under one name, whatever the metric."""
    renamed = {f"{metric}_per_seed": "scores"}
    return {renamed.get(key, key): value for key, value in row.items() if key != f"{metric}_mean"}


def _effect(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry without the forecasts that earlier versions made from what was seen."""
    return {key: value for key, value in entry.items() if key not in ("needed_seeds", "needed_images")}
