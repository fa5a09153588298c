"""The page of a store: served version, history, error budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .confusion import Cell
from .number_format import MISSING, points
from .page_parts import Warned, plain
from .read_folder import finite
from .render import render
from .store_charts import drift_chart, stream_accuracy_chart, timeline_chart, trade_chart
from .store_tables import (
    alarms_table,
    controls_table,
    events_table,
    ledger_table,
    overview_table,
    releases_table,
    versions_table,
)

Document = Mapping[str, Any]
FULL_SHADE = 0.2  # a change of accuracy from the base that has the full colour
MOST_TRADES = 4  # charts of adaptations, the latest ones
PARTS = {
    "matrix": "the accuracy of every version on every domain",
    "adaptations": "adaptations",
    "ledger": "attempts at the guard",
    "stream": "a watched stream",
    "releases": "measurements on the final images",
}


@dataclass(frozen=True)
class Heat:
    """Accuracies of versions (rows) on domains (columns)."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]
    caption: str


def store_page(document: Document) -> str:
    """The HTML of a checked history.json."""
    names = _names(document["versions"])
    stream = document.get("stream") or {}
    windows = stream.get("windows") or []
    content = {
        "heading": f"The store serves {names.get(document['served'], document['served'])}",
        "lead": _lead(document),
        "outcomes": _outcomes(document),
        "warnings": _warnings(document),
        "timeline": _timeline(document),
        "heat": _heat(document, names),
        "numbers": _numbers(document, stream),
        "adaptations": _adaptations(document, names),
        "ledger": ledger_table(document, names),
        "stream": [chart for chart in (drift_chart(windows), stream_accuracy_chart(windows)) if chart],
        "alarms": alarms_table(windows),
        "releases": releases_table(document, names),
        "versions": versions_table(document["versions"], names),
        "events": events_table(document, names),
        "policy": [(key.replace("_", " "), plain(value)) for key, value in (document.get("policy") or {}).items()],
    }
    return render("store.html", "Store", content)


def _names(versions: Sequence[Document]) -> dict[str, str]:
    """v0, v1, .. with the first digits of the id."""
    return {version["id"]: f"v{index} ({version['id'][:8]})" for index, version in enumerate(versions)}


def _lead(document: Document) -> str:
    counts = (
        (len(document["versions"]), "version"),
        (len(document.get("adaptations") or []), "adaptation"),
        (len(document.get("domains") or []), "domain"),
        (len(document["classes"]), "class", "classes"),
    )
    parts = [f"{number:,} {word[0] if number == 1 else word[-1] + 's' * (len(word) == 1)}" for number, *word in counts]
    return ", ".join(parts) + f"; made {str(document.get('created') or MISSING)[:10]}"


def _outcomes(document: Document) -> list[dict[str, str]]:
    """The sentence of each adaptation, the latest first, with what became of it."""
    tones = {"promoted": "helps", "rejected": "hurts"}
    return [
        {
            "tone": tones.get(adaptation.get("status", ""), "open"),
            "title": f"Adaptation {adaptation.get('number', '?')}: {adaptation.get('status', MISSING)}",
            "text": adaptation.get("sentence") or adaptation.get("refused") or "It has not come to an end yet.",
        }
        for adaptation in reversed(document.get("adaptations") or [])
    ]


def _warnings(document: Document) -> list[Warned]:
    found = []
    duplicates = [
        f"adaptation {adaptation.get('number', '?')}: {adaptation['data']['duplicates']:,} images were there before"
        for adaptation in document.get("adaptations") or []
        if (adaptation.get("data") or {}).get("duplicates")
    ]
    if duplicates:
        found.append(Warned("Images of the new data that the store knew were left out.", tuple(duplicates)))
    missing = tuple(words for key, words in PARTS.items() if not document.get(key))
    if missing:
        found.append(Warned("Not in this store, so not on this page:", missing))
    return found


def _timeline(document: Document) -> Any:
    matrix, domains = document.get("matrix") or [], document.get("domains") or []
    accuracy = {version["id"]: row for version, row in zip(document["versions"], matrix, strict=bool(matrix))}
    return timeline_chart(document.get("events") or [], accuracy, domains if matrix else [], document["base"])


def _heat(document: Document, names: Mapping[str, str]) -> Heat | None:
    matrix, domains = document.get("matrix") or [], document.get("domains") or []
    if not matrix or not domains:
        return None
    base = next(
        (row for version, row in zip(document["versions"], matrix, strict=True) if version["id"] == document["base"]),
        None,
    )
    rows = tuple(
        (
            names[version["id"]].split()[0],
            f"{version['id'][:8]}, {version['status']}",
            tuple(_cell(value, base, column) for column, value in enumerate(row)),
        )
        for version, row in zip(document["versions"], matrix, strict=True)
    )
    columns = tuple((domain["name"], f"n = {domain['images']:,}") for domain in domains)
    return Heat(columns, rows, "Top-1 in percent on the tune images. Blue: better than the base; orange: worse.")


def _cell(value: float | None, base: Sequence[float | None] | None, column: int) -> Cell:
    if value is None:
        return Cell(MISSING, 0.0)
    against = base[column] if base else None
    change = 0.0 if against is None else (value - against) / FULL_SHADE
    return Cell(f"{100 * value:.1f}", round(max(-1.0, min(1.0, change)), 3))


def _numbers(document: Document, stream: Document) -> list[tuple[str, str]]:
    """What was measured, what was not is left out."""
    transfer, ledger = document.get("transfer") or {}, document.get("ledger") or []
    alpha = finite((document.get("policy") or {}).get("alpha"))
    asked = {
        "forgetting": (
            transfer.get("forgetting"),
            "points on earlier domains, from the best that was served (lower is better)",
        ),
        "backward transfer": (transfer.get("backward"), "points on earlier domains since they were learned"),
        "forward transfer": (transfer.get("forward"), "points on domains before they were learned, against the base"),
    }
    facts = [(name, f"{points(value)} {words}") for name, (value, words) in asked.items() if finite(value) is not None]
    labels = [(adaptation.get("data") or {}).get("labels_used") for adaptation in document.get("adaptations") or []]
    if any(finite(number) is not None for number in labels):
        facts.append(("labels used", f"{sum(number or 0 for number in labels):,} in all adaptations"))
    if ledger:
        budget = "" if alpha is None else f" of {alpha:g}"
        facts.append(("levels of the guard", f"{ledger[-1]['spent']:.4g}{budget} in {len(ledger)} attempts"))
    told = (
        ("alarms", "drift alarms", "{:,.0f}"),
        ("false_alarms", "false alarms", "{:,.0f}"),
        ("delay_windows", "delay of an alarm", "{:.1f} windows after the drift"),
    )
    facts += [(name, form.format(stream[key])) for key, name, form in told if finite(stream.get(key)) is not None]
    return facts


def _adaptations(document: Document, names: Mapping[str, str]) -> dict[str, Any] | None:
    adaptations = document.get("adaptations") or []
    if not adaptations:
        return None
    charts = [chart for chart in map(trade_chart, adaptations[-MOST_TRADES:]) if chart]
    controls = [table for table in map(controls_table, adaptations) if table]
    return {"table": overview_table(adaptations, document["versions"], names), "charts": charts, "controls": controls}
