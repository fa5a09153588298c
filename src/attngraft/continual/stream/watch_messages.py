"""What a watch says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...data.read_image import printable
from ..drift.detector import WindowTest
from ..stream_log import StreamState
from .accuracy_loss import LossTest


def about_window(found: WindowTest, before: StreamState, after: StreamState) -> str:
    """What was found in the newest window, and what became of the alarm."""
    if found.drift and before.alarm is None:
        fine = "; that alone explains it, so the accuracy may be as before" if found.only_proportions else ""
        return (
            f"window {after.windows}: drift ({', '.join(found.reasons[:3])}; p = {found.p_value:.2g}, "
            f"limit {found.threshold:.2g}){fine}."
        )
    still = "still drifted" if found.drift else "no drift"
    over = "; the alarm is over" if before.alarm is not None and after.alarm is None else ""
    return f"window {after.windows}: {found.images} images, {still} (p = {found.p_value:.2g}){over}."


def about_left_out(left_out: Mapping[str, str]) -> str:
    """Images that are no part of any window, and why."""
    reasons = "; ".join(f"{printable(name)}: {reason}" for name, reason in list(left_out.items())[:3])
    return f"{len(left_out)} images are left out ({reasons})."


def about_labels_needed(table: Path, elsewhere: Path | None, images: int, needed: int) -> str:
    """How to give labels.

    Args:
        table: that lists the images.
        elsewhere: where labels are looked for, if not in the table itself.
        images: in the table.
        needed: labels in all.
    """
    what = f"fill in the column label of {table}"
    if elsewhere is not None:
        what = f"put those of the images that {table} lists into {elsewhere}"
    return f"labels are needed: {what} ({images} images; with {needed} labels in all the model is adapted, and never without)."


def about_no_loss(found: LossTest, labels: int) -> str:
    """Why there is nothing to adapt to."""
    return f"{labels} labels show no loss: {found}; the served version stays and the alarm is over."
