"""Effects for other programs: a CSV file with a row for each, and a LaTeX table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..comparison.combined_record import CombinedRecord
from ..comparison.comparison_record import ComparisonRecord, StartRecord
from ..errors import counted
from ..files import write_text
from .comparison_tables import baseline_first, sample_size
from .number_format import format_effect, format_interval, mean_and_spread, scale_of, words_for
from .page_parts import CONTROLS

NUMBERS = ("mean", "low", "high", "standard_error")  # in the metric's unit
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u2212": "$-$", "\u00b1": r"$\pm$", "<": "$<$", ">": "$>$",
}  # fmt: skip


def write_exports(folder: Path, record: ComparisonRecord | CombinedRecord) -> None:
    """Write `comparison.csv` and `comparison.tex`, or `combined.csv` and `combined.tex`.

    Raises:
        RunError: a file cannot be written.
    """
    if isinstance(record, CombinedRecord):
        texts = {"combined.csv": combined_csv(record), "combined.tex": combined_tex(record)}
    else:
        texts = {"comparison.csv": comparison_csv(record), "comparison.tex": comparison_tex(record)}
    for name, text in texts.items():
        write_text(folder / name, text.encode("utf-8", "replace").decode("utf-8"))


def comparison_csv(record: ComparisonRecord) -> str:
    """A row for each effect; differences in the metric's unit, so in points for fractions."""
    roles = {variant.name: variant.role for variant in record.variants}
    starts = {variant.name: record.at_start.get(variant.slug) for variant in record.variants}
    return _csv(
        {
            "variant": effect.variant,
            "against": effect.against,
            "role": roles[effect.variant],
            **_metric(record),
            **_numbers(effect, record.metric.unit),
            "degrees_of_freedom": effect.degrees_of_freedom,
            "p_value": effect.p_value,
            "p_adjusted": effect.p_adjusted,
            "seeds": effect.seeds,
            "images": effect.images,
            "verdict": effect.verdict,
            **(_start(starts[effect.variant]) if record.at_start else {}),
        }
        for effect in record.effects
    )


def combined_csv(record: CombinedRecord) -> str:
    """A row for each variant and data set, and for the mean, whose data set is empty."""
    rows: list[dict[str, Any]] = []
    for effect in record.effects:
        first = {"variant": effect.variant, "against": record.baseline, "role": effect.role, **_metric(record)}
        for one in effect.effects:
            numbers = _numbers(one, record.metric.unit)
            own = {"p_value": "", "p_adjusted": "", "between_sd": "", "verdict": one.verdict}
            rows.append({**first, "data_set": one.data, **numbers, "weight": one.weight, "seeds": one.seeds, **own})
        if effect.pooled is not None:
            pooled = effect.pooled
            mean = {"p_value": pooled.p_value, "p_adjusted": pooled.p_adjusted, "verdict": effect.verdict}
            mean["between_sd"] = scale_of(record.metric.unit) * pooled.between_sd
            rows.append({**first, "data_set": "", **_numbers(pooled, record.metric.unit), **mean})
    return _csv(rows)


def _start(found: StartRecord | None) -> dict[str, Any]:
    """What grafting alone changes; nothing for variants without grafts."""
    return {f"start_{field.name}": "" if found is None else getattr(found, field.name) for field in fields(StartRecord)}


def _metric(record: ComparisonRecord | CombinedRecord) -> dict[str, str]:
    return {"metric": record.metric.name, "unit": record.metric.unit}


def _numbers(effect: Any, unit: str) -> dict[str, float]:
    return {name: scale_of(unit) * getattr(effect, name) for name in NUMBERS}


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    found, text = list(rows), io.StringIO()
    columns = list(dict.fromkeys(name for row in found for name in row)) or ["variant"]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def comparison_tex(record: ComparisonRecord) -> str:
    """The variants with score, effect and verdict."""
    unit = record.metric.unit
    rows = []
    for variant in baseline_first(record):
        effect = record.effect_on(variant.name)
        score, start = mean_and_spread(variant.scores, unit), record.at_start.get(variant.slug)
        kept = "" if start is None else f"{start.kept:,} of {start.images:,}{', equal' if start.equal else ''}"
        at_start = [kept] if record.at_start else []  # not of earlier versions, nor of trainings elsewhere
        rows.append([variant.name, score, *_told(effect, unit), *at_start, effect.verdict if effect else ""])
    label = record.metric.label
    caption = f"{record.title}: {label}, mean ± sd over seeds; paired difference to {record.baseline} with its "
    caption += f"95 % interval; {sample_size(record)}."
    head = ["variant", label, f"difference{words_for(unit, ' (', ')')}", "95 % interval"]
    if record.at_start:
        caption += " Same at start: test images whose prediction grafting alone leaves, before training."
        head.append("same at start")
    return _tex([*head, "verdict"], rows, caption, "l" + "r" * (len(head) - 1) + "l")


def combined_tex(record: CombinedRecord) -> str:
    """The effects on every data set and their mean."""
    unit = record.metric.unit
    rows = []
    for effect in record.effects:
        rows += [(effect.variant, one.data, *_told(one, unit), one.verdict) for one in effect.effects]
        if effect.pooled is not None:
            rows.append((effect.variant, "mean over data sets", *_told(effect.pooled, unit), effect.verdict))
    caption = (
        f"Paired difference in {record.metric.label} to {record.baseline} on {counted(len(record.sets), 'data set')}."
    )
    head = ("variant", "data set", f"difference{words_for(unit, ' (', ')')}", "95 % interval", "verdict")
    return _tex(head, rows, caption, "llrrl")


def _told(effect: Any, unit: str) -> tuple[str, str]:
    return (format_effect(effect, unit), format_interval(effect, unit)) if effect else ("", "")


def _tex(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, columns: str) -> str:
    """A table for LaTeX, with the rules of booktabs."""

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(map(escaped, cells)) + r" \\"

    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{escaped(caption)}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"  \toprule",
            line(head),
            r"  \midrule",
            *map(line, rows),
            r"  \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    r"""The text for LaTeX: nothing in it is a command.

    >>> escaped("se_2 & 5 %")
    'se\\_2 \\& 5 \\%'
    """
    line = " ".join(CONTROLS.sub("", text).split())
    return re.sub("|".join(map(re.escape, _SPECIAL)), lambda match: _SPECIAL[match[0]], line)
