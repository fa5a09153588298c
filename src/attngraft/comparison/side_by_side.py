"""Train runs of a comparison side by side, each on one thread in a fork of this process.

Small networks leave most of a second core idle; two trainings at a time use it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing import connection, get_context
from multiprocessing.context import ForkProcess

import torch

from ..errors import RunError
from ..training import Progress, RunFolder, Silent
from ..training.pace import Pace, clock_time
from .comparison_context import ComparisonContext
from .variants import Variant

log = logging.getLogger(__name__)
Run = tuple[Variant, int]


def can_train_side_by_side(context: ComparisonContext) -> bool:
    """Whether forks can train here: on CPUs, where this process trains alone, and not on macOS or Windows."""
    return sys.platform == "linux" and context.device.type == "cpu" and context.world.size == 1


def train_side_by_side(context: ComparisonContext, runs: Sequence[Run], at_once: int, progress: Progress) -> None:
    """Train runs in forks, so many at a time, until each is finished or has failed.

    A run that fails is left to the caller, who trains it again in this process and so gets its error.

    Args:
        context: of the comparison.
        runs: variants and seeds; finished ones are left out.
        at_once: how many train at a time.
        progress: gets a step for each run.

    Raises:
        KeyboardInterrupt: interrupted; the runs have saved their state.
    """
    waiting = [run for run in runs if not _is_finished(context, *run)]
    if len(waiting) < 2:
        return
    pace = Pace(len(waiting))
    log.info(f"{len(waiting)} runs, {min(at_once, len(waiting))} at a time, one thread each")
    progress.start("training side by side", len(waiting))
    training: dict[ForkProcess, Run] = {}
    try:
        while waiting or training:
            while waiting and len(training) < at_once:
                process = get_context("fork").Process(target=_train, args=(context.fit, *waiting[0]))
                training[process] = waiting.pop(0)
                process.start()
            ended = set(connection.wait([process.sentinel for process in training]))
            for process in [process for process in training if process.sentinel in ended]:
                process.join()
                variant, seed = training.pop(process)
                progress.advance()
                pace.advance()
                end = "is done" if process.exitcode == 0 else "ended early and is tried again below"
                left = f"  {clock_time(pace.left_s)} left for all" if waiting or training else ""
                log.info(f"run {pace.done} of {pace.total}: {variant.name}, {context.title(seed)}, {end}{left}")
    finally:
        begun = [process for process in training if process.pid is not None]
        for process in begun:
            process.terminate()  # it saves its state and ends
        for process in begun:
            process.join()
        progress.stop()


def _is_finished(context: ComparisonContext, variant: Variant, seed: int) -> bool:
    try:
        return RunFolder(context.run_dir(variant, seed)).read().status == "finished"
    except RunError:
        return False


def _train(fit: Callable[[Variant, int, Progress], object], variant: Variant, seed: int) -> None:
    """Train a run in a fork; its exit status is 0 where it is finished."""
    status = 1
    try:
        logging.disable()
        torch.set_num_threads(1)  # the threads of the parent are not here
        fit(variant, seed, Silent())
        status = 0
    except BaseException:
        pass  # the parent asks again, and gets the error
    finally:
        os._exit(status)
