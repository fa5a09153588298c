"""Check tensors for NaN and infinity in one pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with a NaN or an infinity; None if all are finite, as integers are.

    The norm over all tensors is finite only if they are. It also overflows for numbers too large to square, so if it is
    not finite, each tensor is checked.

    >>> first_not_finite({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])})
    'b'
    """
    floating = {name: tensor.detach() for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not floating or bool(torch.isfinite(get_total_norm(list(floating.values())))):
        return None
    return next((name for name, tensor in floating.items() if not bool(torch.isfinite(tensor).all())), None)


def kept_buffers(model: nn.Module) -> frozenset[str]:
    """Names of the buffers that are saved; others may hold anything, such as a mask of infinities."""
    return frozenset(model.state_dict()) - {name for name, _ in model.named_parameters()}
