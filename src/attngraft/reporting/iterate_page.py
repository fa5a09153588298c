"""The page of a search, and its charts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import to_dict
from ..continual.search.search_record import ClauseRecord, Finalist, SearchRecord, Trial
from ..errors import counted
from .charts import INK, MUTED, WORSE, Chart, bar_chart, draw, named_rows, series_color, whole_numbers
from .number_format import MISSING, POINTS, axis_label, count, decimal, duration, percent, scale_of
from .page_parts import Warned, data_facts, data_warnings, hardware_facts, plain, render
from .read_folder import finite
from .tables import Column, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
STOPPED = ("pruned", "cut")
MOST_BARS = 12


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


def iterate_page(folder: Path, record: SearchRecord) -> str:
    """The HTML of a search, and the pictures beside it."""
    heading = f"Search: {record.until}"
    return render("iterate.html", heading, _content(folder, record, heading))


def _content(folder: Path, record: SearchRecord, heading: str) -> dict[str, Any]:
    quantities, metric = Quantities(record), primary_name(record)
    unit = quantities.unit(metric)
    number = next((clause.number for clause in record.clauses if clause.metric == metric), None)
    fractions = [c for c in record.clauses if quantities.unit(c.metric) == POINTS and None not in (c.low, c.high)]
    label = axis_label(quantities.label(metric), unit)
    charts = [trials_chart(record, metric, label, number, scale_of(unit)), importance_chart(record.importances)]
    warnings = data_warnings(to_dict(record.data), folder)
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
    made = counted(len(record.trials), "trial")
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


def measured_value(trial: Trial, metric: str) -> float | None:
    """What a trial reached on the validation images."""
    found = (trial.measured or {}).get(metric)
    return finite(found.get("value")) if isinstance(found, dict) else None


def trials_chart(record: SearchRecord, metric: str, label: str, number: float | None, scale: float) -> Chart | None:
    """Every trial's validation value in the order of the trials, the best until then, and the requirement.

    Args:
        metric, label: that the trials are shown by; its name and unit.
        number: that is required; None where the requirement is not about this metric.
        scale: what values are multiplied with to be shown.
    """
    known = [(trial, measured_value(trial, metric)) for trial in record.trials]
    points = [(trial.number, scale * value, trial.status) for trial, value in known if value is not None]
    if not points:
        return None
    steps = [(number + 1, scale * value) for number, value in enumerate(record.best_so_far) if value is not None]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        if steps:
            axes.step(*zip(*steps, strict=True), where="post", color=series_color(1), linewidth=1.6)
        for number_of, value, status in points:
            stopped = status in STOPPED
            color, marker = series_color(0 if stopped else 1), "x" if stopped else "o"
            axes.plot(number_of, value, marker, color=color, markersize=5)
        if number is not None:
            axes.axhline(scale * number, color=INK, linewidth=1.0, linestyle="--")
            axes.annotate(
                "required", (1, scale * number), (0, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", color=MUTED, fontsize=8.5,
            )  # fmt: skip
        whole_numbers(axes, "trial")
        axes.set_ylabel(label)

    told = "; ".join(f"trial {n}: {value:.3g}, {status}" for n, value, status in points[:30])
    note = "Validation images. Dots: trained to the end; crosses: stopped early. Line: the best so far."
    return Chart(draw(paint, 3.3), "Trial by trial", told, note)


def importance_chart(importances: Mapping[str, float]) -> Chart | None:
    """How much of the variation between trials each parameter explains."""
    shares = sorted(importances.items(), key=lambda item: -item[1])[:MOST_BARS]
    return bar_chart(
        [name.removesuffix("_scale").replace("_", " ") for name, _ in shares],
        [100 * share for _, share in shares],
        "What mattered in the search",
        "; ".join(f"{name}: {percent(share, 0)}" for name, share in shares),
        label="share of what varies between good and other trials (%)",
        note="PED-ANOVA over all trials, among parameters that every trial has. With few trials it is a hint, no finding.",
    )


def requirement_chart(clauses: Sequence[ClauseRecord], label: Callable[[str], str]) -> Chart | None:
    """What the finalist reached on the test images, with its interval, against the requirement."""
    measured = [(c, c.value, c.low, c.high) for c in clauses]
    known = [
        (c, v, low, high) for c, v, low, high in measured if v is not None and low is not None and high is not None
    ]
    if not known:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (clause, value, low, high) in enumerate(known):
            color = series_color(1) if clause.met else WORSE
            axes.plot([100 * low, 100 * high], [row, row], color=color, linewidth=2.2)
            axes.plot(100 * value, row, "o", color=color, markersize=6)
            axes.plot([100 * clause.number] * 2, [row - 0.32, row + 0.32], color=INK, linewidth=1.6)
        named_rows(axes, [label(clause.metric) for clause, *_ in known])
        axes.set_xlabel("%")

    told = "; ".join(
        f"{label(clause.metric)}: {percent(value)} ({percent(low)} to {percent(high)}), required {percent(clause.number)}"
        for clause, value, low, high in known
    )
    note = "Test images. Dot and line: mean over seeds and 95 % interval. Upright stroke: the requirement."
    return Chart(draw(paint, 0.9 + 0.42 * len(known)), "The result", told, note)
