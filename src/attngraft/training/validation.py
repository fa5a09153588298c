"""What is measured after an epoch: the model's answers, and its gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..data import ImageSet
from ..errors import NotFiniteError
from .evaluate import Evaluation, evaluate
from .gate_metrics import record_gates
from .oom import Portions
from .run_context import Job


def examine(
    model: nn.Module, images: ImageSet, job: Job, portions: Portions, before_batch: Callable[[], None] | None = None
) -> Evaluation:
    """`evaluate` as a job does it: in its precision, on its device, by all of its processes.

    Args:
        portions: how many images at a time memory allows.
        before_batch: as for `evaluate`.
    """
    return evaluate(
        model,
        images,
        job.preprocessing,
        batch_size=job.evaluation_batch_size,
        precision=job.precision,
        device=job.device,
        workers=job.workers,
        world=job.world,
        portions=portions,
        before_batch=before_batch,
    )


class Examiner:
    """Measures a model that is being trained; all processes take part.

    Args:
        job: what is trained how.
        before_batch: called between two batches, equally often in all processes; may end the measurement.
    """

    def __init__(self, job: Job, before_batch: Callable[[], None]) -> None:
        self.job = job
        self.before_batch = before_batch
        self.portions = Portions(job.note)

    @property
    def split(self) -> str:
        """The validation images, or where there are none those of the test, on which then nothing depends."""
        return "val" if self.job.dataset.val is not None else "test"

    def evaluate(self, model: nn.Module, step: int) -> Evaluation:
        """Answers on all images of the split.

        Args:
            model: with the weights that count.
            step: optimiser steps that it has taken, for errors.

        Raises:
            NotFiniteError: an answer is not finite.
        """
        self.job.world.align_buffers_(model)
        images = getattr(self.job.dataset, self.split)
        try:
            return examine(model, images, self.job, self.portions, self.before_batch)
        except NotFiniteError as error:
            raise NotFiniteError(f"after step {step} {error}") from None

    def gates(self, model: nn.Module) -> dict[str, Any]:
        """The gates for a row of the record; nothing without grafts. After `evaluate`, when all have the same buffers."""
        job = self.job
        found = record_gates(
            model,
            getattr(job.dataset, self.split),
            job.preprocessing,
            memory_format=job.precision.memory_format,
            device=job.device,
            portions=self.portions,
        )
        return {"gates": found} if found else {}
