"""The page of a search."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .iterate_charts import STOPPED, answer_chart, importance_chart, trials_chart
from .number_format import (
    MISSING,
    count,
    decimal,
    duration,
    percent,
)
from .page_parts import (
    Warned,
    data_facts,
    data_warnings,
    hardware_facts,
    plain,
)
from .read_folder import finite
from .render import render
from .tables import Column, Table

Document = Mapping[str, Any]
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

    def __init__(self, document: Document) -> None:
        former = {
            name: dict(zip(("label", "unit", "higher_is_better"), of, strict=True)) for name, of in FORMER.items()
        }
        self._known: dict[str, dict[str, Any]] = {**former, **(document.get("quantities") or {})}

    def label(self, name: str) -> str:
        return str(self._known.get(name, {}).get("label", name))

    def unit(self, name: str) -> str:
        return str(self._known.get(name, {}).get("unit", ""))

    def is_fraction(self, name: str) -> bool:
        return self.unit(name) == "points"

    def higher_is_better(self, name: str) -> bool:
        return bool(self._known.get(name, {}).get("higher_is_better", True))

    def show(self, name: str, value: Any) -> str:
        """A measured value."""
        if self.is_fraction(name):
            return percent(value)
        if name in COUNTS:
            return count(value)
        return f"{decimal(value, 2)} ms" if self.unit(name) == "ms" else decimal(value)

    def exact(self, name: str, number: float) -> str:
        """A number that was asked for, not rounded."""
        if self.is_fraction(name):
            return f"{round(100 * number, 6):g} %"
        return f"{number:,g} ms" if self.unit(name) == "ms" else f"{number:,.10g}"


def iterate_page(document: Document) -> str:
    """The HTML of a checked iterate.json."""
    heading = f"Search: {document['until']}"
    return render("iterate.html", heading, _content(document, heading))


def _content(document: Document, heading: str) -> dict[str, Any]:
    quantities, clauses = Quantities(document), _clauses(document)
    metric = document.get("primary") or "top1"
    number = next((clause["number"] for clause in clauses if clause["metric"] == metric), None)
    words = f"{quantities.label(metric)}{' (%)' if quantities.is_fraction(metric) else ''}"
    fractions = [
        clause
        for clause in clauses
        if quantities.is_fraction(clause["metric"]) and None not in (clause["low"], clause["high"])
    ]
    scale = 100.0 if quantities.is_fraction(metric) else 1.0
    charts = [trials_chart(document, metric, words, number, scale), importance_chart(document.get("importances") or {})]
    return {
        "heading": heading,
        "lead": _lead(document),
        "verdict": document.get("verdict"),
        "sentence": document.get("sentence"),
        "notes": document.get("notes") or [],
        "warnings": _warnings(document),
        "answer": answer_chart(fractions),
        "clauses": _clause_table(quantities, clauses),
        "finalist": _finalist_table(document),
        "charts": [chart for chart in charts if chart],
        "attentions": _attention_table(document, metric),
        "trials": trial_table(document, metric),
        "reasons": [f"Trial {row['number']}: {row['reason']}" for row in document["trials"] if row.get("reason")],
        "budget": _budget(document),
        "protocol": _protocol(document),
        "hardware": hardware_facts(document.get("hardware"), document.get("versions")),
        "command": document.get("command"),
    }


def _lead(document: Document) -> str:
    data = (document.get("data") or {}).get("name")
    made = len(document["trials"])
    return ", ".join(
        [
            f"backbone {document['backbone']}",
            f"data {data}",
            f"{made} trial{'' if made == 1 else 's'}",
            f"budget {duration(document['budget_s'])}",
        ]
    )


def _warnings(document: Document) -> list[Warned]:
    found = data_warnings(document.get("data") or {})
    if document["status"] != "finished":
        found.insert(0, Warned("This search is not finished: the same command goes on."))
    return found


def _clauses(document: Document) -> list[dict[str, Any]]:
    """The parts of the requirement with what was measured on the test images; None where nothing was yet."""
    nothing = {"value": None, "low": None, "high": None, "met": False}
    return [
        {**nothing, **clause, "name": Quantities(document).label(clause["metric"])} for clause in document["clauses"]
    ]


def _clause_table(quantities: Quantities, clauses: Sequence[Document]) -> Table | None:
    if all(clause["value"] is None for clause in clauses):
        return None
    words = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}
    rows = tuple(
        (
            clause["name"],
            f"{words.get(clause['operator'], clause['operator'])} {quantities.exact(clause['metric'], clause['number'])}",
            quantities.show(clause["metric"], clause["value"]),
            _interval(quantities, clause),
            "yes" if clause["met"] else "no",
        )
        for clause in clauses
    )
    return Table("The requirement and the test", ("what", "asked", "measured", "95 % interval", "met"), rows)


def _interval(quantities: Quantities, clause: Document) -> str:
    if clause["low"] == clause["high"]:
        return "a cost, measured"
    return " to ".join(quantities.show(clause["metric"], clause[end]) for end in ("low", "high"))


def _finalist_table(document: Document) -> Table | None:
    quantities, finalist = Quantities(document), document.get("finalist") or {}
    runs = [run for run in finalist.get("runs") or [] if run["status"] != "waiting"]
    if not runs:
        return None
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.get("measured") or {}))
    rows = tuple(
        (
            str(run["seed"]),
            *(quantities.show(metric, (run.get("measured") or {}).get(metric)) for metric in metrics),
            run.get("reason") or run["status"],
        )
        for run in runs
    )
    named = "the plain backbone" if finalist["variant"] == "none" else finalist["variant"]
    caption = f"The finalist, {named} with recipe {finalist['recipe']}, on the test images"
    columns = ("seed", *map(quantities.label, metrics), "training")
    return Table(caption, columns, rows, frozenset({len(columns) - 1}))


def _attention_table(document: Document, metric: str) -> Table | None:
    """The trials of each variant together; a search tries what looks good more often, so this is no comparison."""
    quantities = Quantities(document)
    values: dict[str, list[float]] = {}
    for row in document["trials"]:
        value = finite(((row.get("measured") or {}).get(metric) or {}).get("value"))
        if value is not None and row["status"] not in STOPPED:
            values.setdefault(row["variant"], []).append(value)
    best = max if quantities.higher_is_better(metric) else min
    ranked = sorted(values.items(), key=lambda item: best(item[1]), reverse=best is max)
    rows = tuple(
        (name, str(len(found)), quantities.show(metric, best(found)), quantities.show(metric, statistics.fmean(found)))
        for name, found in ranked
    )
    caption = f"Variants by their best trial ({quantities.label(metric)}, validation images)"
    return Table(caption, ("variant", "trials", "best", "mean"), rows) if rows else None


def trial_table(document: Document, metric: str) -> Table:
    """One row per trial; in the terminal only what fits."""
    quantities, trials = Quantities(document), document["trials"]
    keys = [k for k in dict.fromkeys(k for row in trials for k in row["params"]) if k not in LISTED_ELSEWHERE]
    rows = tuple(
        (
            str(row["number"]),
            row["variant"],
            row["recipe"],
            *(_parameter(key, row["params"].get(key)) for key in keys),
            str(len(row["curve"])),
            quantities.show(metric, ((row.get("measured") or {}).get(metric) or {}).get("value")),
            count((row.get("costs") or {}).get("parameters")),
            duration(row.get("time_s")),
            row["status"],
        )
        for row in trials
    )
    names = {key: key.removesuffix("_scale").replace("_", " ") for key in keys}
    columns: tuple[str | Column, ...] = (
        *("trial", "variant", "recipe"),
        *(Column(name, terminal="both" if key == "lr_scale" else "none") for key, name in names.items()),
        *(Column("epochs", terminal="none"), quantities.label(metric), Column("parameters", terminal="none")),
        *("time", Column("status", terminal="none")),
    )
    words = {index for index, key in enumerate(keys, 3) if any(isinstance(r["params"].get(key), str) for r in trials)}
    return Table("All trials, on the validation images", columns, rows, frozenset({1, 2, len(columns) - 1, *words}))


def _parameter(key: str, value: Any) -> str:
    if value is None:
        return ""
    return f"\u00d7{plain(value)}" if key.endswith("_scale") else plain(value)


def _budget(document: Document) -> list[tuple[str, str]]:
    used, searched = finite(document.get("used_s")), finite(document.get("search_s"))
    facts = [("budget", duration(document["budget_s"])), ("used", duration(used)), ("search", duration(searched))]
    if used is not None and searched is not None:
        facts.append(("finalist and test", duration(used - searched)))
    return [fact for fact in facts if fact[1] != MISSING]


def _protocol(document: Document) -> list[tuple[str, str]]:
    space = document.get("space") or {}
    facts = [("choices: " + key, plain(value)) for key, value in (space.get("choices") or {}).items()]
    facts += [
        ("factor: " + key.removesuffix("_scale"), " to ".join(map(plain, ends)))
        for key, ends in (space.get("scales") or {}).items()
    ]
    listed = [(key, plain(space[key])) for key in ("attentions", "placements") if space.get(key)]
    recipes = [("recipes", ", ".join(space.get("recipes") or {}))]
    seeds = [("seed of the search", plain(document.get("seed"))), ("seeds of the finalist", plain(document["seeds"]))]
    return [*data_facts(document.get("data") or {}), *listed, *recipes, *facts, *seeds]
