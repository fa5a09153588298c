"""The page of an explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .confusion import Cell
from .explanation_charts import faithfulness_chart, gate_atlas, gate_history_chart, switch_chart, value_chart
from .number_format import (
    MISSING,
    decimal,
    interval,
    percent,
    points,
    shortened,
)
from .page_parts import Warned, hardware_facts
from .read_folder import finite, thumbnail
from .render import render
from .svg import Chart
from .tables import Table

Document = Mapping[str, Any]
MOST_CLASSES = 12  # that still fit a matrix on the page
MOST_PAIRS = 12


@dataclass(frozen=True)
class Likeness:
    """How alike two classes are to the gates of one site, as a matrix."""

    classes: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def explanation_page(folder: Path, document: Document) -> str:
    """The HTML of a checked explanation.json and the pictures beside it."""
    return render("explanation.html", f"Explanation: {document['name']}", _content(folder, document))


def _content(folder: Path, document: Document) -> dict[str, Any]:
    looks = document.get("looks") or {}
    return {
        "heading": f"What the attention of {document['name']} does" if document.get("attention") else document["name"],
        "lead": _lead(document),
        "sentences": document["sentences"],
        "warnings": _warnings(document, looks),
        "gates": _gates(document),
        "decoupling": _decoupling(document.get("decoupling")),
        "folding": _folding(document.get("folding")),
        "faithfulness": _faithfulness(looks.get("faithfulness")),
        "pointing": _pointing(looks.get("pointing")),
        "examples": [_example(folder, example) for example in looks.get("examples") or []],
        "plain": document["plain"],
        "hardware": hardware_facts(document.get("hardware"), document.get("versions")),
        "command": document.get("command"),
    }


def _lead(document: Document) -> str:
    labelled = "with labels" if document.get("labelled") else "without labels"
    return f"n = {document['images']:,} images {labelled}, {len(document['classes'])} classes"


def _warnings(document: Document, looks: Document) -> list[Warned]:
    found = [Warned(note) for note in looks.get("notes") or []]
    if document["status"] != "finished":
        found.insert(0, Warned("This explanation was interrupted: repeat the same command."))
    return found


def _gates(document: Document) -> dict[str, Any] | None:
    gates = document.get("gates")
    if not gates:
        return None
    sites = gates["sites"]
    parts = list(dict.fromkeys(part for site in sites for part in site["parts"]))
    history = document.get("gate_history") or []
    charts = [
        chart
        for part in parts
        for chart in (gate_atlas(sites, part, gates["images"]), gate_history_chart(history, part))
    ]
    return {
        "charts": [chart for chart in charts if chart],
        "table": _gate_table(sites),
        "classes": _class_table(sites),
        "likeness": _likeness(sites, document["classes"]),
    }


def _gate_table(sites: Sequence[Document]) -> Table:
    rows = tuple(
        (
            site["path"],
            part,
            decimal(numbers["mean"], 3),
            decimal(numbers["spread"], 3),
            f"{numbers['low']:.2f} to {numbers['high']:.2f}",
            decimal(numbers["distance"], 3),
            percent(numbers["dynamic"], 0),
            percent(numbers.get("saturated")),
            MISSING if numbers.get("dead") is None else f"{numbers['dead']:,} of {numbers['elements']:,}",
        )
        for site in sites
        for part, numbers in site["parts"].items()
    )
    columns = (
        "site", "gate", "mean", "spread", "smallest to largest", "distance from doing nothing", "dynamic", "saturated",
        "closed for all images",
    )  # fmt: skip
    return Table("Every site in the order of the network", columns, rows, frozenset({1}))


def _deepest_with_classes(sites: Sequence[Document]) -> Document | None:
    return next((site for site in reversed(sites) if site.get("leaning")), None)


def _class_table(sites: Sequence[Document]) -> Table | None:
    """Which channels each class leans on, at the last site that has channel gates."""
    site = _deepest_with_classes(sites)
    if site is None:
        return None
    rows = tuple(
        (name, ", ".join(f"{channel} ({_signed(difference)})" for channel, difference in channels))
        for name, channels in site["leaning"].items()
    )
    caption = f"Channels that a class leans on at {site['path']}: its mean gate minus that of all images"
    return Table(caption, ("class", "channel (difference)"), rows, frozenset({1}))


def _likeness(sites: Sequence[Document], classes: Sequence[str]) -> dict[str, Any] | None:
    site = _deepest_with_classes(sites)
    if site is None or not site.get("class_similarity") or len(classes) > MOST_CLASSES:
        return None
    rows = tuple(tuple(_alike(finite(value)) for value in row) for row in site["class_similarity"])
    caption = (
        f"How alike the channel gates of two classes are at {site['path']} (cosine of their deviations from the mean)"
    )
    return {"matrix": Likeness(tuple(classes), rows), "caption": caption}


def _alike(value: float | None) -> Cell:
    return Cell(MISSING, 0.0) if value is None else Cell(_signed(value), value)


def _decoupling(decoupling: Document | None) -> dict[str, Any] | None:
    if not decoupling:
        return None
    everywhere = [cell for cell in decoupling["cells"] if cell["where"] == "everywhere"]
    by_site = [cell for cell in decoupling["cells"] if cell["where"] != "everywhere"]
    images = f"n = {decoupling['images']:,} images, paired, 95 % intervals"
    subset = f"{decoupling.get('permutations', '?')} permutations x {decoupling.get('subset', 0):,} images"
    is_exact = all(site["sampling_error"] == 0 for site in decoupling["sites"])
    worth = "Shapley values by sampling: {}; the intervals cover images and sampling."
    worth = "Exact Shapley values over all orders: {}." if is_exact else worth
    charts: list[Chart | None] = [
        switch_chart(everywhere, "Switched everywhere", f"Change in accuracy against the intact model; {images}.", by_site=False),
        value_chart(
            decoupling["halves"], "part", "What each kind of gate is worth",
            f"Exact Shapley values: they add up to what all attention is worth; {images}.",
        ),
        switch_chart(by_site, "Switched off at one site", f"Change in accuracy against the intact model; {images}.", by_site=True),
        value_chart(
            decoupling["sites"], "path", "What each site is worth",
            worth.format(subset),
        ),
    ]  # fmt: skip
    return {
        "charts": [chart for chart in charts if chart],
        "table": _cell_table(decoupling),
        "sites": _site_table(decoupling["sites"]),
        "interactions": _interaction_table(decoupling["interactions"]),
        "note": _speed_note(decoupling.get("speed_up")),
    }


def _cell_table(decoupling: Document) -> Table:
    intact = decoupling["intact"]
    rows = [("intact", "", percent(intact["top1"]), "", decimal(intact["loss"], 3), "", percent(intact["ece"]), "")]
    rows += [
        (
            cell["where"],
            cell["change"],
            percent(cell["top1"]),
            f"{points(cell['effect']['mean'])} ({interval(dict(cell['effect']))})",
            decimal(cell["loss"], 3),
            _plain_interval(cell.get("loss_effect")),
            percent(cell["ece"]),
            f"{points(cell['ece_change']['mean'])} ({interval(dict(cell['ece_change']))})"
            if cell.get("ece_change")
            else "",
        )
        for cell in decoupling["cells"]
    ]
    columns = (
        "where", "change", "top-1", "effect in points (95 %)", "loss", "change of loss (95 %)", "calibration error",
        "its change in points (95 %)",
    )  # fmt: skip
    return Table("The intact model and every change to it", columns, tuple(rows), frozenset({1}))


def _site_table(sites: Sequence[Document]) -> Table | None:
    rows = tuple(
        (
            site["path"],
            f"{points(site['accuracy']['mean'])} ({interval(dict(site['accuracy']))})",
            _plain_interval(site["loss"]),
            points(site["sampling_error"], 2).lstrip("+"),
        )
        for site in sites
    )
    columns = ("site", "worth in points (95 %)", "worth in loss (95 %)", "standard error of the sampling, points")
    return Table("Shapley values of the sites", columns, rows) if rows else None


def _interaction_table(pairs: Sequence[Document]) -> Table | None:
    strongest = sorted(pairs, key=lambda pair: -abs(pair["mean"]))[:MOST_PAIRS]
    rows = tuple((pair["first"], pair["second"], points(pair["mean"]), interval(dict(pair))) for pair in strongest)
    caption = f"Sites that need or replace each other: the {len(rows)} strongest of {len(pairs)} pairs"
    return Table(caption, ("site", "and site", "points", "95 % interval"), rows, frozenset({1})) if rows else None


def _speed_note(speed: Document | None) -> str:
    ratio = finite((speed or {}).get("ratio"))
    if ratio is None or ratio < 1.05:
        return ""
    return f"The cells of single sites took {ratio:.1f} times less time than one full evaluation each."


def _folding(folding: Document | None) -> dict[str, Any] | None:
    if not folding:
        return None
    rows = tuple(
        (
            site["path"],
            site["part"],
            site["action"],
            percent(site["dynamic"], 0),
            f"{site['swing']:.2g}",
            site["reason"],
        )
        for site in folding["sites"]
    )
    columns = ("site", "gate", "what would be done", "dynamic", "swing between images", "why")
    return {"table": Table("What folds away", columns, rows, frozenset({1, 2, 5}))}


def _faithfulness(faithfulness: Document | None) -> dict[str, Any] | None:
    if not faithfulness or not faithfulness["maps"]:
        return None
    rows = tuple(
        (
            entry["map"],
            _plain_interval(entry["deletion"]["auc"]),
            _plain_interval(entry["deletion"].get("against_random")),
            _plain_interval(entry["insertion"]["auc"]),
            _plain_interval(entry["insertion"].get("against_random")),
            _plain_interval(entry.get("road")),
            _plain_interval((entry.get("road") or {}).get("against_random")),
        )
        for entry in faithfulness["maps"]
    )
    columns = ("map", "deletion", "minus random", "insertion", "minus random", "ROAD", "minus random")
    caption = f"Areas under the curves, mean (95 % interval), n = {faithfulness['n']} images"
    charts = [faithfulness_chart(faithfulness, kind) for kind in ("deletion", "insertion")]
    return {"charts": charts, "table": Table(caption, columns, rows), "sentence": faithfulness.get("sentence", "")}


def _pointing(pointing: Document | None) -> Table | None:
    if not pointing:
        return None
    rows = tuple(
        (
            entry["map"],
            _share_interval(entry["hits"]),
            _difference(entry.get("hits_against_centre")),
            _share_interval(entry["energy"]),
            _difference(entry.get("energy_against_uniform")),
        )
        for entry in pointing["maps"]
    )
    columns = ("map", "hits (95 %)", "minus centre prior, points", "energy in the box (95 %)", "minus uniform, points")
    return Table(f"Does the map point at the object? n = {pointing['n']:,} images with boxes", columns, rows)


def _example(folder: Path, example: Document) -> dict[str, Any]:
    files = example["files"]
    sites = files.get("sites") or {}
    named = [
        ("image", "image"),
        ("gate", "spatial gate"),
        ("cam", "Grad-CAM"),
        ("plain_cam", "Grad-CAM, plain network"),
    ]
    pictures = [(words, files.get(key)) for key, words in named] + [
        (f"gate at {path}", file) for path, file in sites.items()
    ]
    shown = [(words, thumbnail(folder, file)) for words, file in pictures if isinstance(file, str)]
    label = example.get("label")
    return {
        "title": shortened(example["id"], 60),
        "label": MISSING if label is None else label,
        "answer": _answer(example["prediction"]),
        "plain_answer": _answer(example.get("plain_prediction")),
        "pictures": [{"words": words, "image": image} for words, image in shown if image],
    }


def _answer(prediction: Document | None) -> str:
    return f"{prediction['class']} ({percent(prediction['probability'], 0)})" if prediction else ""


def _plain_interval(entry: Document | None) -> str:
    if not entry or finite(entry.get("mean")) is None:
        return ""
    return f"{_signed(entry['mean'], 3)} ({_signed(entry['low'], 3)} to {_signed(entry['high'], 3)})"


def _share_interval(entry: Document) -> str:
    return f"{percent(entry['mean'])} ({100 * entry['low']:.1f} to {100 * entry['high']:.1f})"


def _difference(entry: Document | None) -> str:
    return f"{points(entry['mean'])} ({interval(dict(entry))})" if entry else ""


def _signed(value: float, decimals: int = 2) -> str:
    return f"{value:.{decimals}f}".replace("-", "\u2212")
