"""Back to the beginning of the epoch with half the rates, where a number was not finite.

Not to the newest checkpoint: when that was written depends on a clock and on interruptions, and a run that is resumed
would go back to another step than one that was not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import NotFiniteError, RunError
from .checkpoint import Checkpoint, Position, epoch_start, remove_after, write_checkpoint
from .run_context import RunContext

MOST = 5  # times in one epoch: the rates are then a 32nd of what they were
CUT = 0.5


def roll_back(context: RunContext, failed: Position, error: NotFiniteError) -> Checkpoint:
    """The state at the beginning of the epoch, with half the rates; it is the newest checkpoint then.

    All processes call this together. Killed in the middle, the run fails at the same step again and comes here anew.

    Args:
        context: of the training.
        failed: the position before the step that failed.
        error: how it failed.

    Raises:
        NotFiniteError: the recipe does not want this, or it was done too often.
        RunError: there is no such checkpoint that can be read, or none can be written.
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
    """Read it in every process; where one cannot, all stop."""
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
    """What is newer goes first: a checkpoint with the old rates must not be resumed from."""
    remove_after(folder, back.position.global_step)
    write_checkpoint(folder, back)
