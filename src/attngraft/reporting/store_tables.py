"""Tables of a store's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .number_format import MISSING, count, duration, percent, share
from .read_folder import finite
from .tables import Table

Document = Mapping[str, Any]


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
