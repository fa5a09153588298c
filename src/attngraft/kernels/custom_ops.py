"""Pooling and scaling as torch.library operators, for torch.compile.

In a compiled graph every use writes a gradient of its own, since a graph has no place to wait in; what an entrance
collects in eager mode (gradient_collection.py), the compiler adds up.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .autograd_functions import PoolMemory, Reduction, pool_gradients, scale_gradients, scaled
from .dispatch import fast_or_torch
from .gradient_collection import Like, Part, write_gradient
from .layout import Reading, as_matrices, from_matrices, matrix_shape, own_tensor


def encode(reduction: Reduction) -> str:
    """A reduction as text, since operators take no dataclasses."""
    return f"{reduction.reading.name} {reduction.over} {int(reduction.maximum)} {reduction.squares}"


def _decode(text: str) -> Reduction:
    reading, over, maximum, squares = text.split()
    return Reduction(Reading[reading], cast(Any, over), maximum == "1", cast(Any, squares))


@torch.library.custom_op("attngraft::pool", mutates_args=())
def pool(x: Tensor, gate: Tensor | None, reduction: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, maximum or squares, and ties of x times a gate; what was not requested is empty."""
    chosen = _decode(reduction)
    mean, second, ties = chosen.results(fast_or_torch(x), x, gate, ties=chosen.maximum)
    return mean, _or_empty(second, x), _or_empty(ties, x)


@pool.register_fake
def _(x: Tensor, gate: Tensor | None, reduction: str) -> tuple[Tensor, Tensor, Tensor]:
    chosen = _decode(reduction)
    line = chosen.line(x.shape)
    present = (True, chosen.maximum or chosen.squares != "none", chosen.maximum)
    mean, second, ties = (x.new_empty(line if there else (0,), dtype=torch.float32) for there in present)
    return mean, second, ties


@torch.library.custom_op("attngraft::pool_backward", mutates_args=())
def pool_backward(
    x: Tensor,
    gate: Tensor | None,
    found: list[Tensor],
    grad_mean: Tensor,
    grad_second: Tensor | None,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the gate, the second empty where there is no gate; `found` are the results of `pool`."""
    chosen, (mean, second, ties) = _decode(reduction), found
    extremes = (second, ties) if chosen.maximum else (None, None)
    memory, grads = PoolMemory(x.shape, x, gate, mean, *extremes), (grad_mean, grad_second)
    part, grad_gate = pool_gradients(chosen, fast_or_torch(x), memory, grads, wants_gate=gate is not None)
    return _written(part, x), _or_empty(grad_gate, x)


@pool_backward.register_fake
def _(
    x: Tensor,
    gate: Tensor | None,
    found: list[Tensor],
    grad_mean: Tensor,
    grad_second: Tensor | None,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    return _like(x, _decode(reduction).reading), _fake_line(gate, x)


def _pool_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gate, ctx.reduction = inputs
    ctx.save_for_backward(x, gate, *output)
    ctx.mark_non_differentiable(output[2])


def _pool_gradients(ctx: Any, grad_mean: Tensor, grad_second: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, gate, *found = ctx.saved_tensors
    grads = pool_backward(x, gate, found, grad_mean, grad_second if found[1].numel() else None, ctx.reduction)
    return grads[0], None if gate is None else grads[1], None


pool.register_autograd(_pool_gradients, setup_context=_pool_setup)


@torch.library.custom_op("attngraft::scale", mutates_args=())
def scale(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, reading: str) -> Tensor:
    """x times its gates."""
    return scaled(fast_or_torch(x), x, row_gate, lane_gate, Reading[reading])


@scale.register_fake
def _(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, reading: str) -> Tensor:
    return _like(x, Reading[reading])


@torch.library.custom_op("attngraft::scale_backward", mutates_args=())
def scale_backward(
    x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, grad: Tensor, reading: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and of the gates, empty where there is none."""
    wanted = (row_gate is not None, lane_gate is not None)
    part, *gates = scale_gradients(Reading[reading], fast_or_torch(x), x, row_gate, lane_gate, grad, wanted)
    return _written(part, x), _or_empty(gates[0], x), _or_empty(gates[1], x)


@scale_backward.register_fake
def _(
    x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, grad: Tensor, reading: str
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(x, Reading[reading]), _fake_line(row_gate, x), _fake_line(lane_gate, x)


def _scale_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.reading = inputs
    ctx.save_for_backward(*tensors)


def _scale_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, row_gate, lane_gate = ctx.saved_tensors
    grad_x, by_row, by_lane = scale_backward(x, row_gate, lane_gate, grad, ctx.reading)
    return grad_x, None if row_gate is None else by_row, None if lane_gate is None else by_lane, None


scale.register_autograd(_scale_gradients, setup_context=_scale_setup)


def _or_empty(found: Tensor | None, x: Tensor) -> Tensor:
    return x.new_empty(0, dtype=torch.float32) if found is None else found


def _fake_line(gate: Tensor | None, x: Tensor) -> Tensor:
    return x.new_empty((0,) if gate is None else gate.shape, dtype=torch.float32)


def _like(x: Tensor, reading: Reading) -> Tensor:
    """An empty tensor laid out as by `from_matrices`."""
    view = from_matrices(x.new_empty(matrix_shape(x.shape, reading)), reading, x.shape)
    return x.new_empty_strided(view.shape, view.stride())


def _written(part: Part, x: Tensor) -> Tensor:
    grad = write_gradient(fast_or_torch(x), [part], Like(x.shape, x.dtype))
    assert grad is not None, "one part writes one gradient"
    # What is constant along lines is a view of small tensors until here.
    return own_tensor(from_matrices(as_matrices(grad, part.reading), part.reading, x.shape))
