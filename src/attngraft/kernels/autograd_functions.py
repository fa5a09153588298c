"""Autograd functions of the two uses of a feature map, pooling and scaling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union, cast

import torch
from torch import Tensor
from torch.autograd import Function

from . import reference, torch_backend
from .backend import Backend, GradientTerms, Over, PoolGradient, Recomputed, Squares
from .gradient_collection import Part, Pending, backend_in_backward
from .layout import Reading, as_matrices, from_matrices, matrix_shape, own_tensor
from .recompute import Normalised

TORCH = cast(Backend, torch_backend)
Map = Union[Tensor, "Recipe"]
Gradients = tuple["Tensor | None", ...]


@dataclass(frozen=True)
class Reduction:
    """A pool of x: over "rows" or "lanes" of a reading, and what it finds besides the mean."""

    reading: Reading
    over: Over
    maximum: bool = False
    squares: Squares = "none"

    def count(self, shape: torch.Size) -> int:
        """How many numbers are pooled into one."""
        _, rows, lanes = matrix_shape(shape, self.reading)
        if self.over == "rows":
            return rows
        return lanes // shape[1] if self.reading is Reading.LINES else lanes

    def line(self, shape: torch.Size) -> tuple[int, ...]:
        """The shape of what is found in a map (B, C, *); over the lanes of `Reading.LINES` it is wide."""
        batch, rows, lanes = matrix_shape(shape, self.reading)
        if self.over == "rows":
            return batch, lanes
        return (batch, rows, shape[1]) if self.reading is Reading.LINES else (batch, rows)

    def results(
        self, backend: Backend, x: Tensor, gate: Tensor | None, *, ties: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Mean, maximum or squares, and ties, each if requested."""
        matrices = as_matrices(x, self.reading)
        if self.reading is Reading.LINES and self.over == "lanes":
            # Positions of one line as rows and its channels as lanes, so that nothing wide is pooled.
            lines = matrices.view(-1, self.count(x.shape), x.shape[1])
            found = backend.pool(lines, None, "rows", maximum=False, ties=False, squares="none")
            return (found.total / self.count(x.shape)).view(self.line(x.shape)), None, None
        found = backend.pool(matrices, gate, self.over, maximum=self.maximum, ties=ties, squares=self.squares)
        mean = found.total / self.count(x.shape)
        return mean, found.maximum if self.maximum else found.squares, found.ties

    def part(self, x: Map | None, gradient: PoolGradient, factor: Tensor | None) -> Part:
        """The share of x's gradient."""
        needs_x = gradient.maximum is not None or factor is not None
        matrices = _matrices(x, self.reading) if x is not None and needs_x else None
        if self.over == "rows":
            return Part(self.reading, GradientTerms(matrices, over_rows=gradient, lane_factor=factor))
        return Part(self.reading, GradientTerms(matrices, over_lanes=gradient, row_factor=factor))


@dataclass(frozen=True)
class PoolMemory:
    """What the backward pass of a pool needs; x only where the gradient depends on it."""

    shape: torch.Size
    x: Map | None
    gate: Tensor | None
    mean: Tensor | None
    maximum: Tensor | None
    ties: Tensor | None


def pool_gradients(
    reduction: Reduction, backend: Backend, memory: PoolMemory, grads: Gradients, *, wants_gate: bool
) -> tuple[Part, Tensor | None]:
    """The share of x's gradient and the gate's gradient, from those of the mean and of the maximum or squares."""
    grad_mean, grad_second = grads
    if grad_mean is None:
        assert grad_second is not None
        grad_mean = torch.zeros_like(grad_second)
    gradient = PoolGradient(grad_mean / reduction.count(memory.shape), memory.gate)
    factor = None
    if grad_second is not None and reduction.maximum:
        assert memory.ties is not None
        share = grad_second / memory.ties
        # Nothing ties where the maximum is NaN; as in PyTorch, NaN is then all that flows back to the line.
        gradient = replace(gradient, weight=gradient.weight + 0 * share, maximum=memory.maximum, share=share)
    elif grad_second is not None:
        factor = 2 * grad_second
        if reduction.squares == "centred":
            assert memory.mean is not None
            gradient = replace(gradient, weight=gradient.weight - factor * memory.mean)
    gradient = replace(gradient, weight=gradient.weight.contiguous())
    grad_gate = None
    if wants_gate and memory.x is not None:
        grad_gate = backend.pool_gate_gradient(_matrices(memory.x, reduction.reading), gradient, reduction.over)
    return reduction.part(memory.x, gradient, factor), grad_gate


