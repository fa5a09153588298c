"""All that training depends on besides the model, and the few numbers that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import Preprocessing
from ..data import Dataset
from ..errors import ConfigError, DataError
from ..settings.recipe import Recipe
from .distillation import Lesson
from .distributed import World
from .precision import Precision


def _forget(sentence: str) -> None:
    """Where nobody keeps notes."""


@dataclass(frozen=True)
class Job:
    """All that training depends on, besides the model.

    Attributes:
        dataset: images.
        preprocessing: how the model wants them.
        recipe: how to train.
        seed: of order, augmentation, dropout and mixing.
        precision: number format and layout.
        device: where the model is.
        world: the processes that train together.
        workers: processes that prepare images.
        curve: evaluate after every epoch.
        checkpoints: folder for them.
        checkpoint_minutes: longest time between two of them.
        lesson: a teacher's part of the loss, where there is a teacher.
        note: keeps a sentence on what happened to the run, and shows it; called in every process, kept by the main one.
    """

    dataset: Dataset
    preprocessing: Preprocessing
    recipe: Recipe
    seed: int
    precision: Precision
    device: torch.device
    world: World
    workers: int
    curve: bool
    checkpoints: Path
    checkpoint_minutes: float
    lesson: Lesson | None = None
    note: Callable[[str], None] = _forget

    @property
    def batch_size(self) -> int:
        """Images per optimiser step over all processes: the recipe's, or as many as there are."""
        return batch_size(self.recipe, len(self.dataset.train), self.world)

    @property
    def steps_per_epoch(self) -> int:
        """The last images of an epoch, which fill no batch, are left out; every epoch has another order."""
        return len(self.dataset.train) // self.batch_size

    @property
    def evaluation_batch_size(self) -> int:
        return max(64, self.recipe.batch_size)


def batch_size(recipe: Recipe, images: int, world: World) -> int:
    """Images per optimiser step over all processes.

    Raises:
        ConfigError: the processes cannot share the recipe's batch evenly.
        DataError: fewer training images than processes.
    """
    if recipe.batch_size % world.size:
        raise ConfigError(
            f"batch_size is {recipe.batch_size} for {world.size} processes: take a multiple of {world.size}."
        )
    if images < world.size:
        raise DataError(f"there are {images} training images for {world.size} processes: start fewer processes.")
    return min(recipe.batch_size, images // world.size * world.size)
