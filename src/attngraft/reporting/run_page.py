"""The page of a single run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .confusion import confusion_of
from .number_format import decimal, percent
from .page_parts import (
    Warned,
    data_facts,
    data_warnings,
    hardware_facts,
    pair_table,
    phase_table,
    plain,
    recipe_facts,
)
from .read_folder import read_metrics, read_predictions
from .render import render
from .run_charts import class_bars, history_chart, pace_chart
from .tables import Table


def run_page(run_dir: Path, run: Mapping[str, Any]) -> str:
    """The HTML of a checked run.json and what lies beside it."""
    heading = f"{run['variant']} on {run['backbone']}"
    return render("run.html", heading, _content(run_dir, run, heading))


def result_facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The results on the test images with their units; empty while the run goes on."""
    test = (run.get("results") or {}).get("test") or {}
    images = (run.get("data") or {}).get("test_images")
    of_images = f" of {images:,} test images" if isinstance(images, int) else ""
    facts = []
    if test:
        facts.append(("top-1", percent(test.get("top1")) + of_images))
        if test.get("top5") is not None:
            facts.append(("top-5", percent(test["top5"])))
        facts.append(("loss", f"{decimal(test.get('loss'))} (mean cross-entropy)"))
        if test.get("ece") is not None:
            facts.append(("calibration error", f"{percent(test['ece'])} (expected calibration error)"))
    return facts


def _content(run_dir: Path, run: Mapping[str, Any], heading: str) -> dict[str, Any]:
    metrics = read_metrics(run_dir)
    predictions = read_predictions(run_dir, len(run["classes"]))
    confusion = confusion_of(predictions, run["classes"]) if predictions else None
    test = (run.get("results") or {}).get("test") or {}
    recipe = run.get("recipe") or {}
    charts = [
        history_chart(metrics, "top1"),
        history_chart(metrics, "loss"),
        pace_chart(metrics),
        class_bars(test.get("per_class") or []),
    ]
    images = f"n = {confusion.images:,} test images" if confusion else ""
    mistakes = f"The most frequent mistakes, {images}"
    return {
        "heading": heading,
        "lead": _lead(run, recipe),
        "warnings": _warnings(run, metrics, predictions is None),
        "results": result_facts(run) or [("status", run["status"])],
        "charts": [chart for chart in charts if chart],
        "confusion": confusion,
        "confusion_caption": f"Images by true class (rows) and predicted class (columns), {images}",
        "mistakes": pair_table(confusion, mistakes, changed=False) if confusion else None,
        "sites": _sites(run.get("plan") or {}),
        "protocol": [*data_facts(run.get("data") or {}), *_setting(run), *recipe_facts(recipe)],
        "phases": phase_table(recipe),
        "hardware": hardware_facts(run),
        "command": run.get("command"),
    }


def _lead(run: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    data = (run.get("data") or {}).get("name")
    parts = [f"data {data}" if data else "", f"recipe {recipe['name']}" if recipe.get("name") else ""]
    return ", ".join([*filter(None, parts), f"seed {plain(run.get('seed'))}", str(run["status"])])


def _warnings(run: Mapping[str, Any], metrics: list[dict[str, Any]], predictions_missing: bool) -> list[Warned]:
    found = []
    if run["status"] != "finished":
        found.append(Warned(f"This run is not finished (status: {run['status']}, {len(metrics)} epochs so far)."))
    else:
        missing = [("metrics.jsonl", not metrics), ("predictions.safetensors", predictions_missing)]
        names = tuple(name for name, absent in missing if absent)
        if names:
            found.append(Warned(f"Missing or damaged: {', '.join(names)}. What rests on them is left out."))
    return found + data_warnings(run.get("data") or {})


def _setting(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("backbone", str(run["backbone"])), ("seed", plain(run.get("seed")))]
    if run.get("preprocessing"):
        facts.append(("preprocessing", plain(run["preprocessing"])))
    return facts


def _sites(plan: Mapping[str, Any]) -> Table:
    sites = plan.get("sites") or []
    rows = tuple(
        (site["path"], plain(site.get("channels")), f"{plain(site.get('height'))} x {plain(site.get('width'))}")
        for site in sites
    )
    caption = f"{plan.get('attention', '')} after these {len(rows)} modules (size for one image of the training size)"
    return Table(caption, ("module", "channels", "height x width"), rows)
