"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def moving_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """A copy of the model that follows its weights and buffers; None where the decay is 0."""
    if not decay:
        return None
    move = get_ema_multi_avg_fn(decay)

    def update(averages: Any, values: Any, count: Any) -> None:
        if averages[0].is_floating_point():
            move(averages, values, count)
            return
        for average, value in zip(averages, values, strict=True):  # BatchNorm counts batches: an average would be cut
            average.copy_(value)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
