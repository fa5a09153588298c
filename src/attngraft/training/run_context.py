"""Everything that training depends on besides the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import Preprocessing
from ..data import Batch, Dataset
from ..errors import ConfigError, DataError
from ..settings import Settings
from ..settings.recipe import Recipe
from ..tasks import Criterion, LossOptions, Task
from .distributed import World
from .evaluate import EvaluationContext
from .phases import Anatomy
from .precision import Precision

SMALLEST_EVALUATION_BATCH = 64


def _forget(sentence: str) -> None:
    """Keep no events."""


class ExtraLoss(Protocol):
    """A term of the loss besides the task's own."""

    def loss(self, batch: Batch, images: Tensor, outputs: Tensor) -> Tensor | None:
        """The term for a batch; None where it is 0 for certain.

        Args:
            batch: says which images these are.
            images: (B, C, H, W) on the device, as the model sees them.
            outputs: (B, ...) main output of the model.
        """


@dataclass(frozen=True)
class RunContext:
    """All that training depends on, besides the model and a teacher.

    Attributes:
        dataset: images and targets.
        task: what is learned.
        preprocessing: how the model wants the images.
        settings: recipe, data and machine.
        seed: of order, augmentation, dropout and mixing.
        device: where the model is.
        world: the processes that train together.
        checkpoints: folder for them.
        precision: number format and layout.
        anatomy: the parts of the model, where they are known already.
        extra_loss: a term that is added to the loss, such as a teacher's.
        note: keeps a sentence on what happened to the run, and shows it; called in every process, kept by the main one.
    """

    dataset: Dataset
    task: Task
    preprocessing: Preprocessing
    settings: Settings
    seed: int
    device: torch.device
    world: World
    checkpoints: Path
    precision: Precision = field(default_factory=Precision)
    anatomy: Anatomy | None = None
    extra_loss: ExtraLoss | None = None
    note: Callable[[str], None] = _forget

    @property
    def recipe(self) -> Recipe:
        return self.settings.recipe

    @property
    def workers(self) -> int:
        """Processes that prepare images."""
        return self.settings.machine.resolve_workers()

    @cached_property
    def criterion(self) -> Criterion:
        """The loss in training."""
        return self.task.criterion(self.dataset.train.targets, self.loss_options)

    @property
    def loss_options(self) -> LossOptions:
        """What the recipe says of the loss."""
        return LossOptions(self.recipe.loss, self.recipe.label_smoothing, self.recipe.class_weights)

    @cached_property
    def sampling_weights(self) -> NDArray[np.float64] | None:
        """(N,) how often each training image is drawn, where the sampler balances classes; None for once each."""
        if self.recipe.sampler == "shuffle":
            return None
        labels = self.dataset.train.labels
        return np.asarray(1 / np.bincount(labels)[labels])

    @property
    def batch_size(self) -> int:
        """Images per optimiser step over all processes: the recipe's, or as many as there are.

        Raises:
            ConfigError: the processes cannot share the recipe's batch evenly.
            DataError: fewer training images than processes.
        """
        wanted, images, size = self.recipe.batch_size, len(self.dataset.train), self.world.size
        if wanted % size:
            raise ConfigError(f"batch_size is {wanted} for {size} processes: take a multiple of {size}.")
        if images < size:
            raise DataError(f"there are {images} training images for {size} processes: start fewer processes.")
        return min(wanted, images // size * size)

    @property
    def steps_per_epoch(self) -> int:
        """The last images of an epoch, which fill no batch, are left out; every epoch has another order."""
        return len(self.dataset.train) // self.batch_size

    @property
    def evaluation(self) -> EvaluationContext:
        """How the model is evaluated in training."""
        return EvaluationContext(
            self.task,
            self.preprocessing,
            self.precision,
            self.device,
            max(SMALLEST_EVALUATION_BATCH, self.recipe.batch_size),
            self.workers,
            self.world,
        )
