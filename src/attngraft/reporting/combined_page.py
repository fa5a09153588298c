"""The page of comparisons on several data sets, and its charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..comparison.combined_record import CombinedEffect, CombinedRecord, DataSetEffect
from ..errors import counted
from .charts import BETTER, INK, MUTED, WORSE, Chart, interval_chart
from .number_format import (
    MISSING,
    axis_label,
    decimal,
    format_difference,
    format_effect,
    format_interval,
    shortened,
    words_for,
)
from .page_parts import hardware_facts, render
from .tables import Column, Noted, Table

COLORS = {"win": BETTER, "loss": WORSE, "tie": INK}


@dataclass(frozen=True)
class _Row:
    """A row of a forest plot."""

    mean: float
    low: float
    high: float


def combined_page(record: CombinedRecord) -> str:
    """The HTML of a combination."""
    heading = (
        f"Does attention help {record.backbone or 'other trainings'} over {counted(len(record.sets), 'data set')}?"
    )
    charts = [forest_chart(effect, record) for effect in record.effects]
    content = {
        "heading": heading,
        "lead": ", ".join(filter(None, [_counted(record), (record.created or "")[:10]])),
        "verdicts": [_verdict(effect) for effect in record.effects],
        "notes": list(record.notes),
        "effects": effect_table(record),
        "charts": [chart for chart in charts if chart],
        "sets": set_table(record),
        "protocol": _protocol(record),
        "hardware": hardware_facts(None, record.versions),
        "command": record.command,
    }
    return render("combined.html", heading, content)


def _counted(record: CombinedRecord) -> str:
    return f"{counted(len(record.effects), 'variant')}, {counted(len(record.sets), 'data set')}"


def _verdict(effect: CombinedEffect) -> dict[str, str]:
    sentence = effect.sentence
    sentence = sentence[:1].upper() + sentence[1:] if sentence.startswith("no evidence") else sentence
    return {"variant": effect.variant, "against": "", "verdict": effect.verdict, "sentence": sentence}


def forest_chart(effect: CombinedEffect, record: CombinedRecord) -> Chart | None:
    """The effect on each data set, and below them the mean and where a further data set is expected."""
    metric, pooled = record.metric, effect.pooled
    names = [shortened(one.data, 24) for one in effect.effects]
    rows: list[Any] = list(effect.effects)
    colors = [COLORS[one.outcome] for one in effect.effects]
    note = "Dot: effect on a data set. Line: its 95 % interval over seeds and test images."
    if pooled is not None:
        names += ["mean over data sets", "a further data set"]
        rows += [pooled, _Row(pooled.mean, pooled.prediction_low, pooled.prediction_high)]
        colors += [{"helps": BETTER, "hurts": WORSE}.get(effect.verdict, INK), MUTED]
        note += " Below: the mean with its interval, and where the effect on a further data set is expected."
    return interval_chart(
        names,
        rows,
        f"{effect.variant} against {record.baseline}",
        note,
        unit=metric.unit,
        label=axis_label(f"difference in {metric.label}", metric.unit, difference=True),
        colors=colors,
        told=[*(one.outcome for one in effect.effects), *(("mean", "expected") if pooled else ())],
        row_height=0.34,
    )


def effect_table(record: CombinedRecord) -> Table:
    """A row for each variant and data set, and one for the mean."""
    unit = record.metric.unit
    columns = (
        Column("variant"),
        Column("data set"),
        Column(f"effect{words_for(unit, ', ')}", "95 % interval"),
        Column("weight", terminal="none"),
        Column("seeds"),
        Column("verdict"),
    )
    rows = [row for effect in record.effects for row in _rows(effect, unit)]
    strong = frozenset(number for number, row in enumerate(rows) if row[1] == MEAN)
    caption = f"{record.backbone or 'other trainings'}, {record.metric.label}, {counted(len(record.sets), 'data set')}"
    note = f"effect: paired difference to '{record.baseline}'; verdicts after correction"
    return Table(caption, columns, tuple(rows), frozenset({1, 5}), note=note, strong=strong)


MEAN = "mean over data sets"


def _rows(effect: CombinedEffect, unit: str) -> Sequence[tuple[str | Noted, ...]]:
    found: list[tuple[str | Noted, ...]] = [_row(effect.variant, one, unit) for one in effect.effects]
    pooled = effect.pooled
    if pooled is not None:
        shown = Noted(format_effect(pooled, unit), format_interval(pooled, unit))
        found.append((effect.variant, MEAN, shown, "", "", effect.verdict))
    return found


def _row(variant: str, one: DataSetEffect, unit: str) -> tuple[str | Noted, ...]:
    shown = Noted(format_effect(one, unit), format_interval(one, unit))
    weight = MISSING if one.weight is None else f"{100 * one.weight:.0f} %"
    return (variant, one.data, shown, weight, str(one.seeds), one.verdict)


def set_table(record: CombinedRecord) -> Table:
    """The comparisons that enter."""
    rows = tuple(
        (
            one.name,
            f"{one.test_images:,}",
            MISSING if one.groups is None else f"{one.groups:,}",
            str(one.seeds),
            one.folder,
        )
        for one in record.sets
    )
    return Table("Comparisons", ("data set", "test images", "groups", "seeds", "folder"), rows, frozenset({4}))


def _protocol(record: CombinedRecord) -> list[tuple[str, str]]:
    facts = [("backbone", record.backbone or "not known"), ("recipe", record.recipe or "not known, or not the same")]
    for effect in record.effects:
        if effect.pooled is not None:
            unit, pooled = record.metric.unit, effect.pooled
            sd = format_difference(pooled.between_sd, unit, 2).lstrip("+")
            counts = f"{effect.wins} wins, {effect.ties} ties, {effect.losses} losses"
            p_values = f"p {decimal(pooled.p_value, 4)}, corrected {decimal(pooled.p_adjusted, 4)}"
            facts.append((effect.variant, f"{p_values}; sd between data sets {sd}{words_for(unit, ' ')}; {counts}"))
    return [
        *facts,
        ("mean", "weighted by the variance between data sets (Paule and Mandel) and that of each"),
        ("interval", "Hartung, Knapp, Sidik and Jonkman with a factor of at least 1, 95 %"),
        ("correction", "Holm's over the variants; controls count once an attention has passed"),
    ]
