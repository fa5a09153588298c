"""One table and one sentence from comparisons of the same variants on several data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..checksums import write_sealed_json
from ..config import to_dict
from ..environment import versions
from ..errors import ConfigError, RunError
from ..statistics.meta_analysis import FEWEST, Pooled, pooled_effect
from ..statistics.multiplicity import gated, holm
from ..timestamp import timestamp
from .combined_record import (
    COMBINED_FILE,
    CombinedEffect,
    CombinedRecord,
    DataSetEffect,
    DataSetRecord,
    Outcome,
    PooledRecord,
)
from .comparison_folder import COMPARISON_FILE, read_comparison
from .comparison_record import ComparisonRecord, EffectRecord, MetricRecord
from .pooled_verdicts import PooledJudge


@dataclass(frozen=True)
class Combination:
    """The outcome, as it stands in `combined.json`.

    Attributes:
        run_dir: its folder.
        record: the content of `combined.json`.
    """

    run_dir: Path
    record: CombinedRecord

    @property
    def verdicts(self) -> dict[str, str]:
        """Variant -> "helps", "hurts", "no evidence", "described" or "diverged", over all data sets."""
        return {effect.variant: effect.verdict for effect in self.record.effects}

    def to_json(self) -> str:
        return json.dumps(to_dict(self.record), indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        return "\n".join([*(effect.sentence for effect in self.record.effects), *self.record.notes])


@dataclass(frozen=True)
class _Member:
    """A comparison that enters, with the name of its data set among the others."""

    folder: Path
    record: ComparisonRecord
    name: str


def combine(runs: Sequence[str | Path], *, run_dir: str | Path, command: str | None = None) -> Combination:
    """The effect of each variant on every data set and, from three on, its mean over data sets.

    Data sets are a sample too: the mean has the variance between them (Paule and Mandel) and the interval of Hartung,
    Knapp, Sidik and Jonkman, and Holm's correction over the variants.

    Args:
        runs: folders of finished comparisons of the same backbone and variants on different data sets.
        run_dir: folder for `combined.json`; it may hold the comparisons.
        command: the command line, for the record.

    Raises:
        RunError: a folder is no finished comparison, or the new one holds something else.
        ConfigError: fewer than two comparisons, or such as cannot be combined.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise ConfigError(
            f"got {len(folders)} comparison: expected the folders of two or more, on different data sets."
        )
    folder = Path(run_dir).expanduser()
    if any((folder / name).exists() for name in (COMPARISON_FILE, "run.json", "iterate.json", "store.json")):
        raise RunError(f"{folder} holds something else: choose a new folder for what is combined.")
    members = _named([(path, _finished(path)) for path in folders])
    _check_alike(members)
    record = _combined(members, folder, command)
    write_sealed_json(folder / COMBINED_FILE, to_dict(record))
    return Combination(folder, record)


def _finished(folder: Path) -> ComparisonRecord:
    try:
        found = ComparisonRecord.from_json(read_comparison(folder), where=COMPARISON_FILE)
    except ConfigError as error:
        raise RunError(f"{folder}: {str(error).rstrip('.')}; copy it again or repeat the comparison.") from None
    if found.status != "finished":
        raise RunError(f"the comparison in {folder} is not finished: run its command again, then combine.")
    return found


def _named(found: Sequence[tuple[Path, ComparisonRecord]]) -> list[_Member]:
    names = [record.data.name for _, record in found]
    return [
        _Member(
            path, record, record.data.name if names.count(record.data.name) == 1 else f"{record.data.name} in {path}"
        )
        for path, record in found
    ]


def _check_alike(members: Sequence[_Member]) -> None:
    """Raise where the comparisons answer different questions, or two are of the same images."""
    first = members[0]
    for member in members[1:]:
        for what, one, other in (
            ("metrics", first.record.metric, member.record.metric),
            ("backbones", first.record.backbone, member.record.backbone),
            ("baselines", first.record.baseline, member.record.baseline),
        ):
            if one != other:
                shown = " and ".join(_word(value) for value in (one, other))
                raise ConfigError(
                    f"{first.folder} and {member.folder} have different {what} ({shown}): combine comparisons of the same."
                )
    seen: dict[str, Path] = {}
    for member in members:
        earlier = seen.setdefault(member.record.data.fingerprint, member.folder)
        if earlier is not member.folder:
            raise ConfigError(
                f"{earlier} and {member.folder} are of the same images: leave one out, a data set counts once."
            )


def _word(value: Any) -> str:
    return f"{value.label} in {value.unit}" if isinstance(value, MetricRecord) else str(value or "other trainings")


def _combined(members: Sequence[_Member], folder: Path, command: str | None) -> CombinedRecord:
    first = members[0].record
    recipes = [member.record.recipe for member in members if member.record.recipe is not None]
    is_one_recipe = all(recipe == recipes[0] for recipe in recipes)
    names = list(dict.fromkeys(e.variant for member in members for e in member.record.against_baseline))
    roles = {v.name: v.role for member in members for v in member.record.variants}
    parts = {name: _part(name, roles[name], members) for name in names}
    adjusted = _corrected(parts.values())
    judge = PooledJudge(first.metric, sum(part.pooled is not None for part in parts.values()))
    effects = tuple(_judged(part, judge, adjusted.get(name)) for name, part in parts.items())
    return CombinedRecord(
        baseline=first.baseline,
        metric=first.metric,
        sets=tuple(_data_set(member, folder) for member in members),
        effects=effects,
        backbone=first.backbone,
        recipe=recipes[0].name if recipes and is_one_recipe else None,
        notes=tuple(_notes(members, effects, is_one_recipe)),
        created=timestamp(),
        command=command,
        versions=versions(),
    )


