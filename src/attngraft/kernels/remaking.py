"""Maps that need not be kept for the backward pass, because what they were computed from is kept anyway.

Most sites follow a batch normalisation, which keeps its input. Its output is that input times a slope plus an
offset per channel, so the backward pass of an attention can make it anew while reading, bit for bit: a graft
then adds next to nothing to the memory of a training step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .layout import Reading, as_matrices, matrix_shape, reading_of
from .passes import Remade

EDGE = 2  # positions at either end that are compared: the vectors' beginning and what is left over behind them


@dataclass(frozen=True)
class Normalised:
    """The output of a batch normalisation in training mode.

    Attributes:
        node: the node of the autograd graph, which keeps its input until its own backward pass is done.
        bias: the parameter; the node has the others.
        slope: (C), fp32.
        offset: (C), fp32.
    """

    node: Any
    bias: Tensor
    slope: Tensor
    offset: Tensor

    def matrices(self, reading: Reading) -> Remade:
        """The map as the passes read it."""
        source = self.node._saved_input.detach()
        batch, channels = source.shape[:2]
        lines, by_lane = (batch, channels), reading is Reading.POSITION_ROWS
        slope, offset = (part.expand(lines) for part in (self.slope, self.offset))
        if reading is Reading.PLANES:
            rows = matrix_shape(source.shape, reading)[1]
            slope, offset = (part.reshape(-1, 1).expand(-1, rows) for part in (slope, offset))
        return Remade(as_matrices(source, reading), slope.contiguous(), offset.contiguous(), by_lane)

    def differentiable(self) -> Tensor:
        """The map once more, with a graph: for gradients of gradients."""
        node = self.node
        return F.batch_norm(node._saved_input, None, None, node._saved_weight, self.bias, True, 0.0, node._saved_eps)


def normalised(x: Tensor) -> Normalised | None:
    """What x can be made of, None unless x comes straight from a batch normalisation and was remade exactly.

    Where hooks pack saved tensors (checkpointing, offloading) nothing is looked at: the hooks decide there.
    """
    node: Any = x.grad_fn
    if node is None or node.name() != "NativeBatchNormBackward0" or _are_saved_tensors_packed():
        return None
    bias = _parameter(node, 2)
    if not node._saved_training or node._saved_weight is None or bias is None:
        return None
    source, mean, inverse_deviation = node._saved_input, node._saved_result1, node._saved_result2
    slope = (inverse_deviation * node._saved_weight).detach()
    # As PyTorch computes it, in fused multiply-adds; doubles hold the products exactly.
    offset = (bias.detach().double() - mean.double() * slope.double()).float()
    found = Normalised(node, bias, slope.float(), offset)
    return found if _is_exact(x.detach(), source.detach(), found) else None


def _is_exact(x: Tensor, source: Tensor, found: Normalised) -> bool:
    """Compare a few positions of every channel: another build of PyTorch may round elsewhere."""
    if source.dtype != x.dtype or reading_of(source) is not reading_of(x):
        return False
    some, same = (_edges(values.flatten(2)) for values in (source, x))
    made = (some.double() * found.slope.double().unsqueeze(1) + found.offset.double().unsqueeze(1)).float()
    return torch.equal(made.to(x.dtype), same)


def _edges(values: Tensor) -> Tensor:
    """(B, C, N) -> the first and the last positions."""
    return torch.cat((values[:, :, :EDGE], values[:, :, -EDGE:]), 2)


def _parameter(node: Any, index: int) -> Tensor | None:
    """The parameter that is the index-th input of a node, None if that is no leaf that takes gradients."""
    source = node.next_functions[index][0]
    return getattr(source, "variable", None)


def _are_saved_tensors_packed() -> bool:
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
