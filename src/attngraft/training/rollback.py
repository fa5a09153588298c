"""Restart an epoch with half the learning rates after a number was not finite.

The newest checkpoint would not do: when it was written depends on a clock and on interruptions, so a resumed run would
go back to another step than one that was never interrupted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import NotFiniteError, RunError
from .checkpoint import Checkpoint, Position, epoch_start, remove_after, write_checkpoint
from .run_context import RunContext

MOST = 5  # rollbacks per epoch: the rates are then 1/32 of what they were
CUT = 0.5


def roll_back(context: RunContext, failed: Position, error: NotFiniteError) -> Checkpoint:
    """Make the beginning of the epoch, with half the learning rates, the newest checkpoint, and return it.

    All processes call this together. If it is killed, the resumed run fails at the same step and comes here again.

    Args:
        context: of the training.
        failed: the position before the step that failed.
        error: how it failed.

    Raises:
        NotFiniteError: the recipe says to stop, or this epoch was restarted too often.
        RunError: the checkpoint cannot be read, or the new one cannot be written.
    """
    if context.recipe.on_nonfinite == "stop":
        raise error
    start = _read(context)
    if start.position.rollbacks == MOST:
        raise NotFiniteError(
            f"{str(error).rstrip('.')} (the rates were halved {MOST} times in this epoch, which did not help)"
        )
    position = replace(
        start.position,
        lr_cut=start.position.lr_cut * CUT,
        rollbacks=start.position.rollbacks + 1,
        parts=max(start.position.parts, failed.parts),
        evaluation_parts=max(start.position.evaluation_parts, failed.evaluation_parts),
    )
    back = Checkpoint(position, start.tensors)
    context.world.in_main(lambda: _write(context.checkpoints, back))
    context.note(
        f"{str(error).rstrip('.')}; training went back to step {position.global_step}, the beginning of epoch "
        f"{position.epochs_done + 1}, with all rates at {position.lr_cut:g} of the recipe's."
    )
    return back


def _read(context: RunContext) -> Checkpoint:
    """Read the checkpoint in every process; if one fails, all raise."""
    found: Checkpoint | None = None
    problem: RunError | None = None
    try:
        found = epoch_start(context.checkpoints)
    except RunError as error:
        problem = error
    problems = [one for one in context.world.gather(problem) if one is not None]
    if problems:
        raise problems[0]
    assert found is not None
    return found


def _write(folder: Path, back: Checkpoint) -> None:
    """Remove newer checkpoints first: a resume must not start from one with the old rates."""
    remove_after(folder, back.position.global_step)
    write_checkpoint(folder, back)
