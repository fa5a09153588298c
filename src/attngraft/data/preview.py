"""Images of any number of channels as people can look at them."""

from __future__ import annotations

import torch


def rgb_preview(image: torch.Tensor) -> torch.Tensor:
    """A stored image (C, H, W) as (3, H, W) uint8: 8-bit RGB as it is, others as the mean of their channels in grey.

    Floats are taken as 0 to 1, or from the lowest to the highest value of the image where they lie outside of that.
    """
    if image.dtype == torch.uint8 and len(image) == 3:
        return image
    grey = image.float().mean(0, keepdim=True)
    if image.dtype != torch.uint8:
        low, high = float(image.min()), float(image.max())
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        grey = (grey - low) * (255 / max(high - low, 1e-30))
    return grey.round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)
