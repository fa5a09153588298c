"""The steps that are timed: one training step, one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones import backbone_info
from ..training import Precision
from .clock import Task

LEARNING_RATE = 1e-4  # low, so that the weights stay finite for any number of steps; the time does not depend on it


def random_batch(
    model: nn.Module, batch_size: int, image_size: int, precision: Precision, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Noise and labels for a network: (B, 3, S, S), (B,)."""
    generator = torch.Generator().manual_seed(0)
    info = backbone_info(model)
    images = torch.randn(batch_size, 3, image_size, image_size, generator=generator)
    labels = torch.randint(info.num_classes if info else 2, (batch_size,), generator=generator)
    return images.to(device).to(memory_format=precision.memory_format), labels.to(device)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum over all parameters."""
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)


def training_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    precision: Precision,
    optimizer: torch.optim.Optimizer | None = None,
) -> Task:
    """Forward, cross entropy, backward, step of the optimiser; gradients are dropped before it, untimed."""
    model.train()
    optimizer = optimizer or make_optimizer(model)

    def run() -> None:
        with precision.autocast(images.device):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return Task(run, before=lambda: optimizer.zero_grad(set_to_none=True))


def inference(model: nn.Module, images: Tensor, precision: Precision) -> Task:
    """A forward pass in eval mode, without gradients."""
    model.eval()

    def run() -> Tensor:
        with torch.no_grad(), precision.autocast(images.device):
            return model(images)

    return Task(run)
