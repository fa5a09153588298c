"""The training loop: phases, epochs, steps.

Everything that is random in a step is a function of (seed, step), and everything that moves is in the state that a
checkpoint holds, so that a resumed training ends with the same bits as one that was not interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..config import Preprocessing
from ..data import Batch, Dataset, build_transform, make_loader, mix_batch
from ..errors import DataError, TrainingError
from .checkpoint import (
    Checkpoint,
    Position,
    optimizer_tensors,
    parameter_names,
    restore_optimizer_,
    write_checkpoint,
)
from .distributed import World
from .evaluate import Evaluation, evaluate
from .interrupts import Interrupts
from .optimizers import Plateau, build_optimizer, rate_factor, set_rates_
from .phases import apply_phase_, dissect, parameter_groups, set_modes_
from .precision import Precision
from .progress import Progress
from .recipe import Phase, Recipe


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


class Trainer:
    """Trains one model through all phases of a recipe."""

    def __init__(
        self, model: nn.Module, job: Job, progress: Progress, on_epoch: Callable[[list[dict[str, Any]]], None]
    ):
        self.model = model.to(job.device).to(memory_format=job.precision.memory_format)
        self.job = job
        self.progress = progress
        self.on_epoch = on_epoch
        self.position = Position()
        self.ema = _average(self.model, job.recipe)
        self.best: dict[str, Tensor] = {}
        size = job.preprocessing.image_size
        self.anatomy = dissect(self.model, (3, size, size))
        self.transform = build_transform(
            job.recipe.augment, job.preprocessing, train=True, mirror=job.dataset.mirrorable
        )
        self.steps_per_epoch = steps_per_epoch(job)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=job.recipe.label_smoothing)
        self._saved_at = time.monotonic()
        self._pending: dict[str, Tensor] = {}

    @property
    def evaluated(self) -> nn.Module:
        """The weights that count: the average where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def train(self) -> None:
        """Train from the present position to the end, saving on the way.

        Raises:
            TrainingError: the loss is not finite; the last good state is saved.
            KeyboardInterrupt: asked to stop; the state is saved.
        """
        total = self.steps_per_epoch * self.job.recipe.epochs
        self.progress.start("training", total, self.position.global_step)
        with Interrupts() as interrupts:
            while self.position.phase < len(self.job.recipe.phases) and not self.position.stopped:
                self._train_phase(self.job.recipe.phases[self.position.phase], interrupts)
        if self.best:
            self.evaluated.load_state_dict(self.best)
        self.progress.stop()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint."""
        self.position = checkpoint.position
        self.model.load_state_dict(checkpoint.part("model"))
        if self.ema is not None:
            self.ema.load_state_dict(checkpoint.part("ema"))
        self.best = checkpoint.part("best")
        self._pending = checkpoint.part("optimizer")

    def _train_phase(self, phase: Phase, interrupts: Interrupts) -> None:
        apply_phase_(self.model, self.anatomy, phase)
        optimizer = build_optimizer(
            self.model, parameter_groups(self.model, self.anatomy, phase, self.job.recipe), self.job.recipe
        )
        if self._pending:
            restore_optimizer_(optimizer, parameter_names(self.model, optimizer), self._pending)
            self._pending = {}
        parallel = self.job.world.wrap(self.model, self.job.device)
        while self.position.epoch < phase.epochs and not self.position.stopped:
            self._train_epoch(phase, parallel, optimizer, interrupts)
        self._next_phase()

    def _train_epoch(
        self, phase: Phase, parallel: nn.Module, optimizer: torch.optim.Optimizer, interrupts: Interrupts
    ) -> None:
        set_modes_(self.model)
        lr = 0.0
        start = time.perf_counter()
        for batch in self._batches():
            lr = set_rates_(optimizer, rate_factor(phase, self._progress_in(phase)) * self.position.drop)
            self._step(parallel, optimizer, batch)
            start = self._count_time(start)
            if self._must_stop(interrupts):
                self._save(optimizer)
                raise KeyboardInterrupt
            if self.position.step < self.steps_per_epoch and self._save_is_due():
                self._save(optimizer)
                start = time.perf_counter()
        self._end_epoch(phase, lr)
        self._save(optimizer)
        self.on_epoch(self.position.history)

    def _batches(self) -> Any:
        job = self.job
        return make_loader(
            job.dataset.train,
            self.transform,
            batch_size=min(job.recipe.batch_size, len(job.dataset.train)),
            seed=job.seed,
            epoch=self.position.epochs_done,
            shuffle=True,
            drop_last=True,
            workers=job.workers,
            first_batch=self.position.step,
            rank=job.world.rank,
            world_size=job.world.size,
            pin_memory=job.device.type == "cuda",
        )

    def _step(self, parallel: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
        """One optimiser step on one batch."""
        job, step_seed = self.job, (self.job.seed << 40) + self.position.global_step
        torch.manual_seed(step_seed)  # dropout and stochastic depth
        images, targets = self._inputs(batch, step_seed)
        with job.precision.autocast(job.device):
            logits = parallel(images)
        loss = self.criterion(logits.float(), targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(self._not_finite(batch, value))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if job.recipe.clip_norm:
            nn.utils.clip_grad_norm_((p for p in self.model.parameters() if p.requires_grad), job.recipe.clip_norm)
        optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self._count(batch, logits.detach(), value)

    def _inputs(self, batch: Batch, step_seed: int) -> tuple[Tensor, Tensor]:
        recipe, device = self.job.recipe, self.job.device
        images = batch.images.to(device, memory_format=self.job.precision.memory_format, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True)
        if not (recipe.mixup or recipe.cutmix):
            return images, labels
        classes = len(self.job.dataset.classes)
        return mix_batch(images, labels, num_classes=classes, mixup=recipe.mixup, cutmix=recipe.cutmix, seed=step_seed)

    def _count(self, batch: Batch, logits: Tensor, loss: float) -> None:
        at, size = self.position, len(batch.labels)
        at.loss_sum += loss * size
        at.correct += int((logits.argmax(1).cpu() == batch.labels).sum())
        at.seen += size
        at.step += 1
        at.global_step += 1
        self.progress.advance()
        self.progress.note({"epoch": at.epochs_done + 1, "loss": at.loss_sum / at.seen, "top1": at.correct / at.seen})

    def _count_time(self, start: float) -> float:
        now = time.perf_counter()
        self.position.time_s += now - start
        self.position.epoch_time_s += now - start
        return now

    def _end_epoch(self, phase: Phase, lr: float) -> None:
        at = self.position
        row = {
            "epoch": at.epochs_done + 1,
            "phase": phase.name,
            **self._training_numbers(),
            **self._evaluation_numbers(),
            "lr": lr,
            "time_s": round(at.epoch_time_s, 3),
            "images_per_s": round(at.seen * self.job.world.size / max(at.epoch_time_s, 1e-9), 1),
        }
        at.history.append(row)
        at.epoch, at.epochs_done = at.epoch + 1, at.epochs_done + 1
        at.step, at.loss_sum, at.correct, at.seen, at.epoch_time_s = 0, 0.0, 0, 0, 0.0

    def _training_numbers(self) -> dict[str, float]:
        parts = self.job.world.gather((self.position.loss_sum, self.position.correct, self.position.seen))
        loss_sum, correct, seen = (sum(part[i] for part in parts) for i in range(3))
        return {"train_loss": loss_sum / seen, "train_top1": correct / seen}

    def _evaluation_numbers(self) -> dict[str, Any]:
        """Measure the model, and let the validation loss decide where the recipe says so."""
        split = "val" if self.job.dataset.val is not None else "test"
        if not (self.job.curve or self.job.recipe.needs_validation):
            return {}
        measured = self._evaluate(split)
        if self.job.recipe.needs_validation:
            self._decide(measured.loss)
        return {"eval_split": split, "eval_loss": measured.loss, "eval_top1": measured.top1}

    def _evaluate(self, split: str) -> Evaluation:
        job = self.job
        return evaluate(
            self.evaluated,
            getattr(job.dataset, split),
            job.preprocessing,
            batch_size=max(64, job.recipe.batch_size),
            precision=job.precision,
            device=job.device,
            workers=job.workers,
            world=job.world,
        )

    def _decide(self, loss: float) -> None:
        at, recipe = self.position, self.job.recipe
        phase = recipe.phases[at.phase]
        if recipe.select == "best" and loss < at.patience[0]:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.evaluated.state_dict().items()}
        rate = Plateau(phase.patience if phase.schedule == "plateau" else 0)
        rate.restore(at.plateau)
        if rate.update(loss):
            at.drop *= phase.gamma
        stopper = Plateau(recipe.early_stopping)
        stopper.restore(at.patience)
        at.stopped = stopper.update(loss)
        at.plateau, at.patience = rate.state, stopper.state

    def _next_phase(self) -> None:
        fresh = Position()
        self.position = replace(
            self.position, phase=self.position.phase + 1, epoch=0, drop=fresh.drop, plateau=fresh.plateau
        )

    def _progress_in(self, phase: Phase) -> float:
        return (self.position.epoch * self.steps_per_epoch + self.position.step) / (phase.epochs * self.steps_per_epoch)

    def _must_stop(self, interrupts: Interrupts) -> bool:
        """Whether any process was asked to stop; all of them stop at the same step."""
        return any(self.job.world.gather(interrupts.requested))

    def _save_is_due(self) -> bool:
        due = time.monotonic() - self._saved_at > 60 * self.job.checkpoint_minutes
        return bool(self.job.world.share(due))

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint from the main process."""
        self._saved_at = time.monotonic()
        if self.job.world.is_main:
            write_checkpoint(self.job.checkpoints, self._state(optimizer))
        self.job.world.wait()

    def _state(self, optimizer: torch.optim.Optimizer) -> Checkpoint:
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema/{name}": tensor for name, tensor in self.ema.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        tensors |= optimizer_tensors(optimizer, parameter_names(self.model, optimizer))
        return Checkpoint(self.position, tensors)

    def _not_finite(self, batch: Batch, loss: float) -> str:
        files = [self.job.dataset.train.ids[int(index)] for index in batch.indices]
        shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
        return (
            f"the loss is {loss} at step {self.position.global_step + 1} (epoch {self.position.epochs_done + 1}), "
            f"on the images {shown}: lower the learning rate (lr_scale), clip gradients (clip_norm) or look at these files; "
            "the weights from before this step are kept."
        )


def steps_per_epoch(job: Job) -> int:
    """Optimiser steps in an epoch; the last images of an epoch that fill no batch wait for the next one.

    Raises:
        DataError: fewer training images than processes.
    """
    count = len(job.dataset.train)
    if count < job.world.size:
        raise DataError(f"{count} training images for {job.world.size} processes: start fewer processes.")
    return max(1, count // job.recipe.batch_size)


def _average(model: nn.Module, recipe: Recipe) -> AveragedModel | None:
    if not recipe.ema_decay:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
