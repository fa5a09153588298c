"""Decisions after an epoch: plateau schedule, early stopping, `on_epoch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import RunError
from ..interrupts import Stopped
from ..settings.recipe import Recipe
from .checkpoint import Position
from .distributed import World
from .optimizers import Plateau

Rows = Sequence[Mapping[str, Any]]
ShouldStop = Callable[[Rows], bool]


def decide_(at: Position, recipe: Recipe, loss: float) -> bool:
    """Update learning rate and patience of a position by the validation loss; True if it is the lowest so far."""
    phase, is_best = recipe.phases[at.phase], loss < at.patience[0]
    rate = Plateau(phase.patience if phase.schedule == "plateau" else 0)
    rate.restore(at.plateau)
    if rate.update(loss):
        at.drop *= phase.gamma
    stopper = Plateau(recipe.early_stopping)
    stopper.restore(at.patience)
    at.stopped = stopper.update(loss)
    at.plateau, at.patience = rate.state, stopper.state
    return is_best


def ask_(at: Position, should_stop: ShouldStop | None, world: World) -> BaseException | None:
    """Call `should_stop` in the main process, before the checkpoint is written, so that its decision is saved.

    Returns:
        its error, for the caller to raise after the checkpoint is written and the other processes know.
    """
    if should_stop is None:
        return None
    stop, failure = False, None
    if world.is_main:
        try:
            stop = bool(should_stop(tuple(at.history)))
        except Stopped:
            raise
        except BaseException as error:
            failure = error
    stop, failed = world.share((stop, failure is not None))
    at.stopped = at.stopped or stop
    if failed and failure is None:
        return RunError("on_epoch failed in the main process: see its error.")
    return failure