@dataclass(frozen=True)
class _Part:
    """A variant before its verdict."""

    variant: str
    role: str
    effects: tuple[DataSetEffect, ...]
    missing: tuple[str, ...]
    pooled: Pooled | None


def _part(name: str, role: str, members: Sequence[_Member]) -> _Part:
    found = [(member, effect) for member in members if (effect := member.record.effect_on(name)) is not None]
    missing = tuple(member.name for member in members if member.record.effect_on(name) is None)
    is_better = members[0].record.metric.higher_is_better
    effects = tuple(_effect(member.name, effect, is_better) for member, effect in found)
    if len(effects) < FEWEST or any(effect.verdict == "diverged" for effect in effects):
        return _Part(name, role, effects, missing, None)
    limit = 1.0 if members[0].record.metric.unit == "points" else float("inf")
    pooled = _cut(pooled_effect([e.mean for e in effects], [e.standard_error for e in effects]), limit)
    weighed = tuple(replace(effect, weight=weight) for effect, weight in zip(effects, pooled.weights, strict=True))
    return _Part(name, role, weighed, missing, pooled)


def _effect(data: str, effect: EffectRecord, higher_is_better: bool) -> DataSetEffect:
    worst, best = sorted((end if higher_is_better else -end) for end in (effect.low, effect.high))
    outcome: Outcome = "win" if worst > 0 else "loss" if best < 0 else "tie"
    numbers = (effect.mean, effect.low, effect.high, effect.standard_error)
    return DataSetEffect(data, *numbers, effect.seeds, outcome, effect.verdict)


def _cut(pooled: Pooled, limit: float) -> Pooled:
    """The ends within what is possible."""
    ends = ("low", "high", "prediction_low", "prediction_high")
    return replace(pooled, **{end: min(max(getattr(pooled, end), -limit), limit) for end in ends})


def _corrected(parts: Iterable[_Part]) -> dict[str, float]:
    """Holm over the attentions; controls count once an attention has passed, as in one comparison."""
    pooled = [(part, part.pooled) for part in parts if part.pooled is not None]
    attentions = [(part.variant, found.p_value) for part, found in pooled if part.role != "control"]
    controls = [(part.variant, found.p_value) for part, found in pooled if part.role == "control"]
    first = holm([p for _, p in attentions])
    gate = min(first) if first else 0.0
    later = gated([p for _, p in controls], [gate] * len(controls))
    return dict(zip([name for name, _ in (*attentions, *controls)], (*first, *later), strict=True))


def _judged(part: _Part, judge: PooledJudge, p_adjusted: float | None) -> CombinedEffect:
    pooled = None
    if part.pooled is not None and p_adjusted is not None:
        pooled = PooledRecord(**asdict(part.pooled), p_adjusted=p_adjusted)
    verdict, sentence = judge.verdict(part.variant, part.effects, pooled, part.missing)
    outcomes = [effect.outcome for effect in part.effects]
    return CombinedEffect(
        variant=part.variant,
        role=part.role,
        effects=part.effects,
        wins=outcomes.count("win"),
        ties=outcomes.count("tie"),
        losses=outcomes.count("loss"),
        verdict=verdict,
        sentence=sentence,
        missing=part.missing,
        pooled=pooled,
    )


def _data_set(member: _Member, folder: Path) -> DataSetRecord:
    record, inside = member.record, member.folder.resolve().is_relative_to(folder.resolve())
    path = member.folder.resolve().relative_to(folder.resolve()) if inside else member.folder
    images, groups = record.data.test_images, record.analysis.groups
    return DataSetRecord(member.name, path.as_posix(), record.data.fingerprint, len(record.seeds), images, groups)


def _notes(members: Sequence[_Member], effects: Sequence[CombinedEffect], is_one_recipe: bool) -> list[str]:
    """What holds for all sentences."""
    names = ", ".join(member.name for member in members)
    side = "above 0" if members[0].record.metric.higher_is_better else "below 0, as less is better"
    found = [f"Scope: data sets like {names}. A win is a data set whose own interval lies {side}."]
    found += [f"{e.variant} was not compared on {', '.join(e.missing)}." for e in effects if e.missing]
    lone = [member.name for member in members if len(member.record.seeds) == 1]
    if lone:
        found.append(
            f"One seed on {', '.join(lone)}: what varies between trainings is counted as a difference of the data sets."
        )
    if not is_one_recipe:
        found.append("The trainings have different recipes, which is part of what differs between the data sets.")
    return found


def folder_names(names: Sequence[str]) -> list[str]:
    """A folder's name for each of several data sets, each different from the others.

    >>> folder_names(["photos/a", "scans/a", "cifar10"])
    ['a', 'a-2', 'cifar10']
    """
    found: list[str] = []
    for name in names:
        slug = "".join(c if c.isalnum() else "-" for c in Path(name).name or name).strip("-") or "data"
        taken, number = slug, 2
        while taken.lower() in map(str.lower, found):
            taken, number = f"{slug}-{number}", number + 1
        found.append(taken)
    return found
