"""The tables of a comparison, for its page and for the terminal."""

from __future__ import annotations

import statistics

from ..comparison.comparison_record import ComparisonRecord, EffectRecord, SquareRecord, VariantRecord
from ..costs import Latency
from ..errors import counted
from .number_format import (
    MISSING,
    count,
    decimal,
    duration,
    format_difference,
    format_effect,
    format_interval,
    format_value,
    mean_and_spread,
    share,
    words_for,
)
from .tables import Column, Noted, Table

COSTS = (
    Column("params", "added", "note"),
    Column("MACs", "added", "none"),
    Column("latency", "median, quartiles", "none"),
    Column("latency", terminal="only"),
    Column("training", "mean per run", "none"),
    Column("sites", terminal="none"),
)
START = (
    Column("same at start", "before training", "none"),
    Column("same at start", terminal="only", folds=True),
)
EFFECTS = {"channel": "channel gates", "spatial": "spatial gates", "interaction": "interaction of both"}


def sample_size(comparison: ComparisonRecord) -> str:
    """How many seeds and test images the numbers rest on."""
    if comparison.analysis.folds:
        return f"{_seeds(comparison)} of {counted(comparison.data.test_images, 'image')}"
    groups = comparison.analysis.groups
    in_groups = "" if groups is None else f" in {counted(groups, 'group')}"
    return f"{_seeds(comparison)} x {counted(comparison.data.test_images, 'test image')}{in_groups}"


def baseline_first(comparison: ComparisonRecord) -> list[VariantRecord]:
    """The variants in the order of their colours."""
    return sorted(comparison.variants, key=lambda variant: variant.name != comparison.baseline)


def variant_table(comparison: ComparisonRecord) -> Table:
    """The variants: score, effect, verdict and cost."""
    metric, runs = comparison.metric, "folds" if comparison.analysis.folds else "seeds"
    has_costs = any(variant.parameters is not None for variant in comparison.variants)
    columns = (
        Column("variant", terminal="text"),
        Column(metric.label, f"mean ± sd over {runs}", "text"),
        Column(f"effect{words_for(metric.unit, ', ')}", "95 % interval", folds=True),
        *(COSTS if has_costs else ()),
        *(START if comparison.at_start else ()),
        Column("verdict", folds=True),
    )
    rows = tuple(_variant_row(comparison, variant, has_costs) for variant in baseline_first(comparison))
    caption = f"{comparison.title}, n = {sample_size(comparison)}"
    costs = "; costs against it" if has_costs else ""
    note = f"effect: paired difference to '{comparison.baseline}'{costs}; sd over {runs}{_start_note(comparison)}"
    return Table(caption, columns, rows, frozenset({len(columns) - 1}), note=note)


def _variant_row(comparison: ComparisonRecord, variant: VariantRecord, has_costs: bool) -> tuple[str | Noted, ...]:
    effect, unit = comparison.effect_on(variant.name), comparison.metric.unit
    return (
        Noted(variant.name, variant.role),
        Noted(mean_and_spread(variant.scores, unit), f"n = {len(variant.scores)}"),
        Noted(format_effect(effect, unit), format_interval(effect, unit)) if effect else "",
        *(_costs(comparison, variant) if has_costs else ()),
        *(_start(comparison, variant) if comparison.at_start else ()),
        effect.verdict if effect else "",
    )


def _start(comparison: ComparisonRecord, variant: VariantRecord) -> tuple[str | Noted, str]:
    """For the page; and for the terminal, which has no room for how much changes."""
    found = comparison.at_start.get(variant.slug)
    if found is None:
        return "", ""
    kept = f"{found.kept:,} of {found.images:,}"
    change = MISSING if found.largest_change is None else f"{100 * found.largest_change:.2g} %"
    note = "equal bit for bit" if found.equal else f"largest change {change}"
    return Noted(kept, note), f"{kept}, equal" if found.equal else kept


