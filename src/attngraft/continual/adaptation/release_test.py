"""Measure a version once, on images that no decision has used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import DataError
from ...statistics.effects import crossed_effect
from ...statistics.interval import Interval
from ...statistics.proportions import proportion_interval
from ...surgery.version_store.store import Store
from ..images.stored_domains import Domains
from .candidate_training import evaluate_version
from .store_history import update_history


def release(store: str | Path, *, device: torch.device | None = None) -> Mapping[str, Any]:
    """Measure the served version on the final images of all domains; a second call returns the same result.

    A version that is changed because of this result makes the images worthless: every release is therefore in the
    journal, and reports show how many there were.

    Returns:
        the journal's entry: version, images, top1, low and high (95 % interval over images, or over groups, whose number
        is then in groups), per_domain.

    Raises:
        DataError: there are no final images.
        RunError: the store is damaged or in use.
    """
    opened = Store.open(store)
    with opened.writing():
        version = opened.head
        for entry in opened.journal.entries():
            if entry["event"] == "release" and entry["version"] == version:
                return entry
        model, where = opened.model(version), device or torch.device("cpu")
        parts: dict[str, np.ndarray] = {}
        groups: list[np.ndarray | None] = []
        for domain in Domains(opened.path).all():
            images = domain.of("final")
            if len(images) and domain.can_judge(opened.classes):
                name = domain.name if domain.name not in parts else f"{domain.name} {domain.number}"
                parts[name] = evaluate_version(model, images, where).correct
                groups.append(images.groups)
        if not parts:
            raise DataError(f"{opened.path} has no final images: make a store with a share for them.")
        right = np.concatenate(list(parts.values()))
        interval, counted = _interval(right, [known for known in groups if known is not None])
        entry = opened.record(
            "release",
            version=version,
            images=len(right),
            top1=float(right.mean()),
            low=interval.low,
            high=interval.high,
            **counted,
            per_domain=[{"name": n, "top1": float(r.mean()), "images": len(r)} for n, r in parts.items()],
        )
        update_history(opened, where)
        return entry


def _interval(right: np.ndarray, groups: Sequence[np.ndarray]) -> tuple[Interval, dict[str, int]]:
    """Over images, or over groups where images come in groups, and then how many."""
    if not groups:
        return crossed_effect(right[None].astype(np.float64), limit=1.0).interval, {}
    group = np.concatenate(groups)
    return proportion_interval(right[None].astype(np.float64), group), {"groups": len(np.unique(group))}
