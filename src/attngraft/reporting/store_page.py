"""The page of a store: served version, history, error budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .confusion import Cell
from .number_format import MISSING, count, duration, percent, points, share
from .page_parts import Warned, plain, render
from .read_folder import finite
from .store_charts import drift_chart, stream_accuracy_chart, timeline_chart, trade_chart
from .tables import Table

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


def store_page(document: Document) -> str:
    """The HTML of a checked history.json."""
    names = {version["id"]: f"v{index} ({version['id'][:8]})" for index, version in enumerate(document["versions"])}
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
    tones = {"promoted": "helps", "refused by the guard": "hurts"}
    return [
        {
            "tone": tones.get(_outcome(adaptation), "open"),
            "title": f"Adaptation {adaptation.get('number', '?')}: {_outcome(adaptation)}",
            "text": adaptation.get("sentence") or adaptation.get("refused") or "It has not come to an end yet.",
        }
        for adaptation in reversed(document.get("adaptations") or [])
    ]


def _outcome(adaptation: Document) -> str:
    """What became of it; "rejected" is how earlier versions called what the guard refuses."""
    status = str(adaptation.get("status", MISSING))
    is_asked = status == "rejected" or (status == "refused" and adaptation.get("guard"))
    return "refused by the guard" if is_asked else status


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


def _heat(document: Document, names: Mapping[str, str]) -> dict[str, Any] | None:
    """Accuracies of versions (rows) on domains (columns)."""
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
    caption = "Top-1 in percent on the tune images. Blue: better than the base; orange: worse."
    return {"columns": columns, "rows": rows, "caption": caption}


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


def overview_table(adaptations: Sequence[Document], versions: Sequence[Document], names: Mapping[str, str]) -> Table:
    """One row an adaptation."""
    by_id = {version["id"]: version for version in versions}
    rows = tuple(
        (
            f"{entry.get('number', '?')}: {(entry.get('data') or {}).get('name') or MISSING}",
            entry.get("status", MISSING),
            names.get(entry.get("candidate") or "", MISSING).split()[0],
            _whole((entry.get("data") or {}).get("labels_used")),
            _roles((entry.get("data") or {}).get("roles")),
            _changed(by_id.get(entry.get("candidate") or "") or _adapted(entry)),
            _bytes((by_id.get(entry.get("candidate") or "") or _adapted(entry)).get("delta_bytes")),
            percent(entry.get("recovery"), 0),
            _minutes(entry.get("minutes")),
        )
        for entry in adaptations
    )
    columns = ("data", "outcome", "candidate", "labels used", "learn/tune/guard/final",
               "parameters changed", "delta", "recovery", "time")  # fmt: skip
    caption = "Recovery: gain on the new data, in percent of that of training all parameters"
    return Table(caption, columns, rows, frozenset({1, 2}))


def controls_table(entry: Document) -> Table | None:
    """What the other ways of adapting would have given."""
    rows = tuple(
        (
            row.get("name", MISSING),
            percent(row.get("new_top1")),
            percent(row.get("old_top1")),
            _changed(row),
            _bytes(row.get("delta_bytes")),
            _minutes(row.get("minutes")),
        )
        for row in entry.get("variants") or []
    )
    blend = finite((entry.get("blend") or {}).get("chosen"))
    mixed = "" if blend is None else f"; adapted: {percent(blend, 0)} of the way to the new weights, chosen on them"
    if mixed and (entry.get("blend") or {}).get("statistics") == "new":
        mixed += ", BatchNorm statistics of the new images"
    seen = f"n = {_whole(entry.get('new_images'))} new and {_whole(entry.get('old_images'))} old tune images"
    columns = ("", "top-1, new data", "top-1, old data", "parameters changed", "delta", "time")
    return Table(f"Adaptation {entry.get('number', '?')}: {seen}{mixed}", columns, rows) if rows else None


def ledger_table(document: Document, names: Mapping[str, str]) -> Table | None:
    """Every attempt at the guard and what it cost."""
    verdicts = {True: "passed", False: "failed", None: "no verdict"}
    by_number = {entry.get("number"): entry.get("guard") or {} for entry in document.get("adaptations") or []}
    rows = tuple(
        (
            str(row["attempt"]),
            str(row.get("adaptation") or MISSING),
            names.get(row["candidate"], row["candidate"][:8]),
            f"{row['alpha']:.3g}",
            f"{row['spent']:.6g}",
            _whole(by_number.get(row.get("adaptation"), {}).get("new_images")),
            _whole(by_number.get(row.get("adaptation"), {}).get("old_images")),
            verdicts.get(row.get("passed"), MISSING),
        )
        for row in document.get("ledger") or []
    )
    columns = ("attempt", "adaptation", "candidate", "alpha", "spent so far", "new images", "old images", "verdict")
    return Table("Attempts at the guard", columns, rows, frozenset({2, 7})) if rows else None


def alarms_table(windows: Sequence[Document]) -> Table | None:
    """The windows of the stream that drifted."""
    rows = tuple(
        (
            str(window["number"]),
            str(window.get("time") or MISSING)[:16].replace("T", " "),
            f"{window['images']:,}",
            "0"
            if window.get("p_value") == 0
            else f"{window['p_value']:.1e}"
            if finite(window.get("p_value"))
            else MISSING,
            ", ".join(window["reasons"]) or MISSING,
            percent(window.get("accuracy")),
        )
        for window in windows
        if window["drift"]
    )
    columns = ("window", "time", "images", "p-value", "what drifted", "top-1")
    return Table(f"{len(rows)} of {len(windows)} windows drifted", columns, rows, frozenset({1, 4})) if rows else None


def releases_table(document: Document, names: Mapping[str, str]) -> Table | None:
    """What was measured on the final images."""
    rows = tuple(
        (
            names.get(release.get("version") or "", MISSING),
            str(release.get("created") or MISSING)[:10],
            f"{percent(release.get('top1'))} (n = {_whole(release.get('images'))})".replace(" ", "\u00a0"),
            "; ".join(
                f"{domain['name']} {percent(domain.get('top1'))} (n = {_whole(domain.get('images'))})"
                for domain in release.get("per_domain") or []
            ),
        )
        for release in document.get("releases") or []
    )
    caption = "Measured on the final images, which were used for nothing else"
    return Table(caption, ("version", "day", "top-1", "by domain"), rows, frozenset({1, 3})) if rows else None


def versions_table(versions: Sequence[Document], names: Mapping[str, str]) -> Table:
    """One row a version."""
    rows = tuple(
        (
            names[version["id"]],
            version["status"],
            names.get(version.get("parent") or "", "none"),
            str(version.get("created") or MISSING)[:16].replace("T", " "),
            version.get("update") or "",
            _changed(version),
            _bytes(version.get("delta_bytes")),
        )
        for version in versions
    )
    columns = ("version", "status", "parent", "made", "updated", "parameters changed", "delta")
    return Table("Versions", columns, rows, frozenset({1, 2, 3, 4}))


def events_table(document: Document, names: Mapping[str, str]) -> Table | None:
    """The journal, the latest first."""
    rows = tuple(
        (
            str(event.get("time") or MISSING)[:16].replace("T", " "),
            event["event"],
            names.get(event.get("version") or "", ""),
            str(event.get("text") or ""),
        )
        for event in reversed(document.get("events") or [])
    )
    return (
        Table("The latest first", ("time", "event", "version", "what happened"), rows, frozenset({1, 2, 3}))
        if rows
        else None
    )


def _adapted(entry: Document) -> Document:
    return next((row for row in entry.get("variants") or [] if row.get("name") == "adapted"), {})


def _changed(row: Document) -> str:
    changed, parameters = row.get("changed_parameters"), row.get("parameters")
    if finite(changed) is None:
        return MISSING
    part = share(changed, parameters).lstrip("+")
    return count(changed) if part == MISSING else f"{count(changed)} ({part})".replace(" ", "\u00a0")


def _bytes(number: Any) -> str:
    value = finite(number)
    if value is None:
        return MISSING
    return f"{value / 2**20:.1f}\u00a0MiB" if value >= 2**20 else f"{value / 2**10:.1f}\u00a0KiB"


def _whole(number: Any) -> str:
    return MISSING if finite(number) is None else f"{number:,}"


def _minutes(number: Any) -> str:
    return MISSING if finite(number) is None else duration(60 * number).replace(" ", "\u00a0")


def _roles(roles: Document | None) -> str:
    return (
        "/".join(_whole((roles or {}).get(role)) for role in ("learn", "tune", "guard", "final")) if roles else MISSING
    )
