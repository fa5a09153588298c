"""The gradient of a batch, computed whole or in parts that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import Batch, hash64, mix_batch
from .checkpoint import Position
from .evaluate import in_eval_mode
from .oom import slices
from .run_context import Job


@dataclass(frozen=True)
class StepNumbers:
    """What a step has seen.

    Attributes:
        loss: mean over the images.
        correct: right predictions among them.
        images: how many there are.
        parts: in how many parts they were computed.
    """

    loss: float
    correct: int
    images: int
    parts: int


class Accumulator:
    """Runs the model forward and backward.

    Args:
        model: what is trained.
        job: how.
    """

    def __init__(self, model: nn.Module, job: Job) -> None:
        self.model = self.network = model
        self.job = job
        self.criterion = nn.CrossEntropyLoss(label_smoothing=job.recipe.label_smoothing)

    def begin_phase(self) -> None:
        """Let several processes average the gradients of those parameters that are trained now."""
        if self.job.world.size > 1:
            example = torch.zeros(1, *self.job.preprocessing.input.shape, device=self.job.device)
            with in_eval_mode(self.model):
                output = self.model(example)
            self.network = self.job.world.parallel(self.model, output)

    def accumulate(self, batch: Batch, at: Position, parts: int) -> StepNumbers:
        """Add the gradient of the mean loss over a batch to that of the parameters; the buffers move, too.

        The losses of the parts are weighted by their images. The buffers, which are BatchNorm's statistics, move once: to
        the weighted mean of where each part moves them from where they were. After a loss that is not finite there is no
        backward pass, except where other processes wait for it.

        Args:
            batch: this process's share.
            at: the position before the step, on which all that is random depends.
            parts: in how many parts, at most one per image.
        """
        before, moved = self.kept(), None
        images, targets = self._inputs(batch, at)
        value, correct = 0.0, 0
        for number, chosen in enumerate(slices(len(batch.indices), parts)):
            part = Batch(images[chosen], batch.targets[chosen], batch.indices[chosen])
            share = len(part.indices) / len(batch.indices)
            if number:
                self.put_back(before)
            torch.manual_seed(self._seed(at, number))  # dropout and stochastic depth
            with self.job.precision.autocast(self.job.device):
                logits = self.network(part.images)
            loss = self._loss(part, logits, targets[chosen]) * share
            value += float(loss.detach())
            if not math.isfinite(value) and self.job.world.size == 1:
                break
            loss.backward()
            correct += int((logits.detach().argmax(1).cpu() == part.targets).sum())
            if parts > 1:
                moved = _added(moved, self.kept(), share)
        if moved is not None:
            self.put_back(moved)
        return StepNumbers(value, correct, len(batch.indices), parts)

    def put_back(self, values: Sequence[Tensor]) -> None:
        """Give the buffers the values that they had."""
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), values, strict=True):
                buffer.copy_(value)

    def kept(self) -> list[Tensor]:
        """The values of the buffers, for `put_back`."""
        return [buffer.clone() for buffer in self.model.buffers()]

    def _loss(self, part: Batch, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.criterion(logits.float(), targets)
        taught = self.job.lesson.loss(part, part.images, logits) if self.job.lesson is not None else None
        return loss if taught is None else loss + taught

    def _seed(self, at: Position, part: int) -> int:
        numbers = (self.job.seed, at.global_step, self.job.world.rank)
        return hash64("step", *numbers) if part == 0 else hash64("step", *numbers, part)

    def _inputs(self, batch: Batch, at: Position) -> tuple[Tensor, Tensor]:
        recipe, device = self.job.recipe, self.job.device
        images = batch.images.to(device, memory_format=self.job.precision.memory_format, non_blocking=True)
        labels = batch.targets.to(device, non_blocking=True)
        if not (recipe.mixup or recipe.cutmix):
            return images, labels
        seed = hash64("mix", self.job.seed, at.global_step, self.job.world.rank)
        classes = len(self.job.dataset.classes)
        return mix_batch(images, labels, num_classes=classes, mixup=recipe.mixup, cutmix=recipe.cutmix, seed=seed)


def _added(total: Sequence[Tensor] | None, buffers: Sequence[Tensor], share: float) -> list[Tensor]:
    """A weighted mean grows by one part's buffers; integers, which count batches, are those of the last part."""
    parts = [buffer * share if buffer.is_floating_point() else buffer for buffer in buffers]
    if total is None:
        return parts
    return [old + new if new.is_floating_point() else new for old, new in zip(total, parts, strict=True)]
