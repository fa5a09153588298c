"""Small layers that several attentions share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .. import kernels
from .contract import Init, check_odd, check_positive


class GateBatchNorm(_BatchNorm):
    """Batch normalisation of any rank that also trains on a single value per channel.

    One image and one position leave nothing to normalise over; PyTorch raises there. This layer uses the
    running statistics for such a batch and leaves them as they are.

    Shape:
        (B, C, *) -> (B, C, *).
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.size(1):
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)

    def _check_input_dim(self, x: Tensor) -> None:
        """Every rank is welcome."""


class ChannelMLP(nn.Module):
    """Linear, ReLU, Linear over channel descriptors; the last layer is zero with init="identity".

    Shape:
        (*, C) -> (*, C).
    """

    def __init__(self, channels: int, reduction: int, init: Init, *, bias: bool = True) -> None:
        super().__init__()
        hidden = hidden_width(channels, reduction)
        self.fc1 = nn.Linear(channels, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, channels, bias=bias)
        if init == "identity":
            zero_(self.fc2)

    def forward(self, descriptor: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(descriptor)))

    def program(self) -> kernels.Bottleneck:
        """The same as data."""
        return kernels.Bottleneck(self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)


class MapConv(nn.Conv2d):
    """A convolution with zeros around from a few pooled maps to one, on the kernel that is made for it."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps) if torch.compiler.is_compiling() else kernels.convolve_maps(maps, self.weight)


class PointwiseConv(nn.Conv1d):
    """A convolution of kernel size 1 as one product of matrices; libraries take several times as long for few lanes.

    The output lies with channels inside, (B, N, C), which saves copies where the input does too.

    Shape:
        (B, C, N) -> (B, C', N).
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.transpose(1, 2), self.weight.squeeze(2), self.bias).transpose(1, 2)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Weight (C', C) and bias (C')."""
        weight = self.weight.squeeze(2)
        return weight, weight.new_zeros(len(weight)) if self.bias is None else self.bias


class PositionLogits(nn.Conv1d):
    """A convolution of kernel size 1 from all channels of a feature map to one.

    Shape:
        (B, C, *) -> (B, N), one logit for each of the N positions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return kernels.position_logits(x, self.weight.flatten(), self.bias)


class MapLogits(nn.Module):
    """Convolution and BatchNorm from pooled maps to one map of logits.

    With init="identity" the BatchNorm is zero and the convolution stays random: behind a zero convolution,
    BatchNorm would divide by sqrt(eps).

    Shape:
        (B, maps, H, W) -> (B, H, W).
    """

    def __init__(self, maps: int, kernel_size: int, init: Init, *, momentum: float) -> None:
        super().__init__()
        check_odd(kernel_size=kernel_size)
        self.conv = MapConv(maps, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = GateBatchNorm(1, momentum=momentum)
        if init == "identity":
            zero_(self.bn)

    def forward(self, maps: Tensor) -> Tensor:
        return self.bn(self.conv(maps)).squeeze(1)


def hidden_width(channels: int, reduction: int, minimum: int = 1) -> int:
    """Width of a bottleneck: channels // reduction, at least `minimum`."""
    check_positive(channels=channels, reduction=reduction)
    return max(minimum, channels // reduction)


def zero_(*layers: nn.Module) -> None:
    """Set every parameter of the layers to 0."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
