"""Timing on noisy machines: interleaved rounds, ratios within a round, medians and quartiles."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

GPU_SAMPLE_MS = 5.0  # a sample on a GPU repeats the call for so long: starting one kernel takes longer than it runs
MOST_CALLS = 50


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing.

    Attributes:
        median: the middle one.
        q1: lower quartile.
        q3: upper quartile.
        n: how many there are.
    """

    median: float
    q1: float
    q3: float
    n: int


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Task:
    """One competitor of a race.

    Attributes:
        run: what is timed.
        before: what must be done before each run and is not timed, such as dropping gradients.
    """

    run: Callable[[], object]
    before: Callable[[], object] = nothing


Samples = Mapping[str, tuple[float, ...]]


def time_interleaved(
    tasks: Mapping[str, Task],
    *,
    repeats: int,
    device: torch.device,
    warmup: int = 2,
    on_round: Callable[[], object] = nothing,
) -> dict[str, tuple[float, ...]]:
    """Milliseconds of every task in every round; each round runs all of them once, in an order of its own.

    Args:
        tasks: name -> task.
        repeats: timed rounds.
        device: where the tasks run; it is idle before a sample starts and after it ends.
        warmup: rounds before that.
        on_round: called after every timed round.
    """
    for _ in range(warmup):
        for task in tasks.values():
            _sample(task, 1, device)
    calls = {name: _calls(task, device) for name, task in tasks.items()}
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats):
        order = list(tasks)
        random.Random(turn).shuffle(order)  # nobody always finds the caches as the same neighbour left them
        for name in order:
            times[name].append(_sample(tasks[name], calls[name], device))
        on_round()
    return {name: tuple(values) for name, values in times.items()}


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles.

    >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
    Spread(median=3.0, q1=2.0, q3=4.0, n=5)
    >>> spread([2.0])
    Spread(median=2.0, q1=2.0, q3=2.0, n=1)
    """
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, q1, q3, len(values))


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float], factor: float = 1.0) -> Spread:
    """Median and quartiles of the ratios within each round, which a slow spell of the machine leaves alone.

    >>> paired_ratio([10.0, 40.0, 10.0], [5.0, 20.0, 4.0]).median
    2.0
    """
    return spread([factor * one / other for one, other in zip(numerator, denominator, strict=True)])


def geometric_mean(values: Sequence[float]) -> float:
    """The mean for ratios.

    >>> geometric_mean([0.5, 2.0])
    1.0
    """
    return math.exp(statistics.fmean(math.log(value) for value in values))


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _sample(task: Task, calls: int, device: torch.device) -> float:
    task.before()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        task.run()
    synchronise(device)
    return 1e3 * (time.perf_counter() - start) / calls


def _calls(task: Task, device: torch.device) -> int:
    """How often a sample repeats the call: once, except for quick work on a GPU that needs no preparation."""
    if device.type == "cpu" or task.before is not nothing:
        return 1
    return max(1, min(MOST_CALLS, math.ceil(GPU_SAMPLE_MS / max(_sample(task, 1, device), 1e-3))))
