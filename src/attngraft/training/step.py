"""One optimiser step on one batch, taken as a whole or not at all, in all processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..data import Batch
from ..errors import NotFiniteError, TrainingError, counted
from .accumulation import Accumulator, StepNumbers
from .checkpoint import Position
from .distributed import collective
from .nonfinite import first_not_finite, kept_buffers
from .oom import free_memory, is_out_of_memory
from .run_context import RunContext


class Stepper:
    """Takes optimiser steps, and refuses those that would leave weights that are not finite.

    Args:
        model: what is trained.
        context: of the training.
        average: moving average of the weights, where the recipe has one.

    Attributes:
        is_midway: an update of the weights has begun and has not succeeded.
    """

    def __init__(self, model: nn.Module, context: RunContext, average: AveragedModel | None) -> None:
        self.model = model
        self.context = context
        self.average = average
        self.is_midway = False
        self._accumulator = Accumulator(model, context)
        self._kept_buffers = kept_buffers(model)

    def begin_phase(self) -> None:
        """Call when the set of trainable parameters has changed."""
        self._accumulator.begin_phase()

    def step(
        self, optimizer: torch.optim.Optimizer, batch: Batch, at: Position, hold: Callable[[], None]
    ) -> StepNumbers:
        """Take the next step.

        Args:
            optimizer: of the phase, with its learning rates set.
            batch: this process's share.
            at: the position before the step.
            hold: called just before the model changes; until then an exception may break the step off.

        Returns:
            the numbers over all processes.

        Raises:
            NotFiniteError: the loss, a BatchNorm statistic or the gradient is not finite, and the model is as before
                the step; or a weight is not finite after the update, and `is_midway` stays set.
            TrainingError: out of memory for a single image, for the share of one of several processes, or for the
                update, when `is_midway` stays set.
            PeerError: another process has ended or hangs.
        """
        statistics = self._accumulator.kept()
        try:
            taken = self._find_gradient(optimizer, batch, at, statistics)
        except BaseException:
            hold()
            self._accumulator.put_back(statistics)
            raise
        hold()
        self.is_midway = True
        self._update(optimizer, batch, at)
        self.is_midway = False
        return taken

    def _of_all(self, mine: StepNumbers, problem: NotFiniteError | None) -> StepNumbers:
        """Sum over all processes; raise in all of them what is not finite in one."""
        world = self.context.world
        loss, score_sum, images, problems = world.sum(
            mine.loss * mine.images, mine.score_sum, mine.images, bool(problem)
        )
        if problems:
            raise next(found for found in world.gather(problem) if found is not None)
        if world.size == 1:
            return mine
        return replace(mine, loss=loss / images, score_sum=score_sum, images=int(images))

    def _find_gradient(
        self, optimizer: torch.optim.Optimizer, batch: Batch, at: Position, statistics: Sequence[Tensor]
    ) -> StepNumbers:
        """Leave the gradient of the whole batch, averaged over all processes and clipped, in the parameters."""
        parts = at.parts if self.context.world.size == 1 else 1
        optimizer.zero_grad(set_to_none=True)
        while (taken := self._attempt(batch, at, parts)) is None:
            optimizer.zero_grad(set_to_none=True)
            free_memory()
            self._accumulator.put_back(statistics)
            parts = self._more_parts(parts, len(batch.indices), at)
        taken = self._of_all(taken, self._problem(taken, batch, at))
        norm = self._limit_gradient([parameter for parameter in self.model.parameters() if parameter.requires_grad])
        if not math.isfinite(norm):  # of the mean gradient, which is the same in every process
            indices = torch.cat(self.context.world.gather(batch.indices))
            raise self._not_finite(f"the gradient's norm is {norm}", indices, at)
        return taken

    def _attempt(self, batch: Batch, at: Position, parts: int) -> StepNumbers | None:
        """Run forward and backward; None when out of memory, if the batch may be split."""
        try:
            with collective():
                return self._accumulator.accumulate(batch, at, parts)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainingError(self._one_position(parts, len(batch.indices), at)) from None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if self.context.world.size > 1:  # the others are in the middle of the same backward pass
            raise TrainingError(
                f"memory does not suffice for {counted(len(batch.indices), 'image')} at {_where(at)}, and several processes do not "
                f"split their shares: take a batch_size below {self.context.batch_size}, or more processes"
            )
        return None

    def _problem(self, taken: StepNumbers, batch: Batch, at: Position) -> NotFiniteError | None:
        """What is not finite in this process."""
        if not math.isfinite(taken.loss):
            return self._not_finite(f"the loss is {taken.loss}", batch.indices, at)
        buffers = {f"the statistic {n}": b for n, b in self.model.named_buffers() if n in self._kept_buffers}
        name = first_not_finite(buffers)
        return None if name is None else self._not_finite(f"{name} is not finite", batch.indices, at)

    def _update(self, optimizer: torch.optim.Optimizer, batch: Batch, at: Position) -> None:
        """Move the weights and their average, in the same way in every process."""
        try:
            optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"the update of the weights ran out of memory at {_where(at)}: take a smaller backbone, an optimizer "
                "with fewer moments (sgd), or free memory"
            ) from None
        found = first_not_finite({f"the weight {name}": weight for name, weight in self.model.named_parameters()})
        if found is not None:
            raise self._not_finite(f"{found} is not finite after the update", batch.indices, at)

    def _more_parts(self, parts: int, images: int, at: Position) -> int:
        """Twice as many parts, at most one per image."""
        most = -(-images // parts)
        if most == 1:
            raise TrainingError(
                f"memory does not suffice for one image at a time at {_where(at)}: take smaller images (image_size) or "
                "a smaller backbone, or free memory"
            )
        parts = min(2 * parts, images)
        self.context.note(
            f"Memory did not suffice for {counted(most, 'image')} at a time at {_where(at)}: from here on a batch is computed "
            f"{-(-images // parts)} at a time, and the gradients add up to that of the same batch"
            + ("; BatchNorm normalises each part by its own statistics." if self._kept_buffers else ".")
        )
        return parts

    def _one_position(self, parts: int, images: int, at: Position) -> str:
        if parts == 1:
            return f"BatchNorm cannot train on {images} image with one position: choose a larger batch_size"
        return (
            f"memory does not suffice for {counted(-(-2 * images // parts), 'image')} at a time at {_where(at)}, and BatchNorm "
            "cannot train on one image with one position: take a smaller backbone, or free memory"
        )

    def _limit_gradient(self, trained: Sequence[nn.Parameter]) -> float:
        """Clip the gradient; its norm before that."""
        learned = [parameter for parameter in trained if parameter.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in learned if p.grad is not None])
        if self.context.recipe.clip_norm:
            nn.utils.clip_grads_with_norm_(learned, self.context.recipe.clip_norm, norm)
        return float(norm)

    def _not_finite(self, what: str, indices: Tensor, at: Position) -> NotFiniteError:
        files = [self.context.dataset.train.ids[int(index)] for index in indices]
        shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
        return NotFiniteError(
            f"{what} at {_where(at)}, on the images {shown}: "
            "lower the learning rate (lr_scale), clip gradients (clip_norm), look at these files, or go on with on_nonfinite=rollback"
        )


def _where(at: Position) -> str:
    return f"step {at.global_step + 1} (epoch {at.epochs_done + 1})"
