"""Run all explanations of a trained model, into one folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..environment import hardware, versions
from ..errors import ConfigError, RunError
from ..files import read_json, write_json
from ..surgery import graft_plan, grafts
from ..timestamp import timestamp
from ..training import FitResult, MachineSettings
from .decouple import decouple
from .folding import Step, check_tolerance, fold, silent
from .gates import gates
from .image_source import Source
from .inputs import Subject, open_subject
from .saliency_report import known_boxes, looks
from .summary_sentences import sentences

EXPLANATION_FILE = "explanation.json"
EXPLANATION_FORMAT = 1
FOLDER = "explanation"  # inside the run folder, where no other one is given


@dataclass(frozen=True)
class Explanation:
    """What was found.

    Attributes:
        folder: it holds `explanation.json` and the pictures; `attngraft.report(folder)` makes a page of it.
        document: the content of `explanation.json`.
    """

    folder: Path
    document: Mapping[str, Any]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What matters, most important first."""
        return tuple(self.document["sentences"])

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
    """See the gates, take them apart, look where the model looks, and see what could be folded away.

    Args:
        run: a run folder, a saved model, the result of a fit, or a classifier.
        images: a folder of class folders, a data set, or image files; the run's own test images where not given.
            Without labels, what needs them is left out.
        out: folder for the results; `explanation` inside the run folder where not given. What an earlier
            explanation left there is replaced, anything else is not.
        boxes: CSV file with the columns image, x0, y0, x1, y1, in pixels of the image files.
        tolerance: accuracy (as a fraction) that folding may lose.
        examples: images to show.
        limit: use at most so many images, evenly spread.
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
    document = _document(subject, command)
    has_grafts, labelled = bool(grafts(subject.model)), subject.view.is_labelled
    if has_grafts:
        say("gates")
        document["gates"] = gates(subject.model, subject.view).to_json()
        document["gate_history"] = _gate_history(subject)
    if has_grafts and labelled:
        say("decoupling")
        document["decoupling"] = decouple(subject.model, subject.view, seed=seed).to_json()
    if has_grafts and labelled and len(subject.view) > 1:  # one image does not tell whether gates depend on it
        say("folding")
        document["folding"] = fold(subject.model, subject.view, tolerance=tolerance).to_json()
    say("maps")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / EXPLANATION_FILE, {**document, "status": "partial"})  # the pictures that follow belong to it
    document["looks"] = looks(subject, folder, boxes=boxes, examples=examples, seed=seed)
    document["sentences"] = sentences(document)
    write_json(folder / EXPLANATION_FILE, document)
    return Explanation(folder, document)


def _document(subject: Subject, command: str | None) -> dict[str, Any]:
    plan, view = graft_plan(subject.model), subject.view
    return {
        "format": EXPLANATION_FORMAT,
        "kind": "explanation",
        "status": "finished",
        "created": timestamp(),
        "command": command,
        "name": subject.name,
        "attention": plan.attention if plan else None,
        "classes": list(view.classes),
        "images": len(view),
        "labelled": view.is_labelled,
        "class_counts": np.bincount(view.labels, minlength=len(view.classes)).tolist() if view.is_labelled else None,
        "plain": subject.plain_is,
        "gates": None,
        "gate_history": None,
        "decoupling": None,
        "folding": None,
        "looks": None,
        "sentences": [],
        "hardware": hardware(),
        "versions": versions(),
    }


def _gate_history(subject: Subject) -> list[dict[str, Any]] | None:
    """The gates after each epoch, as `fit` recorded them."""
    rows = [{"epoch": row["epoch"], "gates": row["gates"]} for row in subject.history if row.get("gates")]
    return rows or None


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
