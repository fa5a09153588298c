"""The page of a single run, its charts, and its results for the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import to_dict
from ..errors import counted
from ..tasks import Metric, Task, primary, task_from
from ..training import RunRecord
from ..training.top_losses import read_top_losses
from .charts import Chart, LegendItem, Line, bar_chart, line_chart
from .confusion import confusion_of
from .number_format import (
    MISSING,
    POINTS,
    axis_label,
    decimal,
    duration,
    format_value,
    percent,
    scale_of,
    shortened,
    titled,
    words_for,
)
from .page_parts import (
    Warned,
    data_facts,
    data_warnings,
    hardware_facts,
    pair_table,
    phase_table,
    plain,
    recipe_facts,
    render,
)
from .read_folder import finite, read_metrics, read_predictions
from .tables import Table

BASE64 = re.compile("[A-Za-z0-9+/]+=*")
CLASS, OUTPUT = "per_class", "per_output"  # what a task says of each class, label or target
MOST_BARS = 30
Rows = Sequence[Mapping[str, Any]]


def run_page(run_dir: Path, run: RunRecord) -> str:
    """The HTML of a run and what lies beside it."""
    heading = f"{run.variant} on {run.backbone}"
    return render("run.html", heading, _content(run_dir, run, heading))


def result_facts(run: RunRecord) -> list[tuple[str, str]]:
    """The results on the test images with their units; empty while the run goes on."""
    if run.results is None:
        return []
    metrics = task_from(run.task, run.classes).metrics
    facts: list[tuple[str, str]] = []
    for name, value in run.results.test.items():
        if name in metrics and finite(value) is not None:
            images = "" if facts else counted(run.data.test_images, "test image")
            told = words_for(images, " of " if metrics[name].unit == POINTS else ", n = ")
            facts.append((metrics[name].label, format_value(value, metrics[name].unit) + told))
    facts.append(("loss", decimal(run.results.test.get("loss"))))
    if finite(run.results.test.get("ece")) is not None:
        facts.append(("calibration error", f"{percent(run.results.test['ece'])} (expected calibration error)"))
    if finite(run.results.test.get("temperature")) is not None:
        facts.append(("temperature", f"{decimal(run.results.test['temperature'])}, chosen on validation images"))
    return facts


def class_values(run: RunRecord) -> dict[str, tuple[float, int]]:
    """Class -> its value of the primary metric and its test images, for tasks with classes."""
    name = primary(task_from(run.task, run.classes)).name
    rows = _rows(run, CLASS)
    return {
        str(row["class"]): (row[name], int(row["images"]))
        for row in rows
        if "class" in row and finite(row.get(name)) is not None and finite(row.get("images")) is not None
    }


def _content(run_dir: Path, run: RunRecord, heading: str) -> dict[str, Any]:
    metrics = read_metrics(run_dir)
    task = task_from(run.task, run.classes)
    metric = primary(task)
    predictions = None if run.task else read_predictions(run_dir, len(run.classes))
    confusion = confusion_of(predictions, run.classes) if predictions else None
    recipe, data = to_dict(run.recipe), to_dict(run.data)
    charts = [
        history_chart(metrics, metric.name, metric.label, metric.unit),
        history_chart(metrics, "loss", "loss", ""),
        class_bars(class_values(run), metric.label, higher_is_better=metric.higher_is_better),
        distance_chart(metrics),  # below that of the loss
        pace_chart(metrics),
    ]
    images = f"n = {counted(confusion.images, 'test image')}" if confusion else ""
    mistakes = f"The most frequent mistakes, {images}"
    missing = [] if metrics or not run.recipe.epochs else ["metrics.jsonl"]  # without phases there are no epochs
    if predictions is None and not run.task:
        missing.append("predictions.safetensors")
    return {
        "heading": heading,
        "lead": f"data {run.data.name}, recipe {run.recipe.name}, seed {run.seed}, {run.status}",
        "warnings": [*_warnings(run, len(metrics), missing), *data_warnings(data, run_dir)],
        "results": result_facts(run) or [("status", run.status)],
        "outputs": _output_table(run, task),
        "charts": [chart for chart in charts if chart],
        "confusion": confusion,
        "confusion_caption": f"Images by true class (rows) and predicted class (columns), {images}",
        "mistakes": pair_table(confusion, mistakes, "images") if confusion else None,
        "losses": top_loss_cards(run_dir, run),
        "preparation": [sentence[:1].upper() + sentence[1:] for sentence in run.preparation],
        "stages": stage_table(recipe, metrics, metric),
        "sites": _sites(run.plan or {}),
        "protocol": [
            *data_facts(data, "outputs" if run.task else "classes"),
            *(("backbone", run.backbone), ("seed", str(run.seed))),
            ("preprocessing", plain(to_dict(run.preprocessing))),
            *recipe_facts(recipe),
        ],
        "phases": phase_table(recipe),
        "hardware": hardware_facts(run.hardware, run.versions),
        "command": None,
    }


def top_loss_cards(run_dir: Path, run: RunRecord) -> list[dict[str, str]]:
    """The images with the largest losses; none while the run goes on, or where they were not kept."""
    if run.results is None:
        return []
    return [
        {
            "image": f"data:image/jpeg;base64,{kept.image}",
            "id": kept.id,
            "true": kept.true,
            "predicted": kept.predicted,
            "probability": "" if kept.probability is None else percent(kept.probability).replace(" ", "\u00a0"),
            "loss": decimal(kept.loss),
        }
        for kept in read_top_losses(run_dir)
        if BASE64.fullmatch(kept.image)
    ]


def stage_table(recipe: Mapping[str, Any], metrics: Rows, metric: Metric) -> Table | None:
    """What each phase trained, and how loss and metric went from its first epoch to its last."""
    rows = []
    for phase in recipe.get("phases") or []:
        epochs = [row for row in metrics if row.get("phase") == phase["name"]]
        if epochs:
            span = f"{epochs[0]['epoch']} to {epochs[-1]['epoch']}"
            losses = _from_to(epochs, ("train_loss", "eval_loss"), "")
            scores = _from_to(epochs, (f"train_{metric.name}", f"eval_{metric.name}"), metric.unit)
            seconds = sum(finite(row.get("time_s")) or 0.0 for row in epochs)
            rows.append((str(phase["name"]), plain(phase.get("train")), span, *losses, *scores, duration(seconds)))
    if not rows:
        return None
    held = next((str(row["eval_split"]) for row in metrics if row.get("eval_split")), "evaluation")
    words = ("training", "validation" if held == "val" else held)
    names = [f"{word} {what}" for what in ("loss", metric.label) for word in words]
    columns = ("phase", "what it trained", "epochs", *names, "time")
    return Table(
        "The phases, one after the other; numbers of their first → last epoch", columns, tuple(rows), frozenset({1})
    )


def _from_to(epochs: Rows, keys: Sequence[str], unit: str) -> list[str]:
    """The values of the first and the last epoch of a phase."""
    found = []
    for key in keys:
        first, last = finite(epochs[0].get(key)), finite(epochs[-1].get(key))
        shown = [MISSING if value is None else format_value(value, unit) for value in (first, last)]
        text = shown[0] if len(epochs) == 1 or shown == [MISSING] * 2 else " → ".join(shown)
        found.append(text.replace(" %", "\u00a0%"))
    return found


def _warnings(run: RunRecord, epochs: int, missing: Sequence[str]) -> list[Warned]:
    if run.status != "finished":
        return [Warned(f"This run is not finished (status: {run.status}, {counted(epochs, 'epoch')} so far).")]
    words = f"Missing or damaged: {', '.join(missing)}. What rests on them is left out."
    return [Warned(words)] if missing else []


def _output_table(run: RunRecord, task: Task) -> Table | None:
    """What the task says of each of its labels or targets."""
    rows = _rows(run, OUTPUT)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    if not keys:
        return None
    labels = [
        axis_label(task.metrics[key].label, task.metrics[key].unit) if key in task.metrics else key.replace("_", " ")
        for key in keys
    ]
    scales = {key: scale_of(task.metrics[key].unit) if key in task.metrics else 1.0 for key in keys}
    cells = tuple(tuple(_cell(row.get(key), scales[key]) for key in keys) for row in rows)
    return Table(f"By output, n = {counted(run.data.test_images, 'test image')}", tuple(labels), cells)


def _cell(value: Any, scale: float) -> str:
    number = finite(value)
    return plain(value) if number is None or isinstance(value, int) else f"{scale * number:.4g}"


def _rows(run: RunRecord, key: str) -> list[Mapping[str, Any]]:
    rows = run.results.test.get(key) if run.results else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _sites(plan: Mapping[str, Any]) -> Table:
    sites = plan.get("sites")
    rows = tuple(
        (
            plain(site.get("path")),
            plain(site.get("channels")),
            f"{plain(site.get('height'))} x {plain(site.get('width'))}",
        )
        for site in (sites if isinstance(sites, list) else [])
        if isinstance(site, dict)
    )
    caption = f"{plan.get('attention', '')} after these {len(rows)} modules (size for one image of the training size)"
    return Table(caption, ("module", "channels", "height x width"), rows)


def phases_of(metrics: Rows) -> list[tuple[int, str]]:
    """First epoch and name of each phase, in order."""
    phases: list[tuple[int, str]] = []
    for entry in metrics:
        name = str(entry.get("phase") or "")
        if name and (not phases or phases[-1][1] != name):
            phases.append((entry["epoch"], name))
    return phases


def history_chart(metrics: Rows, name: str, label: str, unit: str) -> Chart | None:
    """Training and evaluation values of a metric, or of the loss, per epoch."""
    split = next((str(entry["eval_split"]) for entry in metrics if entry.get("eval_split")), "eval")
    series = ((f"train_{name}", "training"), (f"eval_{name}", "validation" if split == "val" else split))
    lines = [
        Line(LegendItem(words, index, dashed=index == 0), _values(metrics, key, scale_of(unit)))
        for index, (key, words) in enumerate(series)
    ]
    lines = [line for line in lines if line.points]
    told = "; ".join(f"{line.item.label}: {line.points[-1][1]:.3g} in the last epoch" for line in lines)
    title, phases = f"{titled(label)} per epoch", phases_of(metrics)
    return line_chart(lines, title, told, ylabel=axis_label(label, unit), phases=phases)


def distance_chart(metrics: Rows) -> Chart | None:
    """How far each part of the network has moved from the weights at the start; None for runs that did not keep it."""
    rows = [{"epoch": row["epoch"], **row["moved"]} for row in metrics if isinstance(row.get("moved"), dict)]
    parts = sorted({key for row in rows for key in row} - {"epoch"}, key=_depth)
    lines = [
        Line(LegendItem(_part_name(part), index), [point for point in _values(rows, part, 100.0) if point[1] > 0])
        for index, part in enumerate(parts, start=1)
    ]
    lines = [line for line in lines if line.points]
    told = "; ".join(f"{line.item.label}: {line.points[-1][1]:.3g} % in the last epoch" for line in lines)
    note = "Distance of the weights from those before the first step, as part of their norm. What has not moved has no line."
    title, phases = "What training did to each part of the network", phases_of(metrics)
    label = "distance in %"
    return line_chart(lines, title, told, ylabel=label, note=note, phases=phases, logarithmic=True)


def _depth(part: str) -> tuple[bool, int, str]:
    """Stages from the input on, then grafts and head."""
    number = part.removeprefix("stage ")
    return (not number.isdecimal(), int(number) if number.isdecimal() else 0, part)


def _part_name(part: str) -> str:
    """A stage's number counted from 1, at the input.

    >>> _part_name("stage 0"), _part_name("head")
    ('stage 1', 'head')
    """
    stage, _, number = part.partition(" ")
    return f"{stage} {int(number) + 1}" if number.isdecimal() else part


def pace_chart(metrics: Rows) -> Chart | None:
    """What a dynamic recipe did to the grafts' learning rate and to the strength of the gates; None for a fixed one."""
    rows = [{"epoch": row["epoch"], **row["dynamic"]} for row in metrics if isinstance(row.get("dynamic"), dict)]
    series = (("rate", "learning rate of the grafts"), ("strength", "strength of the gates"))
    lines = [Line(LegendItem(words, index), _values(rows, key, 1.0)) for index, (key, words) in enumerate(series)]
    lines = [line for line in lines if line.points]
    told = "; ".join(f"{line.item.label}: x {line.points[-1][1]:.3g} in the last epoch" for line in lines)
    title, phases = "What followed the trend of the loss", phases_of(metrics)
    return line_chart(lines, title, told, ylabel="factor", height=2.4, phases=phases, level=1, step=True)


def class_bars(values: Mapping[str, tuple[float, int]], label: str, *, higher_is_better: bool) -> Chart | None:
    """A metric that is a fraction by class, or of the worst classes."""
    shown = sorted(values, key=lambda name: values[name][0] * (1 if higher_is_better else -1))[:MOST_BARS]
    told = "; ".join(f"{name}: {format_value(values[name][0], 'points')} of {values[name][1]}" for name in shown)
    note = "Worst first; in brackets: test images of the class."
    if len(shown) < len(values):
        note = f"The worst {len(shown)} of {len(values)} classes. {note}"
    names = [f"{shortened(name, 22)} ({values[name][1]})" for name in shown]
    heights = [100 * values[name][0] for name in shown]
    title, axis = f"{titled(label)} by class", axis_label(label, "points")
    return bar_chart(names, heights, title, told, label=axis, note=note, numbers=True)


def _values(rows: Rows, key: str, scale: float) -> list[tuple[float, float]]:
    known = [(row["epoch"], finite(row.get(key))) for row in rows]
    return [(epoch, scale * value) for epoch, value in known if value is not None]
