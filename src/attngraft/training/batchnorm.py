"""Running statistics of BatchNorm: whether they were ever measured, and measuring them on training images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data import ImageSet
from ..tasks import Rows
from ..tasks.contract import Forward
from .evaluate import EvaluationContext, over_images

SUMS = ("count", "sum", "squares")


def is_new(layer: nn.Module) -> bool:
    """Whether the running statistics of a layer are still those that it was made with."""
    mean, variance = layer.running_mean, layer.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    return not mean.is_meta and bool((mean == 0).all()) and bool((variance == 1).all())


def recalibrate_(
    model: nn.Module,
    paths: Collection[str],
    images: ImageSet,
    context: EvaluationContext,
    *,
    before_batch: Callable[[], None] | None = None,
    advance: Callable[[], None] | None = None,
) -> int:
    """Measure the running statistics of these layers anew on images as evaluation sees them; nothing is learned.

    Batches are normalised by their own statistics on the way, as in training. What is kept is the mean and the variance
    over all images, so that differences between batches count too.

    Args:
        model: in place; modes are as before afterwards.
        paths: of the layers; those that are no BatchNorm are left alone.
        images: at least two.
        context: of an evaluation.
        before_batch: called equally often in all processes; what it raises ends the pass, and the model is as before.
        advance: called after every batch of this process.

    Returns:
        how many layers were measured.
    """
    layers: dict[str, Any] = {path: model.get_submodule(path) for path in paths}
    layers = {path: layer for path, layer in layers.items() if isinstance(layer, _BatchNorm)}
    size = context.batch_size
    while len(images) % size == 1:  # BatchNorm takes no batch of one value per channel
        size += 1
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        shares = over_images(
            model,
            images,
            replace(context, batch_size=size),
            lambda forward, part, _: _moments(layers, forward, part),
            before_batch=before_batch,
            advance=advance,
        )
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])
    measured = [rows for _, rows in shares if rows]
    ran = {path: layer for path, layer in layers.items() if f"{path} count" in measured[0]}
    for path, layer in ran.items():
        count, sums, squares = (sum(rows[f"{path} {what}"].sum(0) for rows in measured) for what in SUMS)
        mean = sums / count
        variance = (squares / count - mean**2) * (count / np.maximum(count - 1, 1))
        layer.running_mean.copy_(torch.from_numpy(mean))
        layer.running_var.copy_(torch.from_numpy(variance.clip(0)))
    return len(ran)


def _moments(layers: Mapping[str, nn.Module], forward: Forward, part: Tensor) -> Rows:
    """Sums over all that each layer is given for a part of a batch, per channel, with a first axis of length 1."""
    found: dict[str, np.ndarray] = {}

    def noting(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(layer: nn.Module, given: tuple[Any, ...]) -> None:
            x = given[0].detach().double()
            others = [axis for axis in range(x.ndim) if axis != 1]
            count = torch.full((1,), x.numel() // x.shape[1])
            for what, value in zip(SUMS, (count, x.sum(others), x.square().sum(others)), strict=True):
                key, sums = f"{path} {what}", value.cpu().numpy()[None]
                found[key] = found[key] + sums if key in found else sums  # a layer may run more than once

        return note

    hooks = [layer.register_forward_pre_hook(noting(path)) for path, layer in layers.items()]
    for layer in layers.values():
        layer.train()
    try:
        forward(part)
    finally:
        for hook in hooks:
            hook.remove()
    return found
