"""The training loop: phases, epochs, and what is kept and decided on the way.

Everything that moves is in the state that a checkpoint holds, and what is random depends on the position alone, so
that a resumed training ends with the same bits as one that was not interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..data import Loader, build_transform, make_loader
from ..errors import AttngraftError, RunError
from .checkpoint import (
    Checkpoint,
    Position,
    optimizer_tensors,
    parameter_names,
    restore_optimizer_,
    write_checkpoint,
)
from .dynamic import possible, strengthen_
from .evaluate import Evaluation, evaluate
from .gate_record import record_gates
from .interrupts import Interrupts
from .job import Job
from .optimizers import Plateau, build_optimizer, rate_factor, set_rates_
from .phases import apply_phase_, dissect, moving_norms, parameter_groups, set_modes_
from .progress import Progress
from .recipe import Phase, Recipe
from .step import StepNumbers, Stepper

Rows = Sequence[Mapping[str, Any]]
ShouldStop = Callable[[Rows], bool]


class Trainer:
    """Trains one model through all phases of a recipe.

    Args:
        model: what is trained.
        job: how.
        progress: where to show it.
        write: gets the rows so far after every epoch, when its state is saved.
        should_stop: gets them before that, in the main process; True ends the training.
    """

    def __init__(
        self,
        model: nn.Module,
        job: Job,
        progress: Progress,
        write: Callable[[Rows], None],
        should_stop: ShouldStop | None = None,
    ):
        self.model = model.to(job.device).to(memory_format=job.precision.memory_format)
        self.job = job
        self.progress = progress
        self.write = write
        self.should_stop = should_stop
        self.position = Position()
        self.ema = _average(self.model, job.recipe)
        self.best: dict[str, Tensor] = {}
        size = job.preprocessing.image_size
        self.anatomy = dissect(self.model, (3, size, size))
        self.transform = build_transform(
            job.recipe.augment, job.preprocessing, train=True, mirror=job.dataset.mirrorable
        )
        self.steps_per_epoch = job.steps_per_epoch
        self.stepper = Stepper(self.model, job, self.ema)
        self.dynamic = possible(job.recipe.dynamic, self.model)
        self._saved_at = time.monotonic()
        self._pending: dict[str, Tensor] = {}

    @property
    def evaluated(self) -> nn.Module:
        """The weights that count: the average where there is one."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def stopped_after_epochs(self) -> int | None:
        """Epochs trained, where that is fewer than the recipe has."""
        done = self.position.epochs_done
        return done if self.position.stopped and done < self.job.recipe.epochs else None

    def train(self) -> None:
        """Train from the present position to the end, saving on the way.

        Raises:
            TrainingError: the loss, the gradient or a weight is not finite.
            KeyboardInterrupt: asked to stop; the state is saved.
        """
        total = self.steps_per_epoch * self.job.recipe.epochs
        self.progress.start("training", total, self.position.global_step)
        devices = [self.job.device] if self.job.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), Interrupts() as interrupts:
            while self.position.phase < len(self.job.recipe.phases) and not self.position.stopped:
                self._train_phase(self.job.recipe.phases[self.position.phase], interrupts)
        if self.best:
            self.evaluated.load_state_dict(self.best)
        self.job.world.align_buffers_(self.evaluated)
        self.progress.stop()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            RunError: it is the state of another model.
        """
        self.position = checkpoint.position
        try:
            self.model.load_state_dict(checkpoint.part("model"))
            if self.ema is not None:
                self.ema.load_state_dict(checkpoint.part("ema"))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise RunError(f"the checkpoint in {self.job.checkpoints} is of another model ({reason}).") from error
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
        optimizer.zero_grad(set_to_none=True)  # what the next phase freezes would keep its gradients in memory
        self._next_phase()

    def _train_epoch(
        self, phase: Phase, parallel: nn.Module, optimizer: torch.optim.Optimizer, interrupts: Interrupts
    ) -> None:
        set_modes_(self.model, moving_norms(self.anatomy, phase))
        start = time.perf_counter()
        for batch in self._batches():
            self._set_rates(optimizer, phase, self.position.step)
            self._count(self.stepper.step(parallel, optimizer, batch, self.position))
            start = self._count_time(start)
            if self._must_stop(interrupts):
                self._save(optimizer)
                raise KeyboardInterrupt
            if self._save_is_due():
                self._save(optimizer)
                start = time.perf_counter()
        # not the last step's own rate: a training that was stopped just before the evaluation took no step here
        self._end_epoch(phase, lr=self._set_rates(optimizer, phase, self.position.step - 1))
        try:
            self._ask_whether_to_stop()
        finally:
            self._pace_grafts(phase)
            self._save(optimizer)
            self.write(self.position.history)
        if self._must_stop(interrupts):
            raise KeyboardInterrupt

    def _batches(self) -> Loader:
        job = self.job
        return make_loader(
            job.dataset.train,
            self.transform,
            batch_size=job.batch_size,
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

    def _count(self, taken: StepNumbers) -> None:
        at = self.position
        at.loss_sum += taken.loss * taken.images
        at.correct += taken.correct
        at.seen += taken.images
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
            **self._evaluation_numbers(phase),
            "lr": lr,
            "time_s": round(at.epoch_time_s, 3),
            "images_per_s": round(at.seen * self.job.world.size / max(at.epoch_time_s, 1e-9), 1),
        }
        if self._is_paced(phase):
            at.pace = at.pace.seen(row["eval_loss"] if row.get("eval_split") == "val" else row["train_loss"])
            row["dynamic"] = at.pace.to_row()
        at.history.append(row)
        at.epoch, at.epochs_done = at.epoch + 1, at.epochs_done + 1
        at.step, at.loss_sum, at.correct, at.seen, at.epoch_time_s = 0, 0.0, 0, 0, 0.0

    def _training_numbers(self) -> dict[str, float]:
        parts = self.job.world.gather((self.position.loss_sum, self.position.correct, self.position.seen))
        loss_sum, correct, seen = (sum(part[i] for part in parts) for i in range(3))
        return {"train_loss": loss_sum / seen, "train_top1": correct / seen}

    def _evaluation_numbers(self, phase: Phase) -> dict[str, Any]:
        """Measure the model, and let the validation loss decide where the recipe says so."""
        split = "val" if self.job.dataset.val is not None else "test"
        is_followed = split == "val" and self._is_paced(phase)
        if not (self.job.curve or self.job.recipe.needs_validation or is_followed):
            return {}
        measured = self._evaluate(split)
        if self.job.recipe.needs_validation:
            self._decide(measured.loss)
        return {
            "eval_split": split,
            "eval_loss": measured.loss,
            "eval_top1": measured.top1,
            **self._gate_numbers(split),
        }

    def _gate_numbers(self, split: str) -> dict[str, Any]:
        """After an evaluation, when all processes have the same buffers."""
        job = self.job
        if not job.curve:
            return {}
        found = record_gates(
            self.evaluated,
            getattr(job.dataset, split),
            job.preprocessing,
            memory_format=job.precision.memory_format,
            device=job.device,
        )
        return {"gates": found} if found else {}

    def _evaluate(self, split: str) -> Evaluation:
        job = self.job
        job.world.align_buffers_(self.evaluated)
        return evaluate(
            self.evaluated,
            getattr(job.dataset, split),
            job.preprocessing,
            batch_size=job.evaluation_batch_size,
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

    def _ask_whether_to_stop(self) -> None:
        """Let `should_stop` look at the rows, before the state is saved, so that its answer is part of the state."""
        if self.should_stop is None:
            return
        stop, failure = False, None
        if self.job.world.is_main:
            try:
                stop = bool(self.should_stop(tuple(self.position.history)))
            except Exception as error:  # to be raised once the other processes know
                failure = error
        stop, failed = self.job.world.share((stop, failure is not None))
        self.position.stopped = self.position.stopped or stop
        if failure is not None:
            raise failure
        if failed:
            raise RunError("on_epoch failed in the main process: see its error.")

    def _is_paced(self, phase: Phase) -> bool:
        """Whether the trend of the loss acts on the grafts in this phase: not on frozen ones."""
        return self.dynamic != "off" and not {"grafts", "all"}.isdisjoint(phase.train)

    def _pace_grafts(self, phase: Phase) -> None:
        """Let the trend of the loss change how the grafts go on; what is measured at the end of a phase stays."""
        at = self.position
        if at.stopped or at.epoch == phase.epochs or not self._is_paced(phase):
            return
        before, at.pace = at.pace.strength, at.pace.adjusted(self.dynamic)
        for model in (self.model, self.ema.module) if self.ema is not None else (self.model,):
            strengthen_(model, at.pace.strength / before)

    def _next_phase(self) -> None:
        fresh, at = Position(), self.position
        self.position = replace(
            at,
            phase=at.phase + 1,
            epoch=0,
            drop=fresh.drop,
            plateau=fresh.plateau,
            pace=at.pace.in_next_phase(),
        )

    def _set_rates(self, optimizer: torch.optim.Optimizer, phase: Phase, step: int) -> float:
        return set_rates_(optimizer, self._rate_at(phase, step), self.position.pace.rate)

    def _rate_at(self, phase: Phase, step: int) -> float:
        """Part of the highest rates that is in force at a step of the present epoch."""
        total = phase.epochs * self.steps_per_epoch
        progress = (self.position.epoch * self.steps_per_epoch + step) / total
        return rate_factor(phase, progress, 1 / total) * self.position.drop

    def _must_stop(self, interrupts: Interrupts) -> bool:
        """Whether any process was asked to stop; all of them stop at the same step."""
        return self.job.world.any(interrupts.requested)

    def _save_is_due(self) -> bool:
        return self.job.world.any(time.monotonic() - self._saved_at > 60 * self.job.checkpoint_minutes)

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint from the main process; where it cannot, all processes stop."""
        self._saved_at = time.monotonic()
        problem = None
        if self.job.world.is_main:
            try:
                write_checkpoint(self.job.checkpoints, self._state(optimizer))
            except AttngraftError as error:
                problem = error
        problem = self.job.world.share(problem)
        if problem is not None:
            raise problem

    def _state(self, optimizer: torch.optim.Optimizer) -> Checkpoint:
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema/{name}": tensor for name, tensor in self.ema.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        tensors |= optimizer_tensors(optimizer, parameter_names(self.model, optimizer))
        return Checkpoint(self.position, tensors)


def _average(model: nn.Module, recipe: Recipe) -> AveragedModel | None:
    if not recipe.ema_decay:
        return None
    move = get_ema_multi_avg_fn(recipe.ema_decay)

    def update(averages: Any, values: Any, count: Any) -> None:
        if averages[0].is_floating_point():
            move(averages, values, count)
            return
        for average, value in zip(averages, values, strict=True):  # BatchNorm counts batches: an average would be cut
            average.copy_(value)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