def _start_note(comparison: ComparisonRecord) -> str:
    """What the column says, as the end of a note."""
    heads = {found.head for found in comparison.at_start.values()}
    if not heads:
        return ""
    head = "the network's own head" if heads == {"own"} else "an untrained head"
    return f"; same at start: test images whose prediction grafting alone leaves, before training, with {head}"


def _costs(comparison: ComparisonRecord, variant: VariantRecord) -> tuple[str | Noted, ...]:
    base = comparison.variant(comparison.baseline)
    added = base is not None and variant.name != base.name
    latency, times = variant.latency_ms, variant.train_time_s
    base_latency = base.latency_ms if base else None
    slower = share(latency.median - base_latency.median, base_latency.median) if latency and base_latency else MISSING
    return (
        Noted(count(variant.parameters), share(variant.parameters_added, base.parameters) if base and added else ""),
        Noted(count(variant.macs), share(variant.macs_added, base.macs) if base and added else ""),
        *_latency(latency, slower if added else ""),
        duration(statistics.fmean(times)) if times else MISSING,
        str(variant.sites),
    )


def _latency(latency: Latency | None, slower: str) -> tuple[str | Noted, str]:
    """For the page; and for the terminal, which shows what is added."""
    if latency is None:
        return MISSING, MISSING
    median, ends = f"{decimal(latency.median, 1)} ms", (decimal(latency.q1, 1), decimal(latency.q3, 1))
    return Noted(median, f"{' to '.join(ends)}, n = {latency.n}"), slower or median


def effect_table(comparison: ComparisonRecord) -> Table:
    """All numbers of the effects."""
    unit = comparison.metric.unit
    of_unit = words_for(unit, " (", ")")
    columns = (
        *("variant", "against", f"effect{of_unit}", "interval", f"standard error{of_unit}", "df", "p", "p, corrected"),
        *(f"could have seen{of_unit}", f"by seed{of_unit}", "answers that differ"),
    )
    rows = tuple(
        (
            effect.variant,
            effect.against,
            format_effect(effect, unit, 2),
            format_interval(effect, unit),
            format_difference(effect.standard_error, unit, 2).lstrip("+"),
            decimal(effect.degrees_of_freedom, 1),
            decimal(effect.p_value, 4),
            decimal(effect.p_adjusted, 4),
            _detectable(effect, unit),
            _by_seed(effect, unit),
            MISSING if effect.answers_differ is None else f"{100 * effect.answers_differ:.1f} %",
        )
        for effect in comparison.effects
    )
    return Table(f"Paired differences in {comparison.metric.label}", columns, rows, frozenset({1}))


def _detectable(effect: EffectRecord, unit: str) -> str | Noted:
    values = (effect.smallest_detectable, effect.detectable_low, effect.detectable_high)
    size, low, high = ("" if v is None else format_difference(v, unit, 2).lstrip("+") for v in values)
    return Noted(size, f"{low} to {high}") if low and low != high else size


def _by_seed(effect: EffectRecord, unit: str) -> str:
    """The effect of each seed, in the order of the seeds."""
    shown = [
        f"{seed}: {format_difference(mean, unit)}"
        for seed, mean in zip(effect.paired_seeds, effect.seed_effects, strict=False)
    ]
    return ", ".join(shown) or MISSING


def class_table(comparison: ComparisonRecord) -> Table:
    """The effects by class; of attentions only, as controls are there for the total."""
    unit = comparison.metric.unit
    rows = tuple(
        (
            entry.class_,
            effect.variant,
            f"{entry.images:,}",
            format_effect(entry, unit),
            format_interval(entry, unit),
            decimal(entry.p_adjusted, 3),
        )
        for effect in comparison.against_baseline
        if effect.variant not in comparison.controls
        for entry in effect.per_class
    )
    columns = (
        "class",
        "variant",
        "test images",
        f"effect{words_for(unit, ' (', ')')}",
        "95 % interval",
        "p, corrected",
    )
    return Table(f"Effect by class against '{comparison.baseline}'", columns, rows, frozenset({1}))


