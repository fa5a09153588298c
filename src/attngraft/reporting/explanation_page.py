"""The page of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..explanation.explanation_record import (
    Decoupling,
    Example,
    ExplanationRecord,
    Faithfulness,
    FoldingRecord,
    Interaction,
    Pointing,
    Prediction,
    SiteGatesRecord,
    SiteWorth,
)
from .charts import Interval
from .confusion import Cell
from .explanation_charts import faithfulness_chart, gate_atlas, gate_history_chart, switch_chart, value_chart
from .number_format import MINUS, MISSING, POINTS, decimal, format_interval, percent, points, shortened
from .page_parts import Warned, hardware_facts
from .read_folder import thumbnail
from .render import render
from .tables import Table

MOST_CLASSES = 12  # that still fit a matrix on the page
MOST_PAIRS = 12


@dataclass(frozen=True)
class ClassSimilarity:
    """How similar two classes are to the gates of one site, as a matrix."""

    classes: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def explanation_page(folder: Path, record: ExplanationRecord) -> str:
    """The HTML of an explanation and the images beside it."""
    return render("explanation.html", f"Explanation: {record.name}", _content(folder, record))


def _content(folder: Path, record: ExplanationRecord) -> dict[str, Any]:
    looks = record.looks
    labelled = "with labels" if record.labelled else "without labels"
    warnings = [Warned(note) for note in (looks.notes if looks else ())]
    if record.status != "finished":
        warnings.insert(0, Warned("This explanation was interrupted: repeat the same command."))
    return {
        "heading": f"What the attention of {record.name} does" if record.attention else record.name,
        "lead": f"n = {record.images:,} images {labelled}, {len(record.classes)} classes",
        "sentences": record.sentences,
        "warnings": warnings,
        "gates": _gates(record),
        "decoupling": _decoupling(record.decoupling) if record.decoupling else None,
        "folding": _folding_table(record.folding) if record.folding else None,
        "faithfulness": _faithfulness(looks.faithfulness) if looks and looks.faithfulness else None,
        "pointing": _pointing_table(looks.pointing) if looks and looks.pointing else None,
        "examples": [_example(folder, example) for example in (looks.examples if looks else ())],
        "plain": record.plain,
        "hardware": hardware_facts(record.hardware, record.versions),
        "command": record.command,
    }


def _gates(record: ExplanationRecord) -> dict[str, Any] | None:
    gates, history = record.gates, record.gate_history or ()
    if gates is None:
        return None
    parts = list(dict.fromkeys(part for site in gates.sites for part in site.parts))
    charts = [chart for part in parts for chart in (gate_atlas(gates, part), gate_history_chart(history, part))]
    deepest = next((site for site in reversed(gates.sites) if site.leaning), None)
    return {
        "charts": [chart for chart in charts if chart],
        "table": _gate_table(gates.sites),
        "classes": _class_table(deepest) if deepest else None,
        "similarity": _similarity(deepest, record.classes) if deepest else None,
    }


def _gate_table(sites: Sequence[SiteGatesRecord]) -> Table:
    rows = tuple(
        (
            site.path,
            part,
            decimal(numbers.mean, 3),
            decimal(numbers.spread, 3),
            f"{numbers.low:.2f} to {numbers.high:.2f}",
            decimal(numbers.distance, 3),
            percent(numbers.dynamic, 0),
            percent(numbers.saturated),
            MISSING if numbers.dead is None else f"{numbers.dead:,} of {numbers.elements:,}",
        )
        for site in sites
        for part, numbers in site.parts.items()
    )
    columns = (
        "site", "gate", "mean", "spread", "smallest to largest", "distance from doing nothing", "dynamic", "saturated",
        "closed for all images",
    )  # fmt: skip
    return Table("Every site in the order of the network", columns, rows, frozenset({1}))


def _class_table(site: SiteGatesRecord) -> Table:
    """Which channels each class leans on, at the last site that has channel gates."""
    rows = tuple(
        (name, ", ".join(f"{channel} ({_signed(difference)})" for channel, difference in channels))
        for name, channels in (site.leaning or {}).items()
    )
    caption = f"Channels that a class leans on at {site.path}: its mean gate minus that of all images"
    return Table(caption, ("class", "channel (difference)"), rows, frozenset({1}))


def _similarity(site: SiteGatesRecord, classes: tuple[str, ...]) -> dict[str, Any] | None:
    if not site.class_similarity or len(site.class_similarity) != len(classes) or len(classes) > MOST_CLASSES:
        return None
    rows = tuple(
        tuple(Cell(MISSING, 0.0) if value is None else Cell(_signed(value), value) for value in row)
        for row in site.class_similarity
    )
    caption = (
        f"How similar the channel gates of two classes are at {site.path} (cosine of their deviations from the mean)"
    )
    return {"matrix": ClassSimilarity(classes, rows), "caption": caption}


def _decoupling(decoupling: Decoupling) -> dict[str, Any]:
    everywhere = [cell for cell in decoupling.cells if cell.where == "everywhere"]
    by_site = [cell for cell in decoupling.cells if cell.where != "everywhere"]
    images = f"n = {decoupling.images:,} images, paired, 95 % intervals"
    change = f"Change in accuracy against the intact model; {images}."
    halves = f"Exact Shapley values: they add up to what all attention is worth; {images}."
    sites = f"{decoupling.permutations} permutations x {decoupling.subset:,} images"
    sites = f"Shapley values by sampling: {sites}; the intervals cover images and sampling."
    if all(site.sampling_error == 0 for site in decoupling.sites):
        sites = f"Exact Shapley values over all orders: {decoupling.permutations} x {decoupling.subset:,} images."
    charts = [
        switch_chart(everywhere, "Switched everywhere", change, by_site=False),
        value_chart(decoupling.halves, "What each kind of gate is worth", halves),
        switch_chart(by_site, "Switched off at one site", change, by_site=True),
        value_chart(decoupling.sites, "What each site is worth", sites),
    ]
    ratio = decoupling.speed_up.ratio if decoupling.speed_up else 1.0
    note = f"The cells of single sites took {ratio:.1f} times less time than one full evaluation each."
    return {
        "charts": [chart for chart in charts if chart],
        "table": _cell_table(decoupling),
        "sites": _site_table(decoupling.sites) if decoupling.sites else None,
        "interactions": _interaction_table(decoupling.interactions) if decoupling.interactions else None,
        "note": note if ratio >= 1.05 else "",
    }


def _cell_table(decoupling: Decoupling) -> Table:
    intact = decoupling.intact
    rows = [("intact", "", percent(intact.top1), "", decimal(intact.loss, 3), "", percent(intact.ece), "")]
    rows += [
        (
            cell.where,
            cell.change,
            percent(cell.top1),
            _difference(cell.effect),
            decimal(cell.loss, 3),
            _plain_interval(cell.loss_effect),
            percent(cell.ece),
            _difference(cell.ece_change),
        )
        for cell in decoupling.cells
    ]
    columns = (
        "where", "change", "top-1", "effect in points (95 %)", "loss", "change of loss (95 %)", "calibration error",
        "its change in points (95 %)",
    )  # fmt: skip
    return Table("The intact model and every change to it", columns, tuple(rows), frozenset({1}))


def _site_table(sites: Sequence[SiteWorth]) -> Table:
    rows = tuple(
        (
            site.path,
            _difference(site.accuracy),
            _plain_interval(site.loss),
            points(site.sampling_error, 2).lstrip("+"),
        )
        for site in sites
    )
    columns = ("site", "worth in points (95 %)", "worth in loss (95 %)", "standard error of the sampling, points")
    return Table("Shapley values of the sites", columns, rows)


def _interaction_table(pairs: Sequence[Interaction]) -> Table:
    strongest = sorted(pairs, key=lambda pair: -abs(pair.mean))[:MOST_PAIRS]
    rows = tuple((pair.first, pair.second, points(pair.mean), format_interval(pair, POINTS)) for pair in strongest)
    caption = f"Sites that need or replace each other: the {len(rows)} strongest of {len(pairs)} pairs"
    return Table(caption, ("site", "and site", "points", "95 % interval"), rows, frozenset({1}))


def _folding_table(folding: FoldingRecord) -> Table:
    rows = tuple(
        (site.path, site.part, site.action, percent(site.dynamic, 0), f"{site.swing:.2g}", site.reason)
        for site in folding.sites
    )
    columns = ("site", "gate", "what would be done", "dynamic", "swing between images", "why")
    return Table("What folds away", columns, rows, frozenset({1, 2, 5}))


def _faithfulness(faithfulness: Faithfulness) -> dict[str, Any]:
    rows = tuple(
        (
            row.map,
            _plain_interval(row.deletion.auc),
            _plain_interval(row.deletion.against_random),
            _plain_interval(row.insertion.auc),
            _plain_interval(row.insertion.against_random),
            _plain_interval(row.road),
            _plain_interval(row.road.against_random),
        )
        for row in faithfulness.maps
    )
    columns = ("map", "deletion", "minus random", "insertion", "minus random", "ROAD", "minus random")
    caption = f"Areas under the curves, mean (95 % interval), n = {faithfulness.n} images"
    charts = [faithfulness_chart(faithfulness, kind) for kind in ("deletion", "insertion")]
    charts = [chart for chart in charts if chart]
    return {"charts": charts, "table": Table(caption, columns, rows), "sentence": faithfulness.sentence}


def _pointing_table(pointing: Pointing) -> Table:
    rows = tuple(
        (
            row.map,
            _share_interval(row.hits),
            _difference(row.hits_against_centre),
            _share_interval(row.energy),
            _difference(row.energy_against_uniform),
        )
        for row in pointing.maps
    )
    columns = ("map", "hits (95 %)", "minus centre prior, points", "energy in the box (95 %)", "minus uniform, points")
    return Table(f"Does the map point at the object? n = {pointing.n:,} images with boxes", columns, rows)


def _example(folder: Path, example: Example) -> dict[str, Any]:
    files = example.files
    named = {
        "image": files.image,
        "spatial gate": files.gate,
        "Grad-CAM": files.cam,
        "Grad-CAM, plain network": files.plain_cam,
        **{f"gate at {path}": file for path, file in files.sites.items()},
    }
    shown = [(words, thumbnail(folder, file)) for words, file in named.items() if file is not None]
    return {
        "title": shortened(example.id, 60),
        "label": MISSING if example.label is None else example.label,
        "prediction": _prediction(example.prediction),
        "plain_prediction": _prediction(example.plain_prediction),
        "images": [{"words": words, "image": image} for words, image in shown if image],
    }


def _prediction(prediction: Prediction | None) -> str:
    return f"{prediction.class_} ({percent(prediction.probability, 0)})" if prediction else ""


def _plain_interval(entry: Interval | None) -> str:
    return f"{_signed(entry.mean, 3)} ({_signed(entry.low, 3)} to {_signed(entry.high, 3)})" if entry else ""


def _share_interval(entry: Interval) -> str:
    return f"{percent(entry.mean)} ({100 * entry.low:.1f} to {100 * entry.high:.1f})"


def _difference(entry: Interval | None) -> str:
    return f"{points(entry.mean)} ({format_interval(entry, POINTS)})" if entry else ""


def _signed(value: float, decimals: int = 2) -> str:
    return f"{value:.{decimals}f}".replace("-", MINUS)
