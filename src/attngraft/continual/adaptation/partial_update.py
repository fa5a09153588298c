"""Which parts of a network an adaptation trains, and how."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...backbones import backbone_info, note_backbone_
from ...config import Preprocessing
from ...data import ImageSet, build_transform, make_loader
from ...errors import ConfigError
from ...settings.serving import PARTS, parse_update
from ...surgery import classes_of, grafts, note_classes_, replace_head_
from ...tasks import require, task_of


def with_whole_head(update: str) -> str:
    """Add all of the head to an update: the weights of an added class have never been learned.

    >>> with_whole_head("grafts+bn+head-bias")
    'grafts+bn+head'
    """
    parts = set(parse_update(update))
    if "all" in parts:
        return update
    return "+".join(part for part in PARTS if part in (parts - {"head-bias"}) | {"head"})


def check_update(model: nn.Module, update: str) -> None:
    """Raise ConfigError where the model's task cannot be adapted, or the model lacks a part that is to be updated."""
    require(task_of(model), "store", "adapting a served model")
    parts = parse_update(update)
    if "grafts" in parts and not grafts(model):
        rest = "+".join(part for part in parts if part != "grafts") or "bn+head"
        raise ConfigError(f"update is '{update}', but the model has no grafts: update {rest}, or graft it first.")
    if "bn" in parts and not any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise ConfigError(f"update is '{update}', but the model has no BatchNorm: leave out bn.")


def with_classes(served: nn.Module, classes: tuple[str, ...]) -> nn.Module:
    """A copy with logits for all classes; the new ones start so low that no prediction changes."""
    model, known = copy.deepcopy(served), classes_of(served)
    if classes == known:
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        paths = replace_head_(model, len(classes))
    for path in paths:
        _start_low_(model.get_submodule(path), served.get_submodule(path), len(known))
    info = backbone_info(model)
    if info is not None:
        note_backbone_(model, replace(info, num_classes=len(classes)))
    return note_classes_(model, classes).eval()


@torch.no_grad()
def _start_low_(new: Any, old: Any, known: int) -> None:
    """Copy the logits of known classes; those of new ones begin at the mean weight and the lowest bias."""
    new.weight[:known] = old.weight
    new.weight[known:] = old.weight.mean(0)
    if old.bias is not None:
        new.bias[:known] = old.bias
        new.bias[known:] = old.bias.min()


def refresh_statistics_(
    model: nn.Module, images: ImageSet, preprocessing: Preprocessing, *, batch_size: int = 64
) -> nn.Module:
    """Measure the statistics of BatchNorm anew on these images; nothing is learned (arXiv:1603.04779).

    The statistics are the plain mean over all batches, whatever the layers' momentum.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    device = next(model.parameters()).device
    transform = build_transform("none", preprocessing, train=False)
    batch_size = min(batch_size, len(images))
    try:
        with torch.no_grad():
            for batch in make_loader(images, transform, batch_size=batch_size, shuffle=True, drop_last=True):
                model(batch.images.to(device))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.eval()
    return model


def blended(old: Mapping[str, Tensor], new: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Weights on the straight line between two models (Wortsman et al., arXiv:2109.01903).

    Args:
        old, new: states with the same names; a tensor of another shape (a head with more classes) is taken from new.
        weight: 0 is old, 1 is new, bit for bit.
    """
    return {name: _between(old.get(name), tensor, weight) for name, tensor in new.items()}


def _between(old: Tensor | None, new: Tensor, weight: float) -> Tensor:
    same = old is not None and old.shape == new.shape
    if weight == 1 or not same or not new.is_floating_point():
        return new.clone()
    assert old is not None
    return torch.lerp(old.to(new.dtype), new, weight) if weight else old.clone()
