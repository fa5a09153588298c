"""Run all explanations of a trained model, into one folder, and say in sentences what they found."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..backbones import assumed_preprocessing, note_preprocessing_, stated_preprocessing
from ..config import Preprocessing, from_dict, to_dict
from ..costs import is_busy
from ..data_frames import data_frame, flat
from ..environment import hardware, versions
from ..errors import ConfigError, RunError, counted, nearest
from ..files import read_json, write_json
from ..statistics.interval import Interval
from ..surgery import graft_plan, grafts
from ..surgery.fold import KEPT
from ..timestamp import timestamp
from ..training import FitResult, MachineSettings, Progress, Silent, Told
from .decouple import decouple
from .explanation_record import Decoupling, EpochGates, ExplanationRecord, FoldingRecord, Pointing, Worth, in_groups
from .folding import Step, check_tolerance, fold, loss_clause, silent
from .gates import gates
from .image_source import Source, Subject, open_subject, seen_in_training
from .saliency_report import GATE as GATE_MAP
from .saliency_report import known_boxes, saliency_report

log = logging.getLogger(__name__)
EXPLANATION_FILE = "explanation.json"
FOLDER = "explanation"  # inside the run folder, where no other one is given


@dataclass(frozen=True)
class Explanation:
    """What was found.

    Attributes:
        folder: it holds `explanation.json` and images; `attngraft.report(folder)` makes a page of it.
        record: the content of `explanation.json`.
    """

    folder: Path
    record: ExplanationRecord

    @property
    def document(self) -> dict[str, Any]:
        """The record as JSON values."""
        return to_dict(self.record)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What matters, most important first."""
        return self.record.sentences

    def to_frame(self, table: str = "gates") -> Any:
        """One table as a pandas.DataFrame; what was not measured is empty.

        Args:
            table: "gates", a row per site and part; "changes", what switching parts off does; "halves", "sites", what
                each is worth; "folding", what becomes of each gate.

        Raises:
            ConfigError: no such table, or pandas is not installed.
        """
        gates, worth, folding = self.record.gates, self.record.decoupling, self.record.folding
        tables: dict[str, Sequence[Any]] = {
            "gates": [
                {"site": site.path, "attention": site.attention, "part": part, **found.to_json()}
                for site in (gates.sites if gates else ())
                for part, found in site.parts.items()
            ],
            "changes": worth.cells if worth else (),
            "halves": worth.halves if worth else (),
            "sites": worth.sites if worth else (),
            "folding": folding.sites if folding else (),
        }
        if table not in tables:
            raise ConfigError(f"unknown table '{table}': {nearest(table, tables)}")
        return data_frame(flat(row if isinstance(row, dict) else to_dict(row)) for row in tables[table])

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def explain(
    run: str | Path | FitResult | nn.Module,
    images: Source | None = None,
    *,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    boxes: str | Path | None = None,
    tolerance: float = 0.005,
    examples: int = 8,
    limit: int | None = None,
    group_by: str | None = None,
    skip_broken: bool = False,
    root: str | Path | None = None,
    download: bool = False,
    device: str = "cpu",
    seed: int = 0,
    command: str | None = None,
    progress: Step | None = None,
    bars: Progress | None = None,
) -> Explanation:
    """Examine the gates, what each part is worth, the saliency maps, and what could be folded away.

    Args:
        run: a run folder, a saved model, the result of a fit, or a classifier.
        images: a folder of class folders, a data set, or image files; the run's own test images where not given.
            Without labels, what needs them is left out.
        preprocessing: how a model wants its images, to be kept with it, where it does not say; a run says it.
        out: folder for the results; `explanation` inside the run folder where not given. What an earlier
            explanation left there is replaced, anything else is not.
        boxes: CSV file with the columns image, x0, y0, x1, y1, in pixels of the image files.
        tolerance: accuracy (as a fraction) that folding may lose.
        examples: images to show.
        limit: most images to use, evenly spread.
        group_by: what makes images belong together, so that the intervals count groups: "folder", "copies" or a regular
            expression on the paths; as the run's data set was grouped where not given.
        skip_broken: leave out images that cannot be read, instead of an error.
        root: folder of the published data sets.
        download: allow their download.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        seed: of shuffles, random maps and sampled permutations.
        command: to be noted.
        progress: called with the name of each step as it begins.
        bars: where to show how far the long steps are.

    Raises:
        RunError, DataError, ConfigError, GraftError: one sentence on what does not fit; nothing is written.
    """
    for name, value in (("examples", examples), ("seed", seed)):
        if value < 0:
            raise ConfigError(f"{name} is {value}: expected 0 or more.")
    check_tolerance(tolerance)
    if preprocessing is not None:
        if not isinstance(run, nn.Module):
            raise ConfigError(
                "a run says how its images are prepared: give preprocessing with a model, or leave it out."
            )
        note_preprocessing_(run, stated_preprocessing(run, preprocessing))
    if isinstance(run, nn.Module) and (assumed := assumed_preprocessing(run)) is not None:
        log.warning("%s", assumed)
    where = MachineSettings(device=device).resolve_device()
    say, shown = progress or silent, Told(bars or Silent(), log)
    say("reading images")
    options = {
        "skip_broken": skip_broken,
        "root": None if root is None else Path(root).expanduser(),
        "download": download,
    }
    subject = open_subject(run, images, device=where, limit=limit, group_by=group_by, **options)
    known_boxes(subject.view, boxes)  # refuse what cannot be used before anything is measured
    folder = _folder(subject, out)
    record, model, view = _empty_record(subject, command), subject.model, subject.view
    if images is not None and subject.run_dir is not None:
        seen = seen_in_training(subject.run_dir, model, view)
        record = replace(record, notes=(seen,) if seen else ())
    if grafts(model):
        say(f"gates of {counted(len(view), 'image')}")
        record = replace(record, gates=gates(model, view).record(), gate_history=_gate_history(subject))
    if grafts(model) and view.is_labelled:
        say("decoupling: what each part and each site is worth")
        record = replace(record, decoupling=decouple(model, view, seed=seed, progress=shown))
    if grafts(model) and view.is_labelled and len(view) > 1:  # one image does not tell whether gates depend on it
        say("folding: which gates could be constants")
        folding = fold(model, view, tolerance=tolerance, precision=subject.precision, progress=progress)
        record = replace(record, folding=folding.record())
    say("maps: where the model looks, and how faithful that is")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / EXPLANATION_FILE, to_dict(replace(record, status="partial")))  # the images belong to it
    looks = saliency_report(subject, folder, boxes=boxes, examples=examples, seed=seed, progress=shown)
    record = replace(record, looks=looks)
    record = replace(record, sentences=tuple(sentences(record)))
    write_json(folder / EXPLANATION_FILE, to_dict(record))
    return Explanation(folder, record)


def _empty_record(subject: Subject, command: str | None) -> ExplanationRecord:
    plan, view = graft_plan(subject.model), subject.view
    counts = np.bincount(view.labels, minlength=len(view.classes)).tolist() if view.is_labelled else None
    return ExplanationRecord(
        created=timestamp(),
        command=command,
        name=subject.name,
        attention=plan.attention if plan else None,
        classes=view.classes,
        images=len(view),
        labelled=view.is_labelled,
        class_counts=None if counts is None else tuple(counts),
        plain=subject.plain_is,
        groups=view.group_count,
        hardware=hardware(),
        versions=versions(),
    )


def _gate_history(subject: Subject) -> tuple[EpochGates, ...] | None:
    """The gates after each epoch, as `fit` recorded them; None where they cannot be read, as nothing rests on them."""
    rows = [{"epoch": row["epoch"], "gates": row["gates"]} for row in subject.history if row.get("gates")]
    try:
        return tuple(from_dict(EpochGates, row) for row in rows) or None
    except ConfigError:
        return None


def _folder(subject: Subject, out: str | Path | None) -> Path:
    """Where the results go; never into somebody else's files."""
    if out is not None:
        folder = Path(out).expanduser()
    elif subject.run_dir is not None and subject.run_dir.is_dir():
        folder = subject.run_dir / FOLDER
    else:
        raise ConfigError("there is no run folder to write to: give out, a folder for the results.")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: choose a folder for the results.")
    if folder.is_dir() and any(folder.iterdir()):
        file = folder / EXPLANATION_FILE
        found = read_json(file) if file.is_file() else None
        if not isinstance(found, dict) or found.get("kind") != "explanation":
            raise RunError(f"{folder} has files but no explanation: choose an empty or a new folder.")
    return folder


def sentences(record: ExplanationRecord) -> list[str]:
    """What an explanation found, most important first; every sentence carries its numbers."""
    if record.attention is None:
        found = ["The model has no grafts, so there is no attention to take apart: it is explained as a plain network."]
    elif record.decoupling is None:
        found = [_dynamics(record), "The images have no labels, so nothing is said about accuracy."]
    else:
        found = [_worth(record.decoupling), *_halves(record.decoupling), _dynamics(record)]
    if record.folding is not None:
        found.append(_folding(record.folding))
    if record.looks is not None and record.looks.pointing is not None:
        found.append(_pointing(record.looks.pointing))
    if record.looks is not None and record.looks.faithfulness is not None:
        found.append(record.looks.faithfulness.sentence)
    return found


def _worth(decoupling: Decoupling) -> str:
    total, sure = decoupling.total.accuracy, decoupling.total.sure
    taken = Interval(-total.mean, -total.high, -total.low)
    counted = in_groups(decoupling.images, decoupling.groups)
    measured = f"{_points(taken.mean)} points of top-1 ({_interval(taken)}; n = {counted})"
    if "accuracy" in sure and total.mean > 0:
        return f"The trained model rests on its attention: with all of it switched off accuracy changes by {measured}."
    if "accuracy" in sure:
        return f"The trained model does better without its attention: switched off, accuracy changes by {measured}."
    return f"With all attention switched off accuracy changes by {measured}: {_calibration(decoupling.total)}."


