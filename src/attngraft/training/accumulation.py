"""Gradient accumulation: the gradient of a batch, computed at once or in parts that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Batch, hash64, mix_batch
from ..surgery.model_output import main_output
from .checkpoint import Position
from .evaluate import in_eval_mode
from .oom import slices
from .run_context import RunContext


@dataclass(frozen=True)
class StepNumbers:
    """What a step has seen.

    Attributes:
        loss: mean over the images.
        score_sum: sum of the primary metric's scores; 0 where it is no sum over images.
        images: how many there are.
        parts: in how many parts they were computed.
    """

    loss: float
    score_sum: float
    images: int
    parts: int


class Accumulator:
    """Runs the model forward and backward.

    Args:
        model: what is trained.
        context: of the training.
    """

    def __init__(self, model: nn.Module, context: RunContext) -> None:
        self.model = self.network = model
        self.context = context

    def begin_phase(self) -> None:
        """Wrap the model anew, for the parameters that are trained now, if there are several processes."""
        if self.context.world.size > 1:
            example = torch.zeros(1, *self.context.preprocessing.input.shape, device=self.context.device)
            with in_eval_mode(self.model):
                output = main_output(self.model(example))
            self.network = self.context.world.parallel(self.model, output)

    def accumulate(self, batch: Batch, at: Position, parts: int) -> StepNumbers:
        """Add the gradient of the mean loss over a batch to the parameters' gradients, and update the buffers.

        The losses of the parts are weighted by their numbers of images; how well that adds up to the loss of the batch is up
        to networks that compute it themselves. The buffers (BatchNorm's statistics) end at the
        weighted mean of what each part alone would make of them. There is no backward pass after a loss that is not finite,
        unless other processes take part in it.

        Args:
            batch: this process's share.
            at: the position before the step, from which all random seeds follow.
            parts: number of parts, at most one per image.
        """
        before, moved = self.kept(), None
        images, targets = self._inputs(batch, at)
        value, score_sum = 0.0, 0.0
        for number, chosen in enumerate(slices(len(batch.indices), parts)):
            part = Batch(images[chosen], batch.targets[chosen], batch.indices[chosen])
            share = len(part.indices) / len(batch.indices)
            if number:
                self.put_back(before)
            torch.manual_seed(self._seed(at, number))  # dropout and stochastic depth
            loss, outputs = self._loss(part, targets[chosen])
            loss = loss * share
            value += float(loss.detach())
            if not math.isfinite(value) and self.context.world.size == 1:
                break
            loss.backward()
            score_sum += self.context.criterion.running(outputs, part.targets.to(outputs.device))
            if parts > 1:
                moved = _added(moved, self.kept(), share)
        if moved is not None:
            self.put_back(moved)
        return StepNumbers(value, score_sum, len(batch.indices), parts)

    def put_back(self, values: Sequence[Tensor]) -> None:
        """Restore the values of the buffers."""
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), values, strict=True):
                buffer.copy_(value)

    def kept(self) -> list[Tensor]:
        """Copies of the buffers, for `put_back`."""
        return [buffer.clone() for buffer in self.model.buffers()]

    def _loss(self, part: Batch, targets: Any) -> tuple[Tensor, Tensor]:
        """The loss of a part, and the main output that it comes from."""
        loss, outputs = self.context.criterion(self._forward, part.images, targets)
        extra = self.context.extra_loss
        added = extra.loss(part, part.images, outputs) if extra is not None else None
        return (loss if added is None else loss + added), outputs

    def _forward(self, images: Tensor, *targets: Any) -> Any:
        """The main output, or whatever the network makes of images and targets together."""
        with self.context.precision.autocast(self.context.device):
            outputs = self.network(images, *targets)
            return outputs if targets else main_output(outputs)

    def _seed(self, at: Position, part: int) -> int:
        numbers = (self.context.seed, at.global_step, self.context.world.rank)
        return hash64("step", *numbers) if part == 0 else hash64("step", *numbers, part)

    def _inputs(self, batch: Batch, at: Position) -> tuple[Tensor, Any]:
        recipe, device = self.context.recipe, self.context.device
        images = batch.images.to(device, memory_format=self.context.precision.memory_format, non_blocking=True)
        labels = batch.targets.to(device, non_blocking=True)
        if not (recipe.mixup or recipe.cutmix):
            return images, labels
        seed = hash64("mix", self.context.seed, at.global_step, self.context.world.rank)
        classes = len(self.context.dataset.classes)
        return mix_batch(images, labels, num_classes=classes, mixup=recipe.mixup, cutmix=recipe.cutmix, seed=seed)


def _added(total: Sequence[Tensor] | None, buffers: Sequence[Tensor], share: float) -> list[Tensor]:
    """A weighted mean grows by one part's buffers; integers, which count batches, are those of the last part."""
    parts = [buffer * share if buffer.is_floating_point() else buffer for buffer in buffers]
    if total is None:
        return parts
    return [old + new if new.is_floating_point() else new for old, new in zip(total, parts, strict=True)]
