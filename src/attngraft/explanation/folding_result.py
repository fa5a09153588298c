"""Result of folding: numbers, sentences, files."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..checksums import file_hash
from ..config import to_dict
from ..costs import Latency
from ..errors import RunError
from ..files import write_json
from ..statistics.effects import Effect
from ..surgery import fold_note, note_fold_, save
from ..surgery.fold import KEPT
from ..surgery.serialization import MODEL_FILE
from ..training.evaluate import Evaluation
from .explanation_record import Accuracy, FoldedPart, FoldingRecord, Latencies

FOLD_FILE = "fold.json"


@dataclass(frozen=True, eq=False)
class Folding:
    """A model with its static gates folded away, and what that did.

    Attributes:
        model: the folded one, in eval mode; a plain network where every site is gone.
        sites: every part of every graft, in forward order.
        before: predictions of the model.
        after: predictions of the folded one.
        effect: paired difference in accuracy, after minus before, over the images.
        largest_output_change: largest difference between two logits, on the first batch.
        latency_before_ms: of one image, measured side by side with that after.
        latency_after_ms: of one image.
        tolerance: accuracy that was allowed to be lost, as a fraction.
        sites_in_all: number of grafts before.
        sites_gone: how many of them left nothing to compute.
    """

    model: nn.Module
    sites: tuple[FoldedPart, ...]
    before: Evaluation
    after: Evaluation
    effect: Effect
    largest_output_change: float
    latency_before_ms: Latency
    latency_after_ms: Latency
    tolerance: float
    sites_in_all: int
    sites_gone: int

    @property
    def images(self) -> int:
        """On how many images the accuracy was measured."""
        return len(self.before.labels)

    def to_json(self) -> dict[str, Any]:
        """Plain values; without the model."""
        return to_dict(self.record())

    def record(self) -> FoldingRecord:
        """All but the model and its predictions."""
        change = self.largest_output_change
        return FoldingRecord(
            self.sites,
            Accuracy(self.before.score),
            Accuracy(self.after.score),
            self.effect.interval,
            change if math.isfinite(change) else None,
            Latencies(self.latency_before_ms, self.latency_after_ms),
            self.tolerance,
            self.images,
            self.sites_in_all,
            self.sites_gone,
        )

    def write(self, folder: str | Path, *, source: str | Path | None = None) -> Path:
        """Write the folded model and `fold.json` into a folder.

        Args:
            folder: without a saved model.
            source: the run folder or file of the model that was folded, to be noted in the new one.

        Returns:
            The path of the model.

        Raises:
            RunError: there is a model already, or the folder cannot be written.
        """
        check_free(folder)
        note = fold_note(self.model)
        if source is not None and note is not None:
            file = Path(source) if Path(source).suffix == ".safetensors" else Path(source) / MODEL_FILE
            note_fold_(self.model, replace(note, source=str(source), sha256=file_hash(file)))
        path = save(self.model, Path(folder) / MODEL_FILE)
        write_json(path.parent / FOLD_FILE, self.to_json())
        return path

    def __str__(self) -> str:
        changed = {part.path for part in self.sites if part.action != KEPT}
        cheaper = len(changed) - self.sites_gone
        more = f" and {cheaper} {'becomes' if cheaper == 1 else 'become'} cheaper" if cheaper else ""
        before, after, effect = self.latency_before_ms, self.latency_after_ms, self.effect
        return (
            f"{self.sites_gone} of {self.sites_in_all} sites fold away{more}: "
            f"accuracy {100 * self.before.score:.1f} % before and {100 * self.after.score:.1f} % after on {self.images} "
            f"images ({100 * effect.mean:+.1f} points, 95 % interval {100 * effect.low:+.1f} to "
            f"{100 * effect.high:+.1f}; {100 * self.tolerance:.1f} were allowed to be lost), "
            f"latency of one image {_timed(before)} before and {_timed(after)} after (medians of {after.n}, quartiles)."
        )


def check_free(folder: str | Path) -> None:
    """Raise RunError unless the folder is new or empty."""
    path = Path(folder)
    if (path / MODEL_FILE).exists():
        raise RunError(
            f"{path / MODEL_FILE} is there already, and folding does not replace a model: choose another folder."
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            f"{path} is {'not empty' if path.is_dir() else 'a file'}: choose a new folder for the folded model."
        )


def _timed(latency: Latency) -> str:
    return f"{latency.median:.2f} ms ({latency.q1:.2f} to {latency.q3:.2f})"
