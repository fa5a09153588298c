"""Choose precision and memory layout by timing this model on this machine."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ..config import InputSpec
from ..errors import ConfigError, TrainingError, nearest
from ..surgery import copy_model
from ..surgery.model_output import main_output
from ..tasks import Task
from ..tasks.contract import LossInModel
from ..tasks.detection import summed_losses
from .oom import Portions, is_out_of_memory

TIMED = 16  # images at most: as many as tell
HOPELESS = 3  # times the best: a first step that takes longer, cold as it is, is not followed by others
MARGIN = 0.95  # leave the plainer setting only for a gain of more than 5 %


@dataclass(frozen=True)
class Precision:
    """How numbers are computed and laid out.

    Attributes:
        dtype: "fp32", or "bf16" for autocast with weights in fp32.
        layout: "contiguous" or "channels_last".
    """

    dtype: Literal["fp32", "bf16"] = "fp32"
    layout: Literal["contiguous", "channels_last"] = "contiguous"

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context to run the model in."""
        if self.dtype == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format

    def __str__(self) -> str:
        return f"{self.dtype}+{self.layout}"


CANDIDATES = (Precision(), Precision("fp32", "channels_last"), Precision("bf16", "channels_last"))


TrialLoss = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def _squares(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """A loss that any network has: the mean square of its main output."""
    return main_output(model(images)).float().square().mean()


def _trial_of(task: Task | None) -> tuple[TrialLoss, Sequence[Precision]]:
    """What a step minimises, and in which formats: detectors have losses of their own, written for single precision."""
    if not isinstance(task, LossInModel):
        return _squares, CANDIDATES

    def own(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        targets = task.model_targets(task.random_targets(len(images)).to(images.device))
        of_first_class = [{**one, "labels": one["labels"].clamp(max=0)} for one in targets]  # a template has few
        return summed_losses(model(images, of_first_class))

    return own, CANDIDATES[:2]


def parse_precision(text: str) -> Precision | None:
    """Read "auto" (None), "fp32", "bf16" or one of them with "+contiguous" or "+channels_last".

    >>> parse_precision("bf16"), parse_precision("auto")
    (Precision(dtype='bf16', layout='channels_last'), None)
    """
    known = {"auto": None, "fp32": CANDIDATES[1], "bf16": CANDIDATES[2], "bf16+contiguous": Precision("bf16")}
    known |= {str(candidate): candidate for candidate in CANDIDATES}
    if text not in known:
        raise ConfigError(f"unknown precision '{text}': {nearest(text, known)}")
    return known[text]


def choose_precision(
    model: nn.Module,
    *,
    spec: InputSpec,
    batch_size: int,
    device: torch.device,
    task: Task | None = None,
) -> Precision:
    """Time a few training steps of a copy of the model in each candidate and take the fastest.

    On fewer images where memory does not suffice for as many as usual.

    Args:
        model: to be trained.
        spec: of its images.
        batch_size: of the training.
        device: to train on.
        task: of the training, where its models compute their loss themselves.
    """
    loss, candidates = _trial_of(task)
    count = min(batch_size, TIMED)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return Portions().do(
            lambda most: _fastest(model, torch.rand(most, *spec.shape, device=device), loss, candidates),
            count,
            "the timing of number formats",
        )


def _fastest(model: nn.Module, batch: torch.Tensor, loss: TrialLoss, candidates: Sequence[Precision]) -> Precision:
    best, best_time = candidates[0], float("inf")
    for candidate in candidates:
        try:
            elapsed = _time_step(_stepper(model, batch, candidate, loss), hopeless=HOPELESS * best_time)
        except (RuntimeError, ValueError) as error:  # ValueError: BatchNorm on a single value per channel
            if candidate == candidates[0]:
                if is_out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())[:200]
                raise TrainingError(
                    f"the model cannot train on {len(batch)} images of {batch.shape[-1]} px ({reason}): "
                    "choose a larger batch_size or image_size."
                ) from error
            continue  # an operation of the model that this device lacks in bf16
        if elapsed < MARGIN * best_time:
            best, best_time = candidate, elapsed
    return best


def warm_up(
    model: nn.Module,
    precision: Precision,
    *,
    spec: InputSpec,
    batch_size: int,
    device: torch.device,
    task: Task | None = None,
) -> None:
    """Take a step with a copy of the model, so that the first run that is timed does not pay for a cold start."""

    loss, _ = _trial_of(task)

    def step(most: int) -> None:
        batch = torch.rand(most, *spec.shape, device=device)
        _time_step(_stepper(model, batch, precision, loss), repeats=1)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        Portions().do(step, min(batch_size, TIMED), "a first step")


def _stepper(model: nn.Module, batch: torch.Tensor, precision: Precision, loss: TrialLoss) -> Callable[[], None]:
    """A function that runs one forward and backward pass of a copy of the model."""
    device = batch.device
    trial = copy_model(model).to(device).to(memory_format=precision.memory_format).train()
    for parameter in trial.parameters():  # TorchScript modules have no requires_grad_
        parameter.requires_grad_(True)
    images = batch.to(memory_format=precision.memory_format)

    def step() -> None:
        with precision.autocast(device):
            value = loss(trial, images)
        value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def _time_step(step: Callable[[], None], repeats: int = 3, hopeless: float = math.inf) -> float:
    """Median seconds of a step, after one that is not counted, unless that alone is hopeless."""
    first = _seconds(step)
    return first if first > hopeless else statistics.median(_seconds(step) for _ in range(repeats))


def _seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
