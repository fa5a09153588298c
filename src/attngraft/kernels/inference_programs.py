"""What an attention computes in inference, as data: gates that a backend can compute image by image.

An image that fits into a processor's cache is then read from memory once, however often its gates look at it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConfigError

BOTTLENECK, TAPS = 1, 2  # what the logits of a channel gate are made by, as a number for compiled loops


@dataclass(frozen=True)
class Bottleneck:
    """Linear, ReLU, Linear over channel descriptors, summed over the descriptors.

    Attributes:
        first, first_bias: (hidden, C), (hidden) or None.
        second, second_bias: (C, hidden), (C) or None.
    """

    first: Tensor
    first_bias: Tensor | None
    second: Tensor
    second_bias: Tensor | None


@dataclass(frozen=True)
class ChannelGate:
    """factor * sigmoid of logits that are computed from the means, the maxima or both of the channels.

    Attributes:
        logits: a bottleneck, or the taps (k) of a convolution along the channels, with zeros around.
        mean: whether the means are a descriptor.
        maximum: whether the maxima are one.
        factor: 1 or 2.
    """

    logits: Bottleneck | Tensor
    mean: bool
    maximum: bool
    factor: int


@dataclass(frozen=True)
class SpatialGate:
    """factor * sigmoid of a convolution over (maximum, mean) of the channels, scaled and shifted.

    Attributes:
        weight: (1, 2, k, k).
        scale, shift: of the batch normalisation that follows, one number each.
        factor: 1 or 2.
    """

    weight: Tensor
    scale: Tensor
    shift: Tensor
    factor: int


@dataclass(frozen=True)
class GateProgram:
    """x times a channel gate, then, seeing that product, times a spatial gate; at least one of them is there."""

    channel: ChannelGate | None = None
    spatial: SpatialGate | None = None


def normalisation(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch normalisation in inference."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ConfigError(
            "The batch normalisation keeps no running statistics: build it with track_running_stats=True."
        )
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale
