"""Run all explanations of a trained model, into one folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..config import from_dict, to_dict
from ..environment import hardware, versions
from ..errors import ConfigError, RunError
from ..files import read_json, write_json
from ..surgery import graft_plan, grafts
from ..timestamp import timestamp
from ..training import FitResult, MachineSettings
from .decouple import decouple
from .explanation_record import EpochGates, ExplanationRecord
from .folding import Step, check_tolerance, fold, silent
from .gates import gates
from .image_source import Source
from .inputs import Subject, open_subject
from .saliency_report import known_boxes, saliency_report
from .summary_sentences import sentences

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

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def explain(
    run: str | Path | FitResult | nn.Module,
    images: Source | None = None,
    *,
    out: str | Path | None = None,
    boxes: str | Path | None = None,
    tolerance: float = 0.005,
    examples: int = 8,
    limit: int | None = None,
    skip_broken: bool = False,
    root: str | Path | None = None,
    download: bool = False,
    device: str = "cpu",
    seed: int = 0,
    command: str | None = None,
    progress: Step | None = None,
) -> Explanation:
    """Examine the gates, what each part is worth, the saliency maps, and what could be folded away.

    Args:
        run: a run folder, a saved model, the result of a fit, or a classifier.
        images: a folder of class folders, a data set, or image files; the run's own test images where not given.
            Without labels, what needs them is left out.
        out: folder for the results; `explanation` inside the run folder where not given. What an earlier
            explanation left there is replaced, anything else is not.
        boxes: CSV file with the columns image, x0, y0, x1, y1, in pixels of the image files.
        tolerance: accuracy (as a fraction) that folding may lose.
        examples: images to show.
        limit: most images to use, evenly spread.
        skip_broken: leave out images that cannot be read, instead of an error.
        root: folder of the published data sets.
        download: allow their download.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        seed: of shuffles, bootstraps and sampled permutations.
        command: to be noted.
        progress: called with the name of each step as it begins.

    Raises:
        RunError, DataError, ConfigError, GraftError: one sentence on what does not fit; nothing is written.
    """
    for name, value in (("examples", examples), ("seed", seed)):
        if value < 0:
            raise ConfigError(f"{name} is {value}: expected 0 or more.")
    check_tolerance(tolerance)
    where = MachineSettings(device=device).resolve_device()
    say = progress or silent
    say("reading images")
    options = {"skip_broken": skip_broken, "root": None if root is None else Path(root), "download": download}
    subject = open_subject(run, images, device=where, limit=limit, **options)
    known_boxes(subject.view, boxes)  # refuse what cannot be used before anything is measured
    folder = _folder(subject, out)
    record, model, view = _empty_record(subject, command), subject.model, subject.view
    if grafts(model):
        say("gates")
        record = replace(record, gates=gates(model, view).record(), gate_history=_gate_history(subject))
    if grafts(model) and view.is_labelled:
        say("decoupling")
        record = replace(record, decoupling=decouple(model, view, seed=seed))
    if grafts(model) and view.is_labelled and len(view) > 1:  # one image does not tell whether gates depend on it
        say("folding")
        record = replace(record, folding=fold(model, view, tolerance=tolerance).record())
    say("maps")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / EXPLANATION_FILE, to_dict(replace(record, status="partial")))  # the images belong to it
    record = replace(record, looks=saliency_report(subject, folder, boxes=boxes, examples=examples, seed=seed))
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
        folder = Path(out)
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
