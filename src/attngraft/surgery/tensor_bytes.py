"""The raw bytes of a tensor, to compare or to hash it."""

from __future__ import annotations

import torch
from torch import Tensor


def tensor_bytes(tensor: Tensor) -> Tensor:
    """(N,) uint8 on the CPU, in the order of the elements; a view where the tensor lies so already."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