def tuning_table(comparison: ComparisonRecord) -> Table | None:
    """The score of every variant at every learning rate, with what it adds to the plain backbone at the same rate."""
    tuning, unit = comparison.tuning, comparison.metric.unit
    if tuning is None:
        return None
    names = list(dict.fromkeys(trial.variant for trial in tuning.trials))
    scores = {(trial.variant, trial.lr_scale): trial.score for trial in tuning.trials}
    factors = sorted({trial.lr_scale for trial in tuning.trials})

    def cell(name: str, factor: float) -> str | Noted:
        score, base = scores.get((name, factor)), scores.get((comparison.baseline, factor))
        if score is None:
            return "diverged"
        mark = " *" if tuning.chosen.get(name) == factor else ""
        shown = f"{format_value(score, unit)}{mark}"
        if name == comparison.baseline or base is None:
            return shown
        return Noted(shown, format_difference(score - base, unit))

    rows = tuple((f"x {factor:g}", *(cell(name, factor) for name in names)) for factor in factors)
    caption = f"{comparison.metric.label} by learning rate on {counted(tuning.images, 'validation image')}, one seed"
    note = f"*: taken for all seeds; small: difference to '{comparison.baseline}' at the same rate"
    return Table(caption, ("rates", *names), rows, note=note)


def robustness_table(comparison: ComparisonRecord) -> Table | None:
    """The effects under corruptions."""
    found, unit = comparison.robustness, comparison.metric.unit
    if found is None:
        return None
    effects = {effect.variant: effect for effect in found.effects}
    rows = []
    for name, values in found.values.items():
        effect = effects.get(name)
        numbers = ("", "", "", "")
        if effect is not None:
            shown = (format_effect(effect, unit, 2), format_interval(effect, unit))
            numbers = (*shown, decimal(effect.p_adjusted, 4), effect.verdict)
        rows.append((name, mean_and_spread(values, unit), *numbers))
    label = f"{comparison.metric.label}, corrupted"
    columns = ("variant", label, f"effect{words_for(unit, ', ')}", "98 % interval", "p, corrected", "verdict")
    caption = f"Mean over {len(found.corruptions)} corruptions at severity {found.severity} of 5"
    note = f"{', '.join(found.corruptions)}; a family of its own at 2 %"
    return Table(caption, columns, tuple(rows), frozenset({5}), note=note)


def square_tables(comparison: ComparisonRecord) -> list[dict[str, Table]]:
    """The 2 x 2 tables of CBAM and its halves, each trained on its own: "cells" and "effects" of every square."""
    first = comparison.factorial
    squares = [first, *first.others] if first else []
    return [{"cells": _cells(square, comparison), "effects": _effects(square, comparison)} for square in squares]


def _cells(square: SquareRecord, comparison: ComparisonRecord) -> Table:
    scores, names, unit = square.cells, square.variants, comparison.metric.unit
    none, channel, spatial, both = (
        f"{format_value(getattr(scores, cell), unit)} ({getattr(names, cell)})"
        for cell in ("none", "channel", "spatial", "both")
    )
    rows = (("without channel gates", none, spatial), ("with channel gates", channel, both))
    columns = (f"mean {comparison.metric.label}", "without spatial gates", "with spatial gates")
    return Table(f"'{names.both}' and its halves, {_seeds(comparison)}", columns, rows)


def _effects(square: SquareRecord, comparison: ComparisonRecord) -> Table:
    unit = comparison.metric.unit
    effects = {word: getattr(square, key) for key, word in EFFECTS.items()}
    rows = tuple(
        (
            word,
            format_effect(e, unit, 2),
            format_interval(e, unit),
            MISSING if e.p_adjusted is None else decimal(e.p_adjusted, 3),
        )
        for word, e in effects.items()
    )
    caption = f"Main effects and interaction, '{square.variants.both}'"
    return Table(caption, ("", unit or "difference", "95 % interval", "p, corrected"), rows)


def _seeds(comparison: ComparisonRecord) -> str:
    number, folds, repeats = len(comparison.seeds), comparison.analysis.folds, comparison.analysis.repeats
    if folds:
        return f"{folds} folds x {repeats} repetition{'' if repeats == 1 else 's'}"
    return counted(number, "seed")
