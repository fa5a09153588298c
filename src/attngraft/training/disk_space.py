"""Estimate the disk space of a run, and check it before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from ..data import Dataset
from ..errors import RunError
from ..settings.recipe import Recipe
from .checkpoint import KEPT

MARGIN = 1 << 20  # run.json, metrics, headers, the page


def kept_bytes(model: nn.Module, dataset: Dataset) -> int:
    """What stays of a finished run: weights and predictions."""
    return _weights(model) + 4 * len(dataset.test) * (len(dataset.classes) + 2) + MARGIN


def working_bytes(model: nn.Module, recipe: Recipe) -> int:
    """What a run takes beside that while it lasts: checkpoints (with the beginning of the epoch and one that is written), and
    the last good weights."""
    copies = 1 + bool(recipe.ema_decay) + (recipe.select == "best")
    moments = (1 if recipe.optimizer == "sgd" else 2) * sum(p.numel() * p.element_size() for p in model.parameters())
    return (KEPT + 2) * (copies * _weights(model) + moments) + _weights(model)


def check_space(folder: Path, needed: int) -> None:
    """Raise RunError where less than `needed` bytes are free for a folder, which need not exist yet.

    What the folder holds already counts as free: files of an earlier start of the same run are replaced.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if folder.is_dir():
        free += sum(path.stat().st_size for path in folder.rglob("*.safetensors") if path.is_file())
    if free < needed:
        raise RunError(
            f"{folder} needs {_megabytes(needed)} and has {_megabytes(free)} of free space: free some, or choose another folder."
        )


def _weights(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
