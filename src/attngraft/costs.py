"""Costs of a model: parameters, multiply-accumulates, latency."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

LATENCY_BATCH = 8  # images of a pass wherever models are compared
MOST_SPREAD = 0.3  # of the quartiles, as a part of the median; 0.02 to 0.1 on a machine of one's own


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass of one batch.

    Attributes:
        median: in milliseconds.
        q1: lower quartile, in milliseconds.
        q3: upper quartile, in milliseconds.
        n: number of timed passes.
        batch_size: images per pass.
    """

    median: float
    q1: float
    q3: float
    n: int
    batch_size: int


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_size: tuple[int, ...]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one input of shape (C, H, W).

    Element-wise work, such as applying a gate, is not counted, as is the custom in the field.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    counter = FlopCounterMode(display=False)
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), counter:
            model.eval()(torch.zeros(1, *input_size, device=device, dtype=dtype))
    finally:
        for module, mode in training.items():
            module.training = mode
    return counter.get_total_flops() // 2


def measure_latency(
    models: Mapping[str, nn.Module], example: torch.Tensor, *, repeats: int = 20, warmup: int = 3
) -> dict[str, Latency]:
    """Time forward passes of several models, interleaved, so that all see the same machine.

    Args:
        models: name -> model on the device of the example, in eval mode.
        example: one batch.
        repeats: timed passes per model.
        warmup: passes before that.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for turn in range(warmup + repeats):
            for name, model in models.items():
                elapsed = _time_pass(model, example)
                if turn >= warmup:
                    times[name].append(elapsed)
    return {name: _summary(values, len(example)) for name, values in times.items()}


def is_busy(*latencies: Latency) -> bool:
    """Whether passes took so different times that other programs must have used the machine."""
    return any(latency.q3 - latency.q1 > MOST_SPREAD * latency.median for latency in latencies)


def _time_pass(model: nn.Module, example: torch.Tensor) -> float:
    start = time.perf_counter()
    model(example)
    if example.is_cuda:
        torch.cuda.synchronize(example.device)
    return 1e3 * (time.perf_counter() - start)


def _summary(values: list[float], batch_size: int) -> Latency:
    q1, median, q3 = (
        torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
    )
    return Latency(median, q1, q3, len(values), batch_size)
