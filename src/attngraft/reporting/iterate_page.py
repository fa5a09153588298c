"""The page of a search."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..config import to_dict
from ..continual.search.search_record import ClauseRecord, Finalist, SearchRecord, Trial
from .iterate_charts import STOPPED, importance_chart, measured_value, requirement_chart, trials_chart
from .number_format import MISSING, POINTS, axis_label, count, decimal, duration, percent, scale_of
from .page_parts import Warned, data_facts, data_warnings, hardware_facts, plain
from .render import render
from .tables import Column, Table

# what documents that do not describe their metrics and costs mean by a name: label, unit, whether higher is better
FORMER = {
    "top1": ("top-1", "points", True),
    "top5": ("top-5", "points", True),
    "worst_class": ("recall of the worst class", "points", True),
    "macro_f1": ("macro F1", "points", True),
    "loss": ("loss", "nats", False),
    "ece": ("calibration error", "points", False),
    "latency_ms": ("latency of one image", "ms", False),
    "parameters": ("parameters", "", False),
    "macs": ("multiply-accumulates", "", False),
}
COUNTS = ("parameters", "macs")
LISTED_ELSEWHERE = ("attention", "placement", "recipe")


class Quantities:
    """Labels and units of the metrics and costs of a search."""

    def __init__(self, record: SearchRecord) -> None:
        former = {
            name: dict(zip(("label", "unit", "higher_is_better"), of, strict=True)) for name, of in FORMER.items()
        }
        self._known: dict[str, dict[str, Any]] = {**former, **record.quantities}

    def label(self, name: str) -> str:
        return str(self._known.get(name, {}).get("label", name))

    def unit(self, name: str) -> str:
        return str(self._known.get(name, {}).get("unit", ""))

    def higher_is_better(self, name: str) -> bool:
        return bool(self._known.get(name, {}).get("higher_is_better", True))

    def show(self, name: str, value: Any) -> str:
        """A measured value."""
        if name in COUNTS:
            return count(value)
        if self.unit(name) == POINTS:
            return percent(value)
        return f"{decimal(value, 2)} ms" if self.unit(name) == "ms" else decimal(value)

    def exact(self, name: str, number: float) -> str:
        """A required number, not rounded."""
        if self.unit(name) == POINTS:
            return f"{round(100 * number, 6):g} %"
        return f"{number:,g} ms" if self.unit(name) == "ms" else f"{number:,.10g}"


def iterate_page(record: SearchRecord) -> str:
    """The HTML of a search."""
    heading = f"Search: {record.until}"
    return render("iterate.html", heading, _content(record, heading))


def _content(record: SearchRecord, heading: str) -> dict[str, Any]:
    quantities, metric = Quantities(record), primary_name(record)
    unit = quantities.unit(metric)
    number = next((clause.number for clause in record.clauses if clause.metric == metric), None)
    fractions = [c for c in record.clauses if quantities.unit(c.metric) == POINTS and None not in (c.low, c.high)]
    label = axis_label(quantities.label(metric), unit)
    charts = [trials_chart(record, metric, label, number, scale_of(unit)), importance_chart(record.importances)]
    warnings = data_warnings(to_dict(record.data))
    if record.status != "finished":
        warnings.insert(0, Warned("This search is not finished: the same command goes on."))
    return {
        "heading": heading,
        "lead": _lead(record),
        "verdict": record.verdict,
        "sentence": record.sentence,
        "notes": record.notes,
        "warnings": warnings,
        "answer": requirement_chart(fractions, quantities.label),
        "clauses": _clause_table(quantities, record.clauses),
        "finalist": _finalist_table(quantities, record.finalist) if record.finalist else None,
        "charts": [chart for chart in charts if chart],
        "attentions": _attention_table(record, metric),
        "trials": trial_table(record, record.trials),
        "reasons": [f"Trial {trial.number}: {trial.reason}" for trial in record.trials if trial.reason],
        "budget": _budget(record),
        "protocol": _protocol(record),
        "hardware": hardware_facts(record.hardware, record.versions),
        "command": record.command,
    }


def primary_name(record: SearchRecord) -> str:
    """The metric by which trials are shown."""
    return record.primary or "top1"


def _lead(record: SearchRecord) -> str:
    made = f"{len(record.trials)} trial{'' if len(record.trials) == 1 else 's'}"
    return f"backbone {record.backbone}, data {record.data.name}, {made}, budget {duration(record.budget_s)}"


def _clause_table(quantities: Quantities, clauses: Sequence[ClauseRecord]) -> Table | None:
    """The parts of the requirement with what was measured on the test images."""
    if all(clause.value is None for clause in clauses):
        return None
    words = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}
    rows = tuple(
        (
            quantities.label(clause.metric),
            f"{words.get(clause.operator, clause.operator)} {quantities.exact(clause.metric, clause.number)}",
            quantities.show(clause.metric, clause.value),
            "a cost, measured"
            if clause.low == clause.high
            else " to ".join(quantities.show(clause.metric, end) for end in (clause.low, clause.high)),
            "yes" if clause.met else "no",
        )
        for clause in clauses
    )
    return Table("The requirement and the test", ("what", "asked", "measured", "95 % interval", "met"), rows)


def _finalist_table(quantities: Quantities, finalist: Finalist) -> Table | None:
    runs = [(run, run.measured or {}) for run in finalist.runs if run.status != "waiting"]
    metrics = list(dict.fromkeys(metric for _, measured in runs for metric in measured))
    rows = tuple(
        (
            str(run.seed),
            *(quantities.show(metric, measured.get(metric)) for metric in metrics),
            run.reason or run.status,
        )
        for run, measured in runs
    )
    named = "the plain backbone" if finalist.variant == "none" else finalist.variant
    caption = f"The finalist, {named} with recipe {finalist.recipe}, on the test images"
    columns = ("seed", *map(quantities.label, metrics), "training")
    return Table(caption, columns, rows, frozenset({len(columns) - 1})) if rows else None


def _attention_table(record: SearchRecord, metric: str) -> Table | None:
    """The trials of each variant together; a search tries what looks good more often, so this is no comparison."""
    quantities = Quantities(record)
    values: dict[str, list[float]] = {}
    for trial in record.trials:
        value = measured_value(trial, metric)
        if value is not None and trial.status not in STOPPED:
            values.setdefault(trial.variant, []).append(value)
    best = max if quantities.higher_is_better(metric) else min
    ranked = sorted(values.items(), key=lambda item: best(item[1]), reverse=best is max)
    rows = tuple(
        (name, str(len(found)), quantities.show(metric, best(found)), quantities.show(metric, statistics.fmean(found)))
        for name, found in ranked
    )
    caption = f"Variants by their best trial ({quantities.label(metric)}, validation images)"
    return Table(caption, ("variant", "trials", "best", "mean"), rows) if rows else None


def trial_table(record: SearchRecord, trials: Sequence[Trial], caption: str = "") -> Table:
    """One row per trial; in the terminal only what fits."""
    quantities, metric = Quantities(record), primary_name(record)
    keys = [k for k in dict.fromkeys(k for trial in trials for k in trial.params) if k not in LISTED_ELSEWHERE]
    rows = tuple(
        (
            *(str(trial.number), trial.variant, trial.recipe),
            *(_parameter(key, trial.params.get(key)) for key in keys),
            str(len(trial.curve)),
            quantities.show(metric, measured_value(trial, metric)),
            count((trial.costs or {}).get("parameters")),
            duration(trial.time_s),
            trial.status,
        )
        for trial in trials
    )
    names = {key: key.removesuffix("_scale").replace("_", " ") for key in keys}
    columns: tuple[str | Column, ...] = (
        *("trial", "variant", "recipe"),
        *(Column(name, terminal="both" if key == "lr_scale" else "none") for key, name in names.items()),
        *(Column("epochs", terminal="none"), quantities.label(metric), Column("parameters", terminal="none")),
        *("time", Column("status", terminal="none")),
    )
    words = {index for index, key in enumerate(keys, 3) if any(isinstance(t.params.get(key), str) for t in trials)}
    text = frozenset({1, 2, len(columns) - 1, *words})
    return Table(caption or "All trials, on the validation images", columns, rows, text)


def _parameter(key: str, value: Any) -> str:
    if value is None:
        return ""
    return f"\u00d7{plain(value)}" if key.endswith("_scale") else plain(value)


def _budget(record: SearchRecord) -> list[tuple[str, str]]:
    used, searched = record.used_s, record.search_s
    facts = [("budget", duration(record.budget_s)), ("used", duration(used)), ("search", duration(searched))]
    if used is not None and searched is not None:
        facts.append(("finalist and test", duration(used - searched)))
    return [fact for fact in facts if fact[1] != MISSING]


def _protocol(record: SearchRecord) -> list[tuple[str, str]]:
    space = record.space
    facts = [("choices: " + key, plain(value)) for key, value in _table(space, "choices").items()]
    facts += [
        (
            "factor: " + key.removesuffix("_scale"),
            " to ".join(map(plain, ends)) if isinstance(ends, list) else plain(ends),
        )
        for key, ends in _table(space, "scales").items()
    ]
    listed = [(key, plain(space[key])) for key in ("attentions", "placements") if space.get(key)]
    recipes = [("recipes", ", ".join(_table(space, "recipes")))]
    seeds = [("seed of the search", str(record.seed)), ("seeds of the finalist", str(record.seeds))]
    return [*data_facts(to_dict(record.data)), *listed, *recipes, *facts, *seeds]


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}
