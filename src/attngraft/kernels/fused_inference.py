"""Whole attentions in inference, where a backend can take them image by image."""

from __future__ import annotations

import torch
from torch import Tensor

from . import numba_backend
from .dispatch import is_plain, passes_for
from .inference_programs import GateProgram
from .layout import (
    Reading,
    as_matrices,
    from_matrices,
    own_tensor,
    reading_of,
)

FEWEST_IMAGES = 8  # an image is the work of one thread: below, the threads share each pass instead


def takes_programs(x: Tensor) -> bool:
    """Whether `run_program` can be called on x: inference on the CPU, on enough images."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu" or x.dim() != 4:
        return False
    return len(x) >= FEWEST_IMAGES and is_plain(x) and reading_of(x) is not None and passes_for(x) is not None


def run_program(x: Tensor, program: GateProgram) -> Tensor:
    """x times the gates of the program: (B, C, H, W) -> the same shape, dtype and layout."""
    reading = reading_of(x)
    assert reading is not None, "takes_programs(x) was asked before"
    matrices = numba_backend.gate_images(
        as_matrices(x, reading), x.shape, program, by_channel=reading is Reading.CHANNEL_ROWS
    )
    return own_tensor(from_matrices(matrices, reading, x.shape))
