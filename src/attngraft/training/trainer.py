"""The training loop: phases, epochs, steps, evaluations and checkpoints.

A checkpoint holds all state that changes, and random numbers depend only on the position, so a resumed training ends
with the same bits as an uninterrupted one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Loader, build_transform, make_loader
from ..errors import (
    LoaderError,
    NotFiniteError,
    PeerError,
    RunError,
)
from ..interrupts import Interrupts, Stopped, signals_heard_in_backward
from ..settings.recipe import Phase, with_found_lr
from ..surgery.state_versions import with_versions
from ..tasks import primary
from .checkpoint import (
    Checkpoint,
    Position,
    optimizer_tensors,
    parameter_names,
    restore_optimizer_,
    write_checkpoint,
)
from .dynamic_attention import possible, strengthen_
from .early_stopping import (
    Rows,
    ShouldStop,
    ask_,
    decide_,
)
from .epoch_line import epoch_line
from .lr_finder import find_lr
from .optimizers import build_optimizer, moving_average, rate_factor, rates_at, set_rates_
from .pace import Pace
from .phases import apply_modes_, apply_phase_, dissect, parameter_groups
from .preparation import prepare_
from .progress import Progress, doing, left_for_all
from .rollback import roll_back
from .run_context import RunContext
from .step import StepNumbers, Stepper
from .validation import Validator
from .weight_distance import Projections, distances, project

log = logging.getLogger(__name__)


class _EveryProcessStops(Exception):  # noqa: N818
    """A process got a signal, and all processes stop at the same point."""


class Trainer:
    """Trains one model through all phases of a recipe.

    Args:
        model: to train, in place.
        context: of the training.
        progress: shows steps.
        write: called after every epoch, when its checkpoint is written, with the rows so far.
        should_stop: called before that, in the main process, with the same rows; True ends the training.
    """

    def __init__(
        self,
        model: nn.Module,
        context: RunContext,
        progress: Progress,
        write: Callable[[Rows], None],
        should_stop: ShouldStop | None = None,
    ):
        self.model = model.to(context.device).to(memory_format=context.precision.memory_format)
        self.context = context
        self.progress = progress
        self.write = write
        self.should_stop = should_stop
        self.position = Position()
        self.ema = moving_average(self.model, context.recipe.ema_decay)
        self.best: dict[str, Tensor] = {}
        self.start: Projections = {}
        self.anatomy = context.anatomy or dissect(self.model, context.preprocessing.input.shape)
        self.transform = build_transform(
            context.recipe.augment,
            context.preprocessing,
            train=True,
            mirror=context.dataset.mirrorable,
            cutout=context.recipe.cutout,
        )
        self.steps_per_epoch = context.steps_per_epoch
        self.stepper = Stepper(self.model, context, self.ema)
        self.dynamic = possible(context.recipe.dynamic, self.model)
        self.validator = Validator(context, self._stop_if_asked)
        self.interrupts = Interrupts()
        self._saved_at = time.monotonic()
        self._pace = Pace(0)
        self._pending: dict[str, Tensor] = {}

    @property
    def evaluated(self) -> nn.Module:
        """The model to evaluate and save: the moving average if the recipe has one."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def stopped_after_epochs(self) -> int | None:
        """Epochs trained, if fewer than the recipe has."""
        done = self.position.epochs_done
        return done if self.position.stopped and done < self.context.recipe.epochs else None

    def train(self) -> None:
        """Train from the present position to the end, saving on the way.

        Raises:
            NotFiniteError: the loss, the gradient or a weight is not finite, and the recipe says to stop or the epoch was
                restarted too often.
            TrainingError: out of memory.
            PeerError: another process has ended or hangs; the main process has saved the state.
            KeyboardInterrupt: stopped by a signal; the state is saved.
        """
        self.context.world.wait()  # processes may load their images at different speeds
        with self.interrupts:
            self._train()

    def _train(self) -> None:
        total = self.steps_per_epoch * self.context.recipe.epochs
        self._start(total)
        devices = [self.context.device] if self.context.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), signals_heard_in_backward(self.model):
            self._prepare()
            while self.position.phase < len(self.context.recipe.phases) and not self.position.stopped:
                try:
                    self._train_phase(self.context.recipe.phases[self.position.phase])
                    self._prepare()
                except NotFiniteError as error:
                    self.restore(roll_back(self.context, self.position, error))
                    self._start(total)
        if self.best:
            self.evaluated.load_state_dict(with_versions(self.evaluated, self.best))
        self.context.world.align_buffers_(self.evaluated)
        self.progress.stop()

    def _start(self, total: int) -> None:
        self.progress.start("training", total, self.position.global_step)
        self._pace = Pace(total, self.position.global_step)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            RunError: the checkpoint is of another model.
        """
        self.position = checkpoint.position
        try:
            self.model.load_state_dict(with_versions(self.model, checkpoint.part("model")))
            if self.ema is not None:
                self.ema.load_state_dict(with_versions(self.ema, checkpoint.part("ema")))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise RunError(f"the checkpoint in {self.context.checkpoints} is of another model ({reason}).") from error
        self._take_found_lr()
        self.best = checkpoint.part("best")
        self.start = {part: sums.clone() for part, sums in checkpoint.part("start").items()}  # not the open file
        self._pending = checkpoint.part("optimizer")
        self.validator.portions.parts = self.position.evaluation_parts
        self.stepper.is_midway = False

    def _prepare(self) -> None:
        """Do what comes before the first step of the present phase, once; the outcome is saved."""
        at = self.position
        if at.new_norms is None:
            at.new_norms = self.anatomy.new_norms
        self.anatomy = replace(self.anatomy, new_norms=at.new_norms)
        if at.prepared > at.phase:
            return
        try:
            with self.interrupts.breakable():
                done = prepare_(
                    self.model,
                    self.anatomy,
                    self.context,
                    at.phase,
                    progress=self.progress,
                    before_batch=self._stop_if_asked,
                )
                found = self._found_lr()
        except _EveryProcessStops:
            raise self.interrupts.stopped() from None
        if done and self.ema is not None:
            self.ema.module.load_state_dict(self.model.state_dict())
        at.prepared = at.phase + 1
        if at.phase == 0 and self.context.recipe.phases:
            self.start = project(self.model, self.anatomy)
        done += found
        if not done:
            return
        at.preparation = [*at.preparation, *done]
        for sentence in done if self.context.world.is_main else []:
            log.info(sentence)
        self._save(None)

    def _found_lr(self) -> list[str]:
        """Find the learning rate before the first step, where the recipe asks for it; a sentence on it."""
        at, recipe = self.position, self.context.recipe
        if not recipe.find_lr or at.phase > 0 or not recipe.phases:
            return []
        at.found_lr = find_lr(
            self.model,
            self.anatomy,
            self.context,
            lambda epoch: self._batches(epoch, 0),
            progress=self.progress,
            before_batch=self._stop_if_asked,
        )
        self._take_found_lr()
        return [f"lr = {at.found_lr:g} was found by a range test on training images."]

    def _take_found_lr(self) -> None:
        if self.position.found_lr is not None:
            settings = self.context.settings
            recipe = with_found_lr(settings.recipe, self.position.found_lr)
            self.context = replace(self.context, settings=replace(settings, recipe=recipe))

    def _train_phase(self, phase: Phase) -> None:
        apply_phase_(self.model, self.anatomy, phase, self.context.recipe.batchnorm)
        optimizer = build_optimizer(
            self.model, parameter_groups(self.model, self.anatomy, phase, self.context.recipe), self.context.recipe
        )
        if self._pending:
            restore_optimizer_(optimizer, parameter_names(self.model, optimizer), self._pending)
            self._pending = {}
        self.stepper.begin_phase()
        while self.position.epoch < phase.epochs and not self.position.stopped:
            self._train_epoch(phase, optimizer)
        optimizer.zero_grad(set_to_none=True)  # parameters that the next phase freezes would keep theirs in memory
        self._next_phase()

    def _train_epoch(self, phase: Phase, optimizer: torch.optim.Optimizer) -> None:
        apply_modes_(self.model, self.anatomy, phase, self.context.recipe.batchnorm)
        if self.position.global_step == 0 and self.context.recipe.on_nonfinite == "rollback":
            self._save(optimizer)  # so that the first epoch can be restarted too
        highest_lr = self._highest_rate(optimizer, phase)
        with self._saved_where_stopped(optimizer):
            self._take_steps(phase, optimizer)
            # not the last step's own rate: a training that was stopped just before the evaluation took no step here
            problem = self._close_epoch(phase, lr=self._set_rates(optimizer, phase, self.position.step - 1))
        self._pace_grafts(phase)
        self._save(optimizer)
        self.write(self.position.history)
        self._tell(highest_lr)
        if problem is not None:
            raise problem
        if self._must_stop():
            raise self.interrupts.stopped()

    @contextmanager
    def _saved_where_stopped(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """If training stops within the block, save the state after the last complete step."""
        try:
            yield
        except _EveryProcessStops:
            self._save(optimizer)
            raise self.interrupts.stopped() from None
        except (Stopped, PeerError, LoaderError):
            self._save_alone(optimizer)
            if self.interrupts.requested:  # the signal has ended the loader's workers too
                raise self.interrupts.stopped() from None
            raise

    def _take_steps(self, phase: Phase, optimizer: torch.optim.Optimizer) -> None:
        """Take the remaining steps of the epoch."""
        start = time.perf_counter()
        with closing(iter(self._batches(self.position.epochs_done, self.position.step))) as batches:
            while True:
                with self.interrupts.breakable():
                    doing(self.progress, "reading images")
                    batch = next(batches, None)
                    if batch is None:
                        return
                    self._set_rates(optimizer, phase, self.position.step)
                    parts = self.position.parts
                    doing(self.progress, "taking a step" if self._pace.share else "warming up, compiling kernels")
                    self._count(self.stepper.step(optimizer, batch, self.position, self.interrupts.hold))
                start = self._count_time(start)
                stops, is_due = self.context.world.any(self.interrupts.requested, self._save_is_due())
                if stops:
                    raise _EveryProcessStops
                if is_due or self.position.parts != parts:
                    self._save(optimizer)
                    start = time.perf_counter()

    def _close_epoch(self, phase: Phase, lr: float) -> BaseException | None:
        """Evaluate, decide and call `should_stop`, whose error is returned; an interruption leaves the state unchanged."""
        before, best = replace(self.position, history=[*self.position.history]), self.best
        try:
            with self.interrupts.breakable():
                self._end_epoch(phase, lr)
                return ask_(self.position, self.should_stop, self.context.world)
        except (Stopped, PeerError, LoaderError, _EveryProcessStops):
            self.position, self.best = before, best
            raise

    def _batches(self, epoch: int, first_batch: int) -> Loader:
        context = self.context
        return make_loader(
            context.dataset.train,
            self.transform,
            batch_size=context.batch_size,
            seed=context.seed,
            epoch=epoch,
            shuffle=True,
            drop_last=True,
            workers=context.workers,
            first_batch=first_batch,
            rank=context.world.rank,
            world_size=context.world.size,
            weights=context.sampling_weights,
            pin_memory=context.device.type == "cuda",
        )

    def _count(self, taken: StepNumbers) -> None:
        at = self.position
        at.loss_sum += taken.loss * taken.images
        at.score_sum += taken.score_sum
        at.seen += taken.images
        at.parts = taken.parts
        at.step += 1
        at.global_step += 1
        self.progress.advance()
        self._pace.advance()
        self.progress.note({"epoch": at.epochs_done + 1, "loss": at.loss_sum / at.seen, **self._running("")})

    def _tell(self, highest_lr: float) -> None:
        """Log the line of the epoch, in the main process."""
        if self.context.world.is_main:
            metric, left = primary(self.context.task), None if self.position.stopped else self._pace.left_s
            row, whole = self.position.history[-1], left_for_all(self.progress)
            epochs = self.context.recipe.epochs
            line = epoch_line(row, epochs=epochs, metric=metric, lr=highest_lr, left_s=left, left_for_all_s=whole)
            log.info(line)

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
            "train_loss": at.loss_sum / at.seen,
            **self._running("train_"),
            **self._evaluation_numbers(phase),
            "lr": lr,
            "time_s": round(at.epoch_time_s, 3),
            "images_per_s": round(at.seen / max(at.epoch_time_s, 1e-9), 1),
        }
        if self.start:  # not of a training that an earlier version has begun
            row["moved"] = distances(project(self.model, self.anatomy), self.start)
        if at.lr_cut != 1:
            row["lr_cut"] = at.lr_cut
        if self._is_paced(phase):
            at.pace = at.pace.seen(row["eval_loss"] if row.get("eval_split") == "val" else row["train_loss"])
            row["dynamic"] = at.pace.to_row()
        at.history.append(row)
        at.epoch, at.epochs_done = at.epoch + 1, at.epochs_done + 1
        at.step, at.loss_sum, at.score_sum, at.seen, at.epoch_time_s, at.rollbacks = 0, 0.0, 0, 0, 0.0, 0

    def _evaluation_numbers(self, phase: Phase) -> dict[str, Any]:
        """Evaluate the model, and let the validation loss decide if the recipe says so."""
        at, recipe, split = self.position, self.context.recipe, self.validator.split
        is_followed = split == "val" and self._is_paced(phase)
        if not (self.context.settings.machine.curve or recipe.needs_validation or is_followed):
            return {}
        doing(self.progress, "evaluating")
        measured = self.validator.evaluate(self.evaluated, at.global_step)
        if recipe.needs_validation and decide_(at, recipe, measured.loss) and recipe.select == "best":
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.evaluated.state_dict().items()}
        gates = self.validator.gates(self.evaluated) if self.context.settings.machine.curve else {}
        at.evaluation_parts = self.validator.portions.parts
        score = {f"eval_{primary(self.context.task).name}": measured.score}
        return {"eval_split": split, "eval_loss": measured.loss, **score, **gates}

    def _running(self, prefix: str) -> dict[str, float]:
        """The primary metric over the training images of this epoch so far, where it is a mean over them."""
        metric, at = primary(self.context.task), self.position
        return {f"{prefix}{metric.name}": at.score_sum / at.seen} if self.context.criterion.is_scored else {}

    def _is_paced(self, phase: Phase) -> bool:
        """Whether the trend of the loss acts on the grafts in this phase, which needs trainable grafts."""
        return self.dynamic != "off" and not {"grafts", "all"}.isdisjoint(phase.train)

    def _pace_grafts(self, phase: Phase) -> None:
        """Let the trend of the loss scale the grafts; not at the end of a phase, so that what was measured stays."""
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

    def _highest_rate(self, optimizer: torch.optim.Optimizer, phase: Phase) -> float:
        """Of all steps of the present epoch."""
        factor = max(self._rate_at(phase, step) for step in range(self.steps_per_epoch))
        return max(rates_at(optimizer, factor, self.position.pace.rate))

    def _rate_at(self, phase: Phase, step: int) -> float:
        """Factor on the highest learning rates at a step of the present epoch."""
        total = phase.epochs * self.steps_per_epoch
        progress = (self.position.epoch * self.steps_per_epoch + step) / total
        return rate_factor(phase, progress, 1 / total) * self.position.drop * self.position.lr_cut

    def _must_stop(self) -> bool:
        """Whether any process got a signal; all of them call this at the same point."""
        return self.context.world.any(self.interrupts.requested)[0]

    def _stop_if_asked(self) -> None:
        if self._must_stop():
            raise _EveryProcessStops

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._saved_at > 60 * self.context.settings.machine.checkpoint_minutes

    def _save(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Write a checkpoint in the main process; if that fails, all processes raise."""
        doing(self.progress, "saving")
        self._saved_at = time.monotonic()
        self.context.world.in_main(lambda: write_checkpoint(self.context.checkpoints, self._state(optimizer)))

    def _save_alone(self, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint in the main process without waiting for the others, which may have ended."""
        if self.context.world.is_main and not self.stepper.is_midway:
            write_checkpoint(self.context.checkpoints, self._state(optimizer))

    def _state(self, optimizer: torch.optim.Optimizer | None) -> Checkpoint:
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema/{name}": tensor for name, tensor in self.ema.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"start/{part}": sums for part, sums in self.start.items()}
        if optimizer is not None:
            tensors |= optimizer_tensors(optimizer, parameter_names(self.model, optimizer))
        return Checkpoint(self.position, tensors)
