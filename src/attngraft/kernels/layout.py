"""The memory layout of a feature map, and its view as a batch of matrices."""

from __future__ import annotations

import math
from enum import Enum

import torch
from torch import Tensor

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Reading(Enum):
    """Which numbers of a map (B, C, *) make up the rows and which the lanes."""

    CHANNEL_ROWS = "channels as rows, positions as lanes"
    POSITION_ROWS = "positions as rows, channels as lanes"
    PLANES = "every channel a matrix of its own, (B * C, H, W)"
    LINES = "lines of the map as rows, their positions with all channels as lanes, (B, H, W * C)"


CHANNELS_INSIDE = (Reading.POSITION_ROWS, Reading.LINES)  # the readings of channels_last maps


def reading_of(x: Tensor) -> Reading | None:
    """The reading that needs no copy of x; None for maps that are neither contiguous nor channels_last."""
    if x.dim() < 3:
        return None
    if x.is_contiguous():
        return Reading.CHANNEL_ROWS
    memory_format = CHANNELS_LAST.get(x.dim())
    if memory_format is not None and x.is_contiguous(memory_format=memory_format):
        return Reading.POSITION_ROWS
    return None


def as_matrices(x: Tensor, reading: Reading) -> Tensor:
    """(B, C, *) -> (B, R, L), a view wherever x lies as the reading wants it and a copy elsewhere."""
    shape = x.shape
    if reading in CHANNELS_INSIDE:
        x = x.movedim(1, -1)
    return x.contiguous().view(matrix_shape(shape, reading))


def from_matrices(matrices: Tensor, reading: Reading, shape: torch.Size) -> Tensor:
    """The view (B, C, *) of matrices (B, R, L)."""
    if reading in CHANNELS_INSIDE:
        return matrices.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    return matrices.reshape(shape)


def matrix_shape(shape: torch.Size, reading: Reading) -> tuple[int, int, int]:
    """(B, R, L) for a map of shape (B, C, *)."""
    batch, channels, *positions = shape
    if reading is Reading.PLANES:
        return batch * channels, positions[0], positions[1]
    if reading is Reading.LINES:
        return batch, positions[0], positions[1] * channels
    rows, lanes = channels, math.prod(positions)
    return (batch, lanes, rows) if reading is Reading.POSITION_ROWS else (batch, rows, lanes)


def own_tensor(view: Tensor) -> Tensor:
    """The same memory as a tensor that is nobody's view: networks add to it in place, which autograd forbids for views."""
    own = torch.empty(0, dtype=view.dtype, device=view.device)
    return own.set_(view.untyped_storage(), view.storage_offset(), view.shape, view.stride())