class PoolUse(Function):
    """(B, C, *) and a gate or None -> mean, and maximum or squares or None; all small tensors are fp32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate: Tensor | None, reduction: Reduction, backend: Backend, pending: Pending | None
    ) -> tuple[Tensor, Tensor | None]:
        mean, second, ties = reduction.results(backend, x, gate, ties=reduction.maximum)
        ctx.reduction, ctx.backend, ctx.pending, ctx.shape = reduction, backend, pending, x.shape
        ctx.set_materialize_grads(False)
        depends_on_x = second is not None or gate is not None
        stored = _to_store(x, pending) if depends_on_x else None
        centre = mean if reduction.squares == "centred" else None
        ctx.save_for_backward(stored, gate, centre, second if reduction.maximum else None, ties)
        return mean, second

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:  # type: ignore[override]
        x, *small = ctx.saved_tensors
        if all(grad is None for grad in grads):
            return None, None, None, None, None
        reduction, backend = ctx.reduction, backend_in_backward(ctx, grads)
        memory = PoolMemory(ctx.shape, _restored(x, ctx.pending, backend), *small)
        if torch.is_grad_enabled() and memory.x is not None:  # a graph of the gradients is being recorded
            found = _gradients_of(
                lambda *inputs: reduction.results(TORCH, *inputs)[:2],
                (_with_graph(memory.x), memory.gate),
                grads,
                ctx.needs_input_grad,
            )
            return *found, None, None, None
        wants_x, wants_gate, *_ = ctx.needs_input_grad
        part, grad_gate = pool_gradients(reduction, backend, memory, grads, wants_gate=wants_gate)
        if wants_x:
            ctx.pending.add(part)
        return None, grad_gate, None, None, None


class StripUse(Function):
    """(B, C, H, W) in channels_last -> means of rows (B, H, C) and of columns (B, W * C), both found in one read."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, backend: Backend, pending: Pending | None) -> tuple[Tensor, Tensor]:
        ctx.pending, ctx.shape = pending, x.shape
        ctx.set_materialize_grads(False)
        return strip_means(backend, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:  # type: ignore[override]
        by_row, by_column = (
            None if grad is None else PoolGradient((grad / count).contiguous())
            for grad, count in zip(grads, (ctx.shape[3], ctx.shape[2]), strict=True)
        )
        if ctx.needs_input_grad[0] and (by_row or by_column):
            ctx.pending.add(Part(Reading.LINES, GradientTerms(over_rows=by_column, over_lanes=by_row)))
        return None, None, None


def strip_means(backend: Backend, x: Tensor) -> tuple[Tensor, Tensor]:
    """The results of `StripUse`."""
    by_row, by_column = backend.strip_sums(as_matrices(x, Reading.LINES), x.shape[1])
    return by_row / x.shape[3], by_column / x.shape[2]


class ScaleUse(Function):
    """(B, C, *) times a row gate and a lane gate; absent gates are None, gates are fp32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        row_gate: Tensor | None,
        lane_gate: Tensor | None,
        reading: Reading,
        backend: Backend,
        pending: Pending | None,
    ) -> Tensor:
        ctx.reading, ctx.backend, ctx.pending = reading, backend, pending
        # A gate's gradient is made of x; without one to learn, x need not be stored.
        wants_gates = any(gate is not None and gate.requires_grad for gate in (row_gate, lane_gate))
        ctx.save_for_backward(_to_store(x, pending) if wants_gates else None, row_gate, lane_gate)
        return scaled(backend, x, row_gate, lane_gate, reading)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:  # type: ignore[override]
        x, row_gate, lane_gate = ctx.saved_tensors
        reading, backend = ctx.reading, backend_in_backward(ctx, (grad,))
        x = _restored(x, ctx.pending, backend)
        wants_x, *wants_gates = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            if x is None:  # linear in x, and the gates are constants
                return _scaled_in_torch(grad, row_gate, lane_gate, reading), None, None, None, None, None
            found = _gradients_of(
                lambda x, rows, lanes: (_scaled_in_torch(x, rows, lanes, reading),),
                (_with_graph(x), row_gate, lane_gate),
                (grad,),
                [wants_x, *wants_gates],
            )
            return *found, None, None, None
        part, by_row, by_lane = scale_gradients(reading, backend, x, row_gate, lane_gate, grad, wants_gates)
        if wants_x:
            ctx.pending.add(part)
        return None, by_row, by_lane, None, None, None


class ShiftUse(Function):
    """(B, C, *) plus an offset (B, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, reading: Reading, backend: Backend, pending: Pending) -> Tensor:
        ctx.reading, ctx.backend, ctx.pending, ctx.dtype = reading, backend, pending, offset.dtype
        return reference.shift(x, offset)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:  # type: ignore[override]
        if torch.is_grad_enabled():
            return grad, grad.flatten(2).sum(2).to(ctx.dtype), None, None, None
        wants_x, wants_offset, *_ = ctx.needs_input_grad
        matrices, by_channel = as_matrices(grad, ctx.reading), None
        if wants_offset:
            backend = backend_in_backward(ctx, (grad,))
            over: Over = "lanes" if ctx.reading is Reading.CHANNEL_ROWS else "rows"
            by_channel = backend.pool(matrices, None, over, maximum=False, ties=False, squares="none").total
            by_channel = by_channel.to(ctx.dtype)
        if wants_x:
            ctx.pending.add(Part(ctx.reading, GradientTerms(grad=matrices)))
        return None, by_channel, None, None, None


def scaled(backend: Backend, x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, reading: Reading) -> Tensor:
    """`Backend.scale` of a map (B, C, *)."""
    return own_tensor(from_matrices(backend.scale(as_matrices(x, reading), row_gate, lane_gate), reading, x.shape))


def _scaled_in_torch(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, reading: Reading) -> Tensor:
    return from_matrices(torch_backend.scale(as_matrices(x, reading), row_gate, lane_gate), reading, x.shape)


def scale_gradients(
    reading: Reading,
    backend: Backend,
    x: Map | None,
    row_gate: Tensor | None,
    lane_gate: Tensor | None,
    grad: Tensor,
    wanted: Sequence[bool],
) -> tuple[Part, Tensor | None, Tensor | None]:
    """The share of x's gradient, and the gradients of the gates that want one; x is None where none does."""
    matrices = as_matrices(grad, reading)
    part = Part(reading, GradientTerms(grad=matrices, row_gate=row_gate, lane_gate=lane_gate))
    if x is None:
        return part, None, None
    rows, lanes = wanted
    sums = backend.gate_sums(_matrices(x, reading), matrices, row_gate, lane_gate, rows=rows, lanes=lanes)
    return part, *sums


@dataclass(frozen=True)
class Recipe:
    """x, in the form of what it can be recomputed from."""

    norm: Normalised
    source: Tensor


def _to_store(x: Tensor, pending: Pending | None) -> Tensor:
    """What to store for the backward pass: x, or what it can be recomputed from."""
    return x if pending is None or pending.recipe is None else pending.recipe.input()


def _restored(stored: Tensor | None, pending: Pending | None, backend: Backend) -> Map | None:
    """x from what was stored, as far as the backend needs it."""
    if stored is None or pending is None or pending.recipe is None:
        return stored
    recipe = Recipe(pending.recipe, stored)
    return recipe if backend.RECOMPUTES else _with_graph(recipe).detach()


def _with_graph(x: Map) -> Tensor:
    return x.norm.differentiable(x.source) if isinstance(x, Recipe) else x


def _matrices(x: Map, reading: Reading) -> Tensor | Recomputed:
    return x.norm.matrices(x.source, reading) if isinstance(x, Recipe) else as_matrices(x, reading)


def _gradients_of(
    function: Callable[..., Gradients], inputs: Gradients, grads: Gradients, wanted: Sequence[bool]
) -> Gradients:
    """Gradients with respect to the inputs that want one, themselves differentiable."""
    with torch.enable_grad():
        # Views, since a gate may itself be computed from x: each gradient is to be with the other input held fixed.
        inputs = tuple(None if tensor is None else tensor.view_as(tensor) for tensor in inputs)
        pairs = [(out, grad) for out, grad in zip(function(*inputs), grads, strict=True) if grad is not None]
        chosen = {i: tensor for i, tensor in enumerate(inputs) if tensor is not None and wanted[i]}
        outputs, grad_outputs = zip(*pairs, strict=True)
        found = torch.autograd.grad(outputs, list(chosen.values()), grad_outputs, create_graph=True, allow_unused=True)
    by_index = dict(zip(chosen, found, strict=True))
    return tuple(by_index.get(index) for index in range(len(inputs)))
