"""Whole attentions in inference, image by image: SE, ECA, CBAM and coordinate attention as data that one compiled loop computes.

An image that fits into a processor's cache is then read from memory once, however often its gates look at it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConfigError
from . import numba_backend
from .dispatch import Route, route_of
from .layout import Reading, as_matrices, from_matrices, own_tensor

BOTTLENECK, TAPS = 1, 2  # how the logits of a channel gate are computed, as a number for the compiled loop
FEWEST_IMAGES = 8  # an image is the work of one thread: below, the threads share each pass instead


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
class StripGates:
    """factor * sigmoid of a layer over a bottleneck of the means, once for the rows and once for the columns.

    The bottleneck is a layer, scaled and shifted, and a hard swish.

    Attributes:
        reduce, reduce_bias: (hidden, C), (hidden).
        scale, shift: of the batch normalisation that follows, (hidden).
        rows, rows_bias: (C, hidden), (C).
        columns, columns_bias: the same.
        factor: 1 or 2.
    """

    reduce: Tensor
    reduce_bias: Tensor
    scale: Tensor
    shift: Tensor
    rows: Tensor
    rows_bias: Tensor
    columns: Tensor
    columns_bias: Tensor
    factor: int


@dataclass(frozen=True)
class GateProgram:
    """x times a channel gate, then, seeing that product, times a spatial gate; or times the gates of the strips alone."""

    channel: ChannelGate | None = None
    spatial: SpatialGate | None = None
    strips: StripGates | None = None


def normalisation(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch normalisation in inference."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ConfigError(
            "The batch normalisation keeps no running statistics: build it with track_running_stats=True."
        )
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


def program_route(x: Tensor) -> Route | None:
    """The route for `run_program`; None unless this is inference on the CPU, on enough images."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu" or x.dim() != 4:
        return None
    return route_of(x) if len(x) >= FEWEST_IMAGES else None


def run_program(x: Tensor, program: GateProgram, route: Route) -> Tensor:
    """x times the gates of the program: (B, C, H, W) -> the same shape, dtype and layout."""
    matrices = as_matrices(x, route.reading)
    y = torch.empty_like(matrices)
    if program.strips is not None:
        _run_strips(matrices, y, program.strips, x.shape, route.reading)
    else:
        _run_channel_and_spatial(matrices, y, program, x.shape, route.reading)
    return own_tensor(from_matrices(y, route.reading, x.shape))


def _run_strips(x: Tensor, y: Tensor, gates: StripGates, shape: torch.Size, reading: Reading) -> None:
    batch, channels, height, width = shape
    hidden, by_channel = len(gates.reduce), reading is Reading.CHANNEL_ROWS
    size = (height + width) * (2 * channels + hidden)
    scratch = torch.empty(batch, size, dtype=torch.float32, device="cpu")
    # In channels_last weights are read along the channels, and so they lie.
    rows, columns = (weight if by_channel else weight.t() for weight in (gates.rows, gates.columns))
    first = (gates.reduce, gates.reduce_bias, gates.scale, gates.shift)
    weights = [_fp32(weight) for weight in (*first, rows, gates.rows_bias, columns, gates.columns_bias)]
    numba_backend.run("gate_strips", x, y, scratch, size, *shape, by_channel, *weights, hidden, gates.factor)


def _run_channel_and_spatial(x: Tensor, y: Tensor, program: GateProgram, shape: torch.Size, reading: Reading) -> None:
    batch, channels, height, width = shape
    longest, hidden = max(channels, height * width), 0
    channel, hidden = _channel_arguments(program.channel)
    spatial, kernel = _spatial_arguments(program.spatial)
    edge = kernel // 2
    padded_width = width + 2 * edge
    spatial_size = 2 * (height + 2 * edge + 1) * padded_width + height * padded_width
    size = channels + height * width + 2 * longest + max(spatial_size, hidden, longest)
    scratch = torch.empty(batch, size, dtype=torch.float32, device="cpu")
    sizes = (size, *shape, reading is Reading.CHANNEL_ROWS)
    numba_backend.run("gate_images", x, y, numba_backend.constant(1.0, longest), scratch, *sizes, *channel, *spatial)


Arguments = tuple["Tensor | int | None", ...]


def _channel_arguments(gate: ChannelGate | None) -> tuple[Arguments, int]:
    """Kind, mean, maximum, factor, four weights and width as the loop takes them; and the width."""
    if gate is None:
        return (0, 0, 0, 1, None, None, None, None, 0), 0
    switches = (gate.mean, gate.maximum, gate.factor)
    if isinstance(gate.logits, Tensor):
        taps = _fp32(gate.logits)
        return (TAPS, *switches, taps, None, None, None, taps.numel()), taps.numel()
    first, second = _fp32(gate.logits.first), _fp32(gate.logits.second)
    hidden, channels = first.shape
    first_bias, second_bias = (
        numba_backend.constant(0.0, n) if bias is None else _fp32(bias)
        for bias, n in ((gate.logits.first_bias, hidden), (gate.logits.second_bias, channels))
    )
    return (BOTTLENECK, *switches, first, first_bias, second, second_bias, hidden), hidden


def _spatial_arguments(gate: SpatialGate | None) -> tuple[Arguments, int]:
    """Weight, kernel size, scale with shift, and factor as the loop takes them; and the kernel size."""
    if gate is None:
        return (None, 0, None, 1), 0
    affine = torch.cat((gate.scale, gate.shift)).detach().float()
    kernel = gate.weight.shape[-1]
    return (_fp32(gate.weight), kernel, affine, gate.factor), kernel


def _fp32(parameter: Tensor) -> Tensor:
    return parameter.detach().float().contiguous()
