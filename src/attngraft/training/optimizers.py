"""Optimisers, moving averages of weights, and learning-rate schedules as functions of the position in the phase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..settings.recipe import Phase, Recipe
from .phases import ParameterGroup


def build_optimizer(model: nn.Module, groups: Sequence[ParameterGroup], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the groups; each group notes its highest rate as `peak_lr`, and whose it is."""
    parameters = dict(model.named_parameters())
    settings = [
        {
            "params": [parameters[name] for name in group.names],
            "lr": group.lr,
            "peak_lr": group.lr,
            "part": group.part,
            "weight_decay": group.weight_decay,
        }
        for group in groups
    ]
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        return torch.optim.SGD(settings, lr=1.0, momentum=recipe.momentum, nesterov=nesterov)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(settings, lr=1.0)
    return torch.optim.AdamW(settings, lr=1.0)


def moving_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """A copy of the model that follows its weights and buffers; None where the decay is 0.

    After n updates the decay is at most (1 + n) / (10 + n), so that a short training does not keep its random start.
    """
    if not decay:
        return None

    @torch.no_grad()
    def update(averages: Any, values: Any, _: Any) -> None:
        if averages[0].is_floating_point():
            done = int(average.n_averaged)  # on the CPU, unlike what is handed over
            torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + done) / (10 + done)))
            return
        for own, value in zip(averages, values, strict=True):  # BatchNorm counts batches: an average would be cut
            own.copy_(value)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return average


def rate_factor(phase: Phase, progress: float, step: float = 0.0) -> float:
    """Part of the highest rate at `progress` (0 to 1) through the phase; plateau drops are applied elsewhere.

    Args:
        phase: what is trained how.
        progress: part of the phase that is done before the step.
        step: part of the phase that the step is. A linear warmup ends its rise within the step, so that the first
            step does something, and a phase of a single step trains.

    >>> rate_factor(Phase("p", schedule="cosine", epochs=2), 0.5)
    0.5
    """
    if progress < phase.warmup:
        if phase.schedule == "one-cycle":  # along half a cosine (Smith & Topin, arXiv:1708.07120, as in PyTorch)
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / phase.warmup))
        return min(1.0, (progress + step) / phase.warmup)
    after = (progress - phase.warmup) / (1 - phase.warmup)
    if phase.schedule in {"cosine", "one-cycle"}:
        return round(0.5 * (1 + math.cos(math.pi * after)), 12)
    if phase.schedule == "multistep":
        return phase.gamma ** sum(progress + 1e-6 >= milestone for milestone in phase.milestones)
    if phase.schedule == "step":
        return phase.gamma ** int(progress * phase.epochs / phase.step_epochs + 1e-9)
    return 1.0


def rates_at(optimizer: torch.optim.Optimizer, factor: float, graft_factor: float = 1.0) -> list[float]:
    """Every group's rate as a part of its highest, that of grafts times another factor."""
    return [
        group["peak_lr"] * factor * (graft_factor if group["part"] == "grafts" else 1.0)
        for group in optimizer.param_groups
    ]


def set_rates_(optimizer: torch.optim.Optimizer, factor: float, graft_factor: float = 1.0) -> float:
    """Set every group's rate; see `rates_at`.

    Returns:
        the highest rate now in force.
    """
    rates = rates_at(optimizer, factor, graft_factor)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return max(rates)


class Plateau:
    """Counts epochs without a lower validation loss, and drops the rate or ends the training.

    Args:
        patience: epochs to wait; 0 never acts.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = math.inf
        self.waited = 0

    def update(self, loss: float) -> bool:
        """Note an epoch; True when `patience` epochs brought nothing (the count then starts anew)."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return False
        self.waited += 1
        if self.patience and self.waited >= self.patience:
            self.waited = 0
            return True
        return False

    @property
    def state(self) -> tuple[float, float]:
        return self.best, float(self.waited)

    def restore(self, state: Sequence[float]) -> None:
        self.best, self.waited = float(state[0]), int(state[1])
