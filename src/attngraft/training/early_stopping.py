"""What the end of an epoch decides: lower rates, an early end, and whether somebody who looks on has seen enough."""

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
    """Let the validation loss move the rate and the patience of a position; whether it is the lowest so far."""
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
    """Let the main process ask who looks at the rows, before the state is saved, so that the answer is part of it.

    Returns:
        the error of who was asked, to be raised when the state is saved and the other processes know.
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
