"""The two uses as custom operators: opaque nodes for torch.compile, on any device.

In a compiled graph every use writes a gradient of its own, since a graph has no place to wait in; what an entrance
collects in eager mode (gradient_collection.py), the compiler adds up.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .autograd_functions import (
    PoolMemory,
    Reduction,
    pool_gradients,
    scale_gradients,
    scaled,
)
from .dispatch import passes_or_plain
from .gradient_collection import Like, Part, write_gradient
from .layout import (
    Reading,
    as_matrices,
    from_matrices,
    matrix_shape,
    own_tensor,
)


@torch.library.custom_op("attngraft::pool", mutates_args=())
def pool(
    x: Tensor, gate: Tensor | None, reading: str, over: str, maximum: bool, squares: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, maximum or squares, and ties of x times a gate; what was not asked for is empty."""
    reduction = _reduction(reading, over, maximum, squares)
    results = reduction.results(passes_or_plain(x), x, gate, ties=maximum)
    mean, second, ties = (x.new_empty(0, dtype=torch.float32) if found is None else found for found in results)
    return mean, second, ties


@pool.register_fake
def _(
    x: Tensor, gate: Tensor | None, reading: str, over: str, maximum: bool, squares: str
) -> tuple[Tensor, Tensor, Tensor]:
    batch, rows, lanes = matrix_shape(x.shape, Reading[reading])
    line = (batch, lanes if over == "rows" else rows)
    present = (True, maximum or squares != "none", maximum)
    mean, second, ties = (x.new_empty(line if there else (0,), dtype=torch.float32) for there in present)
    return mean, second, ties


@torch.library.custom_op("attngraft::pool_backward", mutates_args=())
def pool_backward(
    x: Tensor,
    gate: Tensor | None,
    mean: Tensor,
    second: Tensor,
    ties: Tensor,
    grad_mean: Tensor,
    grad_second: Tensor | None,
    reading: str,
    over: str,
    maximum: bool,
    squares: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the gate, the second empty where there is no gate."""
    reduction, passes = _reduction(reading, over, maximum, squares), passes_or_plain(x)
    memory = PoolMemory(x.shape, x, gate, mean, second if maximum else None, ties if maximum else None)
    grads = (grad_mean, grad_second)
    part, grad_gate = pool_gradients(reduction, passes, memory, grads, wants_gate=gate is not None)
    grad_x = _written(part, x)
    return grad_x, x.new_empty(0, dtype=torch.float32) if grad_gate is None else grad_gate


@pool_backward.register_fake
def _(
    x: Tensor,
    gate: Tensor | None,
    mean: Tensor,
    second: Tensor,
    ties: Tensor,
    grad_mean: Tensor,
    grad_second: Tensor | None,
    reading: str,
    over: str,
    maximum: bool,
    squares: str,
) -> tuple[Tensor, Tensor]:
    shape = (0,) if gate is None else gate.shape
    return _like(x, reading), x.new_empty(shape, dtype=torch.float32)


def _pool_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gate, *ctx.options = inputs
    ctx.save_for_backward(x, gate, *output)
    ctx.mark_non_differentiable(output[2])


def _pool_gradients(ctx: Any, grad_mean: Tensor, grad_second: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, gate, mean, second, ties = ctx.saved_tensors
    grads = pool_backward(x, gate, mean, second, ties, grad_mean, grad_second if second.numel() else None, *ctx.options)
    return grads[0], None if gate is None else grads[1], None, None, None, None


pool.register_autograd(_pool_gradients, setup_context=_pool_setup)


@torch.library.custom_op("attngraft::scale", mutates_args=())
def scale(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, reading: str) -> Tensor:
    """x times its gates."""
    return scaled(passes_or_plain(x), x, row_gate, lane_gate, Reading[reading])


@scale.register_fake
def _(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, reading: str) -> Tensor:
    return _like(x, reading)


@torch.library.custom_op("attngraft::scale_backward", mutates_args=())
def scale_backward(
    x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, grad: Tensor, reading: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and of the gates, empty where there is none."""
    wanted = (row_gate is not None, lane_gate is not None)
    part, *gates = scale_gradients(Reading[reading], passes_or_plain(x), x, row_gate, lane_gate, grad, wanted)
    by_row, by_lane = (x.new_empty(0, dtype=torch.float32) if found is None else found for found in gates)
    return _written(part, x), by_row, by_lane


@scale_backward.register_fake
def _(
    x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, grad: Tensor, reading: str
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((0,) if gate is None else gate.shape for gate in (row_gate, lane_gate))
    by_row, by_lane = (x.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return _like(x, reading), by_row, by_lane


def _scale_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.reading = inputs
    ctx.save_for_backward(*tensors)


def _scale_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, row_gate, lane_gate = ctx.saved_tensors
    grad_x, by_row, by_lane = scale_backward(x, row_gate, lane_gate, grad, ctx.reading)
    return grad_x, None if row_gate is None else by_row, None if lane_gate is None else by_lane, None


scale.register_autograd(_scale_gradients, setup_context=_scale_setup)


def _reduction(reading: str, over: str, maximum: bool, squares: str) -> Reduction:
    return Reduction(Reading[reading], cast(Any, over), maximum, cast(Any, squares))


def _like(x: Tensor, reading: str) -> Tensor:
    """An empty tensor that lies as `from_matrices` lays it."""
    view = from_matrices(x.new_empty(matrix_shape(x.shape, Reading[reading])), Reading[reading], x.shape)
    return x.new_empty_strided(view.shape, view.stride())


def _written(part: Part, x: Tensor) -> Tensor:
    grad = write_gradient(passes_or_plain(x), [part], Like(x.shape, x.dtype))
    assert grad is not None, "one part writes one gradient"
    # What was spread over lines is a view of small tensors until here.
    return own_tensor(from_matrices(as_matrices(grad, part.reading), part.reading, x.shape))
