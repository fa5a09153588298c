"""A learning rate range test: the rate rises with every step, and the loss says how far it may go."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager

import torch
from torch import nn

from ..data import Batch, Loader
from ..errors import ConfigError, NotFiniteError
from ..settings.recipe import Phase
from .checkpoint import Position
from .optimizers import build_optimizer, set_rates_
from .phases import Anatomy, apply_phase_, parameter_groups
from .progress import Progress, doing
from .run_context import RunContext
from .step import Stepper

LOWEST, HIGHEST = 1e-7, 10.0  # of the phase's highest rate
STEPS = 100
SMOOTHING = 0.9  # of the loss, by an exponential mean without bias towards its beginning
LEFT_OUT = 10  # first steps, whose means are of few losses
DIVERGED = 4.0  # times the lowest smoothed loss


def find_lr(
    model: nn.Module,
    anatomy: Anatomy,
    context: RunContext,
    batches: Callable[[int], Loader],
    *,
    progress: Progress,
    before_batch: Callable[[], None],
) -> float:
    """The highest rate of a recipe, by a range test of what its first phase trains.

    100 steps on training images, each at a higher rate, from 1e-7 to 10, all groups in the phase's proportions. The test
    ends early where the smoothed loss is four times the lowest, or not finite. The rate in the middle of the longest valley
    is taken (see `suggested`). Weights, statistics and the state of random numbers are afterwards as before, bit for bit.

    Args:
        model: ready for the first phase.
        anatomy: of the model.
        context: of the training.
        batches: training batches of an epoch with this number.
        progress: told what is done.
        before_batch: called before every step; what it raises ends the test.

    Returns:
        the rate for the phase with the highest one, so that the first phase has the rate that was found.

    Raises:
        ConfigError: the loss is finite at no rate.

    Source: Smith, arXiv:1506.01186; range, end and the valley are those of fastai's `lr_find`.
    """
    phase = context.recipe.phases[0]
    with _put_back_(model):
        rates, losses = _range_test(model, anatomy, phase, context, batches, progress, before_batch)
    if not losses:
        raise ConfigError("lr = find found no rate at which the loss is finite: give lr as a number.")
    highest = max(one.lr for one in context.recipe.phases)
    return float(f"{suggested(rates, losses) * highest / phase.lr:.3g}")


def suggested(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate in the middle of the longest subsequence in which the smoothed loss falls, the first steps left out.

    >>> round(suggested([0.001, 0.01, 0.1, 1.0], [2.0, 1.0, 0.5, 9.0]), 6)
    0.01
    """
    first = min(LEFT_OUT, len(losses) // 4) if len(losses) > LEFT_OUT else 0
    smooth = smoothed(losses)[first:]
    falls = [1] * len(smooth)  # length of the longest fall that ends at each step
    for end, loss in enumerate(smooth):
        falls[end] += max((falls[begin] for begin in range(end) if smooth[begin] > loss), default=0)
    last = max(range(len(falls)), key=lambda end: (falls[end], -end))
    return rates[first + last - falls[last] // 2]


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential means up to each loss, without bias towards the beginning.

    >>> smoothed([2.0, 2.0, 2.0])
    [2.0, 2.0, 2.0]
    """
    found, mean, weight = [], 0.0, 0.0
    for loss in losses:
        mean, weight = SMOOTHING * mean + (1 - SMOOTHING) * loss, SMOOTHING * weight + 1 - SMOOTHING
        found.append(round(mean / weight, 12))
    return found


def _range_test(
    model: nn.Module,
    anatomy: Anatomy,
    phase: Phase,
    context: RunContext,
    batches: Callable[[int], Loader],
    progress: Progress,
    before_batch: Callable[[], None],
) -> tuple[list[float], list[float]]:
    recipe = context.recipe
    apply_phase_(model, anatomy, phase, recipe.batchnorm)
    optimizer = build_optimizer(model, parameter_groups(model, anatomy, phase, recipe), recipe)
    stepper, at = Stepper(model, context, None), Position()
    stepper.begin_phase()
    rates: list[float] = []
    losses: list[float] = []
    with closing(_endless(batches)) as endless:
        for number, batch in zip(range(STEPS), endless, strict=False):
            before_batch()
            doing(progress, f"looking for a learning rate, step {number + 1} of {STEPS}")
            rate = LOWEST * (HIGHEST / LOWEST) ** (number / (STEPS - 1))
            set_rates_(optimizer, rate / phase.lr)
            try:
                taken = stepper.step(optimizer, batch, at, lambda: None)
            except NotFiniteError:
                break
            at.global_step, at.parts = number + 1, taken.parts
            rates.append(rate)
            losses.append(taken.loss)  # before the update at this rate
            smooth = smoothed(losses)
            if smooth[-1] > DIVERGED * min(smooth):
                break
    optimizer.zero_grad(set_to_none=True)
    return rates, losses


def _endless(batches: Callable[[int], Loader]) -> Generator[Batch, None, None]:
    epoch = 0
    while True:
        yield from batches(epoch)
        epoch += 1


@contextmanager
def _put_back_(model: nn.Module) -> Iterator[None]:
    """Whatever happens within, weights, statistics and random numbers are afterwards as before."""
    tensors = [*model.parameters(), *model.buffers()]
    kept = [tensor.detach().clone() for tensor in tensors]
    devices = sorted({t.device.index for t in tensors if t.device.type == "cuda" and t.device.index is not None})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(tensors, kept, strict=True):
                tensor.copy_(before)
