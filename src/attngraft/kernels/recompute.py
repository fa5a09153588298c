"""Recompute maps in the backward pass from what is kept anyway.

Most sites follow a batch normalisation, which stores its input. Its output is that input times a slope plus an
offset per channel, so the backward pass of an attention can recompute it while reading, bit for bit: a graft then
adds next to nothing to the memory of a training step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .backend import Recomputed
from .layout import CHANNELS_INSIDE, Reading, as_matrices, matrix_shape, reading_of

WORTH_IT = 2**20  # bytes of a map: checking a smaller one takes longer than its memory is worth
EDGE = 2  # positions at either end that are compared: the first of the vectors and the remainder behind them


@dataclass(frozen=True)
class Normalised:
    """How the output of a batch normalisation in training mode follows from its input.

    The input is not held here: a use of x stores it as it would have stored x, and normalisation holds the same memory.

    Attributes:
        node: the normalisation in the autograd graph.
        weight, bias: its parameters.
        slope, offset: (C), fp32.
        versions: of weight and bias.
    """

    node: Any
    weight: Tensor
    bias: Tensor
    slope: Tensor
    offset: Tensor
    versions: tuple[int, int]

    def input(self) -> Tensor:
        """What was normalised; only valid in the forward pass."""
        return self.node._saved_input

    def matrices(self, source: Tensor, reading: Reading) -> Recomputed:
        """The map as the passes read it, from what was normalised."""
        batch, channels = source.shape[:2]
        slope, offset = (part.expand(batch, channels) for part in (self.slope, self.offset))
        if reading is Reading.PLANES:
            rows = matrix_shape(source.shape, reading)[1]
            slope, offset = (part.reshape(-1, 1).expand(-1, rows) for part in (slope, offset))
        if reading is Reading.LINES:
            slope, offset = (part.unsqueeze(1).expand(-1, source.shape[3], -1).flatten(1) for part in (slope, offset))
        by_lane = reading in CHANNELS_INSIDE
        return Recomputed(as_matrices(source.detach(), reading), slope.contiguous(), offset.contiguous(), by_lane)

    def differentiable(self, source: Tensor) -> Tensor:
        """The map with a graph, for gradients of gradients.

        Raises:
            RuntimeError: as from PyTorch, the parameters were changed in place since the forward pass.
        """
        if (self.weight._version, self.bias._version) != self.versions:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                "weight or bias of the batch normalisation before an attention; compute the gradients before that, "
                "or within attngraft.kernels.using('reference')."
            )
        return F.batch_norm(source, None, None, self.weight, self.bias, True, 0.0, self.node._saved_eps)


def normalised(x: Tensor) -> Normalised | None:
    """How x can be recomputed; None unless x comes straight from a batch normalisation and is recomputed exactly.

    Where hooks pack saved tensors (checkpointing, offloading) the result is None: the hooks decide there.
    """
    node: Any = x.grad_fn
    if node is None or x.nbytes < WORTH_IT or x._version:
        return None
    if node.name() != "NativeBatchNormBackward0" or _is_packed(node):
        return None
    bias = _parameter(node, 2)
    if not node._saved_training or bias is None:
        return None
    try:
        source, weight = node._saved_input, node._saved_weight
        mean, inverse_deviation = node._saved_result1, node._saved_result2
    except RuntimeError:  # changed in place: the backward pass of the normalisation will say so, if there is one
        return None
    if weight is None:
        return None
    slope = (inverse_deviation * weight).detach().float()
    # As PyTorch computes it, in fused multiply-adds; doubles hold the products exactly.
    offset = (bias.detach().double() - mean.double() * slope.double()).float()
    found = Normalised(node, weight, bias, slope, offset, (weight._version, bias._version))
    return found if _is_exact(x.detach(), source.detach(), found) else None


def _is_exact(x: Tensor, source: Tensor, found: Normalised) -> bool:
    """Compare a few positions of every channel, few enough for one thread: another build of PyTorch may round differently."""
    if source.dtype != x.dtype or reading_of(source) is not reading_of(x):
        return False
    some, same = (_edges(values.flatten(2)) for values in (source, x))
    made = (some.double() * found.slope.double().unsqueeze(1) + found.offset.double().unsqueeze(1)).float()
    return torch.equal(made.to(x.dtype), same)


def _edges(values: Tensor) -> Tensor:
    """(B, C, N) -> the first and the last positions of the first and the last image."""
    values = values[:: max(1, len(values) - 1)]
    return torch.cat((values[:, :, :EDGE], values[:, :, -EDGE:]), 2)


def _parameter(node: Any, index: int) -> Tensor | None:
    """The parameter that is the index-th input of a node, None if that is no leaf that takes gradients."""
    source = node.next_functions[index][0]
    return getattr(source, "variable", None)


def _is_packed(node: Any) -> bool:
    """Whether hooks have or will have the saved tensors, of this node or of the nodes to come."""
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        return True
    return getattr(node._raw_saved_input, "unpack_hook", None) is not None
