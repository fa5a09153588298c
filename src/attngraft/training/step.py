"""One optimiser step on one batch. All that is random in it is a function of (seed, step, process)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..data import Batch, hash64, mix_batch
from ..errors import TrainingError
from .checkpoint import Position
from .job import Job


@dataclass(frozen=True)
class StepNumbers:
    """What a step has seen.

    Attributes:
        loss: mean over the images of this process.
        correct: right predictions among them.
        images: how many there are.
    """

    loss: float
    correct: int
    images: int


class Stepper:
    """Takes optimiser steps, and refuses those that would spoil the weights.

    Args:
        model: what is trained.
        job: how.
        average: moving average of the weights, where the recipe has one.
    """

    def __init__(self, model: nn.Module, job: Job, average: AveragedModel | None) -> None:
        self.model = model
        self.job = job
        self.average = average
        self.criterion = nn.CrossEntropyLoss(label_smoothing=job.recipe.label_smoothing)

    def step(self, parallel: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, at: Position) -> StepNumbers:
        """Take the step that follows on a position.

        Args:
            parallel: the model as it runs with its peers.
            optimizer: of the phase, its rates set.
            batch: this process's share.
            at: the position before the step.

        Raises:
            TrainingError: the loss or the gradient is not finite; the model is as before the step.
        """
        job = self.job
        torch.manual_seed(hash64("step", job.seed, at.global_step, job.world.rank))  # dropout and stochastic depth
        images, targets = self._inputs(batch, at)
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        with job.precision.autocast(job.device):
            logits = self._forward(parallel, images)
        loss = self._loss(batch, images, logits, targets)
        value = float(loss.detach())
        self._require_finite("the loss", value, batch, at, statistics)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._require_finite("the gradient's norm", self._limit_gradient(), batch, at, statistics)
        optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        correct = int((logits.detach().argmax(1).cpu() == batch.labels).sum())
        return StepNumbers(value, correct, len(batch.labels))

    def _loss(self, batch: Batch, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.criterion(logits.float(), targets)
        taught = self.job.lesson.loss(batch, images, logits) if self.job.lesson is not None else None
        return loss if taught is None else loss + taught

    def _forward(self, parallel: nn.Module, images: Tensor) -> Tensor:
        try:
            return parallel(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainingError(
                f"BatchNorm cannot train on {len(images)} image with one position: choose a larger batch_size."
            ) from None

    def _inputs(self, batch: Batch, at: Position) -> tuple[Tensor, Tensor]:
        recipe, device = self.job.recipe, self.job.device
        images = batch.images.to(device, memory_format=self.job.precision.memory_format, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True)
        if not (recipe.mixup or recipe.cutmix):
            return images, labels
        seed = hash64("mix", self.job.seed, at.global_step, self.job.world.rank)
        classes = len(self.job.dataset.classes)
        return mix_batch(images, labels, num_classes=classes, mixup=recipe.mixup, cutmix=recipe.cutmix, seed=seed)

    def _limit_gradient(self) -> float:
        """Norm of the gradient, before it is clipped."""
        trained = [p for p in self.model.parameters() if p.requires_grad and p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if self.job.recipe.clip_norm:
            nn.utils.clip_grads_with_norm_(trained, self.job.recipe.clip_norm, norm)
        return float(norm)

    def _require_finite(
        self, what: str, value: float, batch: Batch, at: Position, statistics: Sequence[Tensor]
    ) -> None:
        """Stop all processes where a number is not finite in one.

        The forward pass has moved BatchNorm's statistics already: they are set back.
        """
        if not self.job.world.any(not math.isfinite(value)):
            return
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
        found = self.job.world.gather(None if math.isfinite(value) else self._not_finite(what, value, batch, at))
        raise TrainingError(next(sentence for sentence in found if sentence))

    def _not_finite(self, what: str, value: float, batch: Batch, at: Position) -> str:
        files = [self.job.dataset.train.ids[int(index)] for index in batch.indices]
        shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
        return (
            f"{what} is {value} at step {at.global_step + 1} (epoch {at.epochs_done + 1}), on the images {shown}: "
            "lower the learning rate (lr_scale), clip gradients (clip_norm) or look at these files"
        )