def _calibration(total: Worth) -> str:
    """What the probabilities say where accuracy is not sure to change."""
    found = {"loss": ("the loss {} nats", total.loss), "brier": ("the Brier score {}", total.brier)}
    told = [
        words.format(_signed(-value.mean)) for name, (words, value) in found.items() if name in total.sure and value
    ]
    if told:
        return f"accuracy does not tell, but attention changes {' and '.join(told)} (lower is better)"
    excluded = total.accuracy.low > 0 or total.accuracy.high < 0
    uncounted = "; its own interval excludes 0, but that does not count after correction for three measures"
    return "no evidence that its predictions rest on its attention" + (uncounted if excluded else "")


def _halves(decoupling: Decoupling) -> list[str]:
    """Which part carries how much, where there is something to divide."""
    if "accuracy" not in decoupling.total.sure:
        return []
    shares = {half.part: half.share for half in decoupling.halves if half.share is not None}
    if len(shares) < 2:
        return []
    first = max((half for half in decoupling.halves if half.part in shares), key=lambda half: shares[half.part])
    others = sorted((part for part in shares if part != first.part), key=lambda part: -shares[part])
    rest = ", ".join(f"{part} {100 * shares[part]:.0f} %" for part in others)
    more_than_all = ", more than all of it, as the rest takes away" if shares[first.part] > 1 else ""
    within = f"95 % interval {100 * (first.share_low or 0):.0f} to {100 * (first.share_high or 0):.0f}"
    name = first.part[:1].upper() + first.part[1:]
    carried = f"{100 * shares[first.part]:.0f} %"
    return [f"{name} attention carries {carried} of that ({within}{more_than_all}), {rest}."]


def _dynamics(record: ExplanationRecord) -> str:
    sites, images = (record.gates.sites, record.gates.images) if record.gates else ((), 0)
    if images < 2:
        return "One image does not tell how the gates differ between images."
    parts: dict[str, list[float]] = {}
    for site in sites:
        for part, numbers in site.parts.items():
            parts.setdefault(part, []).append(numbers.swing)
    told = [
        f"{part} gates swing by {_range(swings)} between images" if max(swings) > 1e-6 else f"{part} gates never change"
        for part, swings in parts.items()
    ]
    return f"At {counted(len(sites), 'site')} the {', the '.join(told)} (standard deviation, n = {counted(images, 'image')})."


def _folding(folding: FoldingRecord) -> str:
    gone, total, effect = folding.sites_gone, folding.sites_in_all, folding.effect
    if not any(site.action != KEPT for site in folding.sites):
        return (
            f"Nothing folds away within {100 * folding.tolerance:.1f} points: on these images all {total} sites are needed "
            "as they are."
        )
    change = 100 * (folding.latency_ms.after.median / folding.latency_ms.before.median - 1)
    is_unsure = is_busy(folding.latency_ms.before, folding.latency_ms.after)
    unsure = " (uncertain: the machine was busy)" if is_unsure else ""
    reduced = sum(site.action.startswith(("reduced", "left")) for site in folding.sites)
    cheaper = f"{reduced} {'becomes' if reduced == 1 else 'become'} cheaper"
    what = f"{gone} of {counted(total, 'site')} fold away" + (f" and {cheaper}" if reduced else "")
    excluded = "" if folding.unlikely_loss is None else f"{loss_clause(folding.unlikely_loss)}; "
    return (
        f"{what if gone else f'Of {total} sites {cheaper}'}, as constants do as well as their gates: "
        f"latency {change:+.0f} %{unsure}, accuracy {_points(effect.mean)} points ({_interval(effect)}; "
        f"n = {in_groups(folding.images, folding.groups)}; {excluded}{100 * folding.tolerance:.1f} were allowed to be lost "
        "on these)."
    )


def _pointing(pointing: Pointing) -> str:
    row = next((row for row in pointing.maps if row.map == GATE_MAP), pointing.maps[0])
    centre, hits = row.hits_against_centre, row.hits
    verdict = "no more and no less often than a guess at the centre, as far as can be told"
    if centre is not None and centre.low > 0:
        verdict = "more often than a guess at the centre"
    elif centre is not None and centre.high < 0:
        verdict = "less often than a guess at the centre"
    return (
        f"The {row.map} points at the object in {100 * hits.mean:.0f} % of {in_groups(pointing.n, pointing.groups)} "
        f"({100 * hits.low:.0f} to {100 * hits.high:.0f}), {verdict}."
    )


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}" if round(abs(fraction), 3) else "0.0"


def _signed(value: float) -> str:
    """Three decimals, or one digit of what they would not show."""
    return f"{value:+.3f}" if abs(value) >= 0.0005 else f"{value:+.1g}"


def _interval(effect: Interval) -> str:
    return f"95 % interval {_points(effect.low)} to {_points(effect.high)}"


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g}"
