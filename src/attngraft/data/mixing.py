"""MixUp and CutMix on whole batches."""

from __future__ import annotations

import torch

from ..errors import ConfigError


def mix_batch(
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_classes: int,
    mixup: float,
    cutmix: float,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend each image with its neighbour (MixUp) or paste a part of the neighbour in (CutMix).

    Args:
        images: (B, 3, H, W) float.
        labels: (B,) int64.
        num_classes: K.
        mixup, cutmix: alpha of the Beta distribution of each, 0 for never; with both, a coin decides per batch.
        seed: what the outcome depends on besides the batch; torch's global generator is left as it was.

    Returns:
        images (B, 3, H, W) and soft targets (B, K) float32 that sum to one.

    Raises:
        ConfigError: a negative alpha.
    """
    if mixup < 0 or cutmix < 0:
        raise ConfigError(f"mixup is {mixup} and cutmix is {cutmix}: expected 0 or more.")
    if mixup == 0 and cutmix == 0:
        return images, torch.nn.functional.one_hot(labels, num_classes).float()
    from torchvision.transforms import v2

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not manual_seed, which would seed the GPU as well
        use_mixup = mixup > 0 and (cutmix == 0 or torch.rand(()).item() < 0.5)
        kind, alpha = (v2.MixUp, mixup) if use_mixup else (v2.CutMix, cutmix)
        mixed, targets = kind(alpha=alpha, num_classes=num_classes)(images, labels)
    return mixed, targets
