"""Probabilities of a classifier for given inputs, without changing its state."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import TrainingError
from ..surgery import uncompiled
from ..training.evaluate import in_eval_mode
from .image_source import BATCH, Source, View, view_of

Floats = NDArray[np.float32]


def predict_probabilities(model: nn.Module, inputs: Tensor) -> Floats:
    """(N, C, H, W) -> probabilities (N, K); modes are as before afterwards.

    Raises:
        TrainingError: the model has diverged.
    """
    model = uncompiled(model)  # batches have many sizes, and each would be compiled anew
    with torch.no_grad(), in_eval_mode(model):
        parts = [model(batch).float().softmax(1).cpu().numpy() for batch in prepared(model, inputs)]
    found = np.concatenate(parts)
    if not np.isfinite(found).all():
        raise TrainingError(
            "the model's outputs are not finite, so it has diverged: lower the learning rate (lr_scale)."
        )
    return found


def prepared(model: nn.Module, inputs: Tensor, *, size: int = BATCH) -> Iterator[Tensor]:
    """The inputs in batches, of the model's type and on its device."""
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size].to(first.device, first.dtype)


def inputs_of(model: nn.Module, images: View | Source) -> Tensor:
    """All inputs in one tensor on the CPU: (N, C, H, W)."""
    if isinstance(images, Tensor):
        return images.cpu()
    view = images if isinstance(images, View) else view_of(uncompiled(model), images)
    return torch.cat([batch for batch, _ in view.batches(torch.device("cpu"))])
