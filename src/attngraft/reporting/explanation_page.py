"""The page of an explanation, and its charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import counted
from ..explanation.explanation_record import (
    CellEffect,
    Decoupling,
    EpochGates,
    Example,
    ExplanationRecord,
    Faithfulness,
    FoldingRecord,
    GatesRecord,
    Half,
    Interaction,
    MapFaithfulness,
    Pointing,
    Prediction,
    SiteGatesRecord,
    SiteWorth,
    in_groups,
)
from .charts import (
    INK,
    MUTED,
    Chart,
    Interval,
    LegendItem,
    Line,
    draw,
    interval_chart,
    line_chart,
    named_rows,
    series_color,
    side_color,
)
from .confusion import Cell
from .number_format import MINUS, MISSING, POINTS, decimal, format_interval, percent, points, shortened, titled
from .page_parts import Warned, hardware_facts, render
from .read_folder import thumbnail
from .tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 12  # that still fit a matrix on the page
MOST_PAIRS = 12
LONGEST_PATH = 26
MOST_ROWS = 30  # of a chart
AXIS = "points of top-1"


def explanation_page(folder: Path, record: ExplanationRecord) -> str:
    """The HTML of an explanation and the images beside it."""
    return render("explanation.html", f"Explanation: {record.name}", _content(folder, record))


def _content(folder: Path, record: ExplanationRecord) -> dict[str, Any]:
    looks = record.looks
    labelled = "with labels" if record.labelled else "without labels"
    warnings = [Warned(note) for note in (*record.notes, *(looks.notes if looks else ()))]
    if record.status != "finished":
        warnings.insert(0, Warned("This explanation was interrupted: repeat the same command."))
    return {
        "heading": f"What the attention of {record.name} does" if record.attention else record.name,
        "lead": f"n = {in_groups(record.images, record.groups)} {labelled}, {len(record.classes)} classes",
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
    return {"matrix": {"classes": classes, "rows": rows}, "caption": caption}


def _decoupling(decoupling: Decoupling) -> dict[str, Any]:
    everywhere = [cell for cell in decoupling.cells if cell.where == "everywhere"]
    by_site = [cell for cell in decoupling.cells if cell.where != "everywhere"]
    images = f"n = {in_groups(decoupling.images, decoupling.groups)}, paired, 95 % intervals, each by itself"
    change = f"Change in accuracy against the intact model; coloured where it counts after Holm's correction; {images}."
    halves = f"Exact Shapley values: they add up to what all attention is worth; {images}."
    sites = f"{decoupling.permutations} permutations x {counted(decoupling.subset, 'image')}"
    sites = f"Shapley values by sampling: {sites}; the intervals cover images and sampling."
    if all(site.sampling_error == 0 for site in decoupling.sites):
        sites = (
            f"Exact Shapley values over all orders: {decoupling.permutations} x {counted(decoupling.subset, 'image')}."
        )
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
    rows = [
        (
            "intact",
            "",
            percent(intact.top1),
            "",
            decimal(intact.loss, 3),
            "",
            decimal(intact.brier, 3),
            "",
            "",
            percent(intact.ece),
        )
    ]
    rows += [
        (
            cell.where,
            cell.change,
            percent(cell.top1),
            _difference(cell.effect),
            decimal(cell.loss, 3),
            _plain_interval(cell.loss_effect),
            decimal(cell.brier, 3),
            _plain_interval(cell.brier_effect),
            ", ".join(cell.differs_in),
            percent(cell.ece),
        )
        for cell in decoupling.cells
    ]
    columns = (
        "where", "change", "top-1", "effect in points (95 %)", "loss", "change of loss (95 %)", "Brier score",
        "its change (95 %)", "differs in", "calibration error",
    )  # fmt: skip
    caption = (
        "The intact model and every change to it. Differs in: p at most 0.05 after Holm's correction over all changes and "
        "the three measures; the calibration error only describes"
    )
    return Table(caption, columns, tuple(rows), frozenset({1, 8}))


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
    caption = f"Areas under the curves, mean (95 % interval), n = {in_groups(faithfulness.n, faithfulness.groups)}"
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
    return Table(
        f"Does the map point at the object? n = {in_groups(pointing.n, pointing.groups)} with boxes", columns, rows
    )


def _example(folder: Path, example: Example) -> dict[str, Any]:
    files = example.files
    ranges = {name: f" ({_signed(low)} to {_signed(high)})" for name, (low, high) in files.ranges.items()}
    named = {
        "image": files.image,
        f"spatial gates, each standardised{ranges.get('gate', '')}": files.gate,
        f"Grad-CAM{ranges.get('cam', '')}": files.cam,
        f"Grad-CAM, plain network{ranges.get('plain-cam', '')}": files.plain_cam,
        **{f"gate at {path}{ranges.get(path, '')}": file for path, file in files.sites.items()},
    }
    flat = [path for path in files.ranges if path not in (*files.sites, "gate", "cam", "plain-cam")]
    shown = [(words, thumbnail(folder, file)) for words, file in named.items() if file is not None]
    return {
        "title": shortened(example.id, 60),
        "label": MISSING if example.label is None else example.label,
        "prediction": _prediction(example.prediction),
        "plain_prediction": _prediction(example.plain_prediction),
        "flat": f"not painted, as it is within 1 % of 1 everywhere: the gate at {', '.join(flat)}" if flat else "",
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


def gate_atlas(gates: GatesRecord, part: str) -> Chart | None:
    """The values of one kind of gate by depth, and how much of their variation is between images."""
    shown = {site.path: site.parts[part] for site in gates.sites if part in site.parts}
    if not shown:
        return None

    def paint(figure: Figure) -> None:
        values, shares = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for row, numbers in enumerate(shown.values()):
            values.plot([numbers.low, numbers.high], [row, row], color=MUTED, linewidth=1.0)
            band = [numbers.mean - numbers.spread, numbers.mean + numbers.spread]
            values.plot(band, [row, row], color=series_color(1), linewidth=5, alpha=0.45, solid_capstyle="butt")
            values.plot(numbers.mean, row, "o", color=INK, markersize=4.5)
            shares.barh(row, 100 * numbers.dynamic, 0.55, color=series_color(1))
        named_rows(values, [shortened(path, LONGEST_PATH) for path in shown])
        values.set_xlabel("gate")
        values.locator_params(axis="x", nbins=4)
        shares.tick_params(axis="y", length=0)
        shares.grid(False, axis="y")
        shares.set_xlim(0, 100)
        shares.set_xlabel("dynamic (%)")

    told = "; ".join(
        f"{path}: mean {numbers.mean:.3f}, spread {numbers.spread:.3f}, {percent(numbers.dynamic, 0)} dynamic"
        for path, numbers in shown.items()
    )
    note = (
        "From the first site (top) to the last. Dot: mean; band: one standard deviation over images and elements; "
        "line: smallest to largest. Dynamic: part of the variance that is between images; the rest is fixed. "
        f"n = {counted(gates.images, 'image')}."
    )
    return Chart(draw(paint, 1.1 + 0.3 * len(shown)), f"{titled(part)} gates by depth", told, note)


def gate_history_chart(history: Sequence[EpochGates], part: str) -> Chart | None:
    """How far the gates of each site moved away from doing nothing, epoch by epoch."""
    paths = [path for path, parts in history[0].gates.items() if part in parts] if history else []
    lines = [
        Line(
            LegendItem(shortened(path, LONGEST_PATH), index + 1, dashed=index // 7 % 2 == 1),  # colours begin again
            [(row.epoch, row.gates[path][part].distance) for row in history if part in row.gates.get(path, {})],
        )
        for index, path in enumerate(paths)
    ]
    if not lines or max(len(line.points) for line in lines) < 2:
        return None
    told = "; ".join(f"{line.item.label}: {line.points[0][1]:.3f} to {line.points[-1][1]:.3f}" for line in lines)
    title, note = f"{titled(part)} gates during training", "Measured on 64 images after every epoch."
    return line_chart(lines, title, told, ylabel="mean distance from doing nothing", note=note, from_zero=True)


def switch_chart(cells: Sequence[CellEffect], title: str, note: str, *, by_site: bool) -> Chart | None:
    """What a change to the gates does to accuracy, cell by cell."""
    if len(cells) > MOST_ROWS:
        note = f"The {MOST_ROWS} of {len(cells)} with the largest effects, the table has all. {note}"
        least = sorted((abs(cell.effect.mean) for cell in cells), reverse=True)[MOST_ROWS - 1]
        cells = [cell for cell in cells if abs(cell.effect.mean) >= least][:MOST_ROWS]
    names = [f"{shortened(cell.where, LONGEST_PATH)}: {cell.change}" if by_site else cell.change for cell in cells]
    colors = [_color(cell) for cell in cells]
    return interval_chart(names, [cell.effect for cell in cells], title, note, unit=POINTS, label=AXIS, colors=colors)


def _color(cell: CellEffect) -> str:
    """Grey where the change of accuracy does not count after the correction; by its interval in earlier files."""
    return side_color(cell.effect) if cell.p_adjusted is None or "accuracy" in cell.differs_in else MUTED


def value_chart(entries: Sequence[Half] | Sequence[SiteWorth], title: str, note: str) -> Chart | None:
    """Shapley values in points of accuracy."""
    names = [shortened(entry.part if isinstance(entry, Half) else entry.path, LONGEST_PATH) for entry in entries]
    return interval_chart(names, [entry.accuracy for entry in entries], title, note, unit=POINTS, label=AXIS)


def faithfulness_chart(faithfulness: Faithfulness, kind: str) -> Chart | None:
    """The probability of the predicted class while pixels go, or come back, in the order of each map."""
    maps: list[MapFaithfulness] = sorted(faithfulness.maps, key=lambda row: row.map != "random")  # baselines are grey
    curves = [row.deletion if kind == "deletion" else row.insertion for row in maps]
    lines = [
        Line(
            LegendItem(row.map, index),
            [(100 * fraction, 100 * y) for fraction, y in zip(faithfulness.fractions, curve.curve, strict=False)],
        )
        for index, (row, curve) in enumerate(zip(maps, curves, strict=True))
    ]
    better = "Lower is more faithful." if kind == "deletion" else "Higher is more faithful."
    return line_chart(
        lines,
        titled(kind),
        "; ".join(f"{row.map}: area {curve.auc.mean:.3f}" for row, curve in zip(maps, curves, strict=True)),
        ylabel="probability of the class (%)",
        xlabel="pixels removed (%)" if kind == "deletion" else "pixels shown (%)",
        note=f"Most important pixels first; mean over {counted(faithfulness.n, 'image')}. {better}",
        from_zero=True,
    )
