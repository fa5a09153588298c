"""The two uses of a feature map, pooling and scaling, with hand-written gradients in terms of the passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, cast

import torch
from torch import Tensor
from torch.autograd import Function

from . import torch_backend
from .backend import (
    Passes,
    PoolGradient,
    Remade,
    Squares,
)
from .gradient_collection import Part, Pending, passes_in_backward
from .layout import (
    Reading,
    as_matrices,
    from_matrices,
    matrix_shape,
    own_tensor,
)
from .recompute import Normalised

PLAIN = cast(Passes, torch_backend)
Map = Union[Tensor, "Recalled"]
Gradients = tuple["Tensor | None", ...]


@dataclass(frozen=True)
class Reduction:
    """Which pool of x: over "rows" or "lanes" of a reading, and what it finds besides the mean."""

    reading: Reading
    over: Literal["rows", "lanes"]
    maximum: bool = False
    squares: Squares = "none"

    def count(self, shape: torch.Size) -> int:
        """How many numbers are pooled into one."""
        return matrix_shape(shape, self.reading)[1 if self.over == "rows" else 2]

    def results(
        self, passes: Passes, x: Tensor, gate: Tensor | None, *, ties: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Mean, maximum or squares, and ties, each where it was asked for."""
        pool = passes.pool_rows if self.over == "rows" else passes.pool_lanes
        found = pool(as_matrices(x, self.reading), gate, maximum=self.maximum, ties=ties, squares=self.squares)
        mean = found.total / self.count(x.shape)
        return mean, found.maximum if self.maximum else found.squares, found.ties

    def part(self, x: Map | None, gradient: PoolGradient, factor: Tensor | None) -> Part:
        """The share of x's gradient."""
        needs_x = gradient.maximum is not None or factor is not None
        matrices = _matrices(x, self.reading) if x is not None and needs_x else None
        if self.over == "rows":
            return Part(self.reading, matrices, over_rows=gradient, lane_factor=factor)
        return Part(self.reading, matrices, over_lanes=gradient, row_factor=factor)


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
    reduction: Reduction, passes: Passes, memory: PoolMemory, grads: Gradients, *, wants_gate: bool
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
        weigh = passes.weigh_lanes if reduction.over == "rows" else passes.weigh_rows
        grad_gate = weigh(_matrices(memory.x, reduction.reading), gradient)
    return reduction.part(memory.x, gradient, factor), grad_gate


class PoolUse(Function):
    """(B, C, *) and a gate or None -> mean, and maximum or squares or None; all small tensors are fp32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate: Tensor | None, reduction: Reduction, passes: Passes, pending: Pending | None
    ) -> tuple[Tensor, Tensor | None]:
        mean, second, ties = reduction.results(passes, x, gate, ties=reduction.maximum)
        ctx.reduction, ctx.passes, ctx.pending, ctx.shape = reduction, passes, pending, x.shape
        ctx.set_materialize_grads(False)
        depends_on_x = second is not None or gate is not None
        kept = _kept(x, pending) if depends_on_x else None
        centre = mean if reduction.squares == "centred" else None
        ctx.save_for_backward(kept, gate, centre, second if reduction.maximum else None, ties)
        return mean, second

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:  # type: ignore[override]
        x, *small = ctx.saved_tensors
        if all(grad is None for grad in grads):
            return None, None, None, None, None
        reduction, passes = ctx.reduction, passes_in_backward(ctx, grads)
        memory = PoolMemory(ctx.shape, _recalled(x, ctx.pending, passes), *small)
        if torch.is_grad_enabled() and memory.x is not None:  # somebody wants gradients of gradients
            found = _gradients_of(
                lambda *inputs: reduction.results(PLAIN, *inputs)[:2],
                (_with_graph(memory.x), memory.gate),
                grads,
                ctx.needs_input_grad,
            )
            return *found, None, None, None
        wants_x, wants_gate, *_ = ctx.needs_input_grad
        part, grad_gate = pool_gradients(reduction, passes, memory, grads, wants_gate=wants_gate)
        if wants_x:
            ctx.pending.add(part)
        return None, grad_gate, None, None, None


class ScaleUse(Function):
    """(B, C, *) times a row gate and a lane gate; absent gates are None, gates are fp32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        row_gate: Tensor | None,
        lane_gate: Tensor | None,
        reading: Reading,
        passes: Passes,
        pending: Pending | None,
    ) -> Tensor:
        ctx.reading, ctx.passes, ctx.pending = reading, passes, pending
        # A gate's gradient is made of x; without one to learn, x need not be kept.
        wants_gates = any(gate is not None and gate.requires_grad for gate in (row_gate, lane_gate))
        ctx.save_for_backward(_kept(x, pending) if wants_gates else None, row_gate, lane_gate)
        return scaled(passes, x, row_gate, lane_gate, reading)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:  # type: ignore[override]
        x, row_gate, lane_gate = ctx.saved_tensors
        reading, passes = ctx.reading, passes_in_backward(ctx, (grad,))
        x = _recalled(x, ctx.pending, passes)
        wants_x, *wants_gates = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            if x is None:  # linear in x, and the gates are constants
                return _scaled_plainly(grad, row_gate, lane_gate, reading), None, None, None, None, None
            found = _gradients_of(
                lambda x, rows, lanes: (_scaled_plainly(x, rows, lanes, reading),),
                (_with_graph(x), row_gate, lane_gate),
                (grad,),
                [wants_x, *wants_gates],
            )
            return *found, None, None, None
        part, by_row, by_lane = scale_gradients(reading, passes, x, row_gate, lane_gate, grad, wants_gates)
        if wants_x:
            ctx.pending.add(part)
        return None, by_row, by_lane, None, None, None


def scaled(passes: Passes, x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, reading: Reading) -> Tensor:
    """`Passes.scale` of a map (B, C, *)."""
    return own_tensor(from_matrices(passes.scale(as_matrices(x, reading), row_gate, lane_gate), reading, x.shape))


def _scaled_plainly(x: Tensor, row_gate: Tensor | None, lane_gate: Tensor | None, reading: Reading) -> Tensor:
    return from_matrices(torch_backend.scale(as_matrices(x, reading), row_gate, lane_gate), reading, x.shape)


def scale_gradients(
    reading: Reading,
    passes: Passes,
    x: Map | None,
    row_gate: Tensor | None,
    lane_gate: Tensor | None,
    grad: Tensor,
    wanted: Sequence[bool],
) -> tuple[Part, Tensor | None, Tensor | None]:
    """The share of x's gradient, and the gradients of the gates that want one; x is None where none does."""
    matrices = as_matrices(grad, reading)
    part = Part(reading, grad=matrices, row_gate=row_gate, lane_gate=lane_gate)
    if x is None:
        return part, None, None
    rows, lanes = wanted
    sums = passes.gate_sums(_matrices(x, reading), matrices, row_gate, lane_gate, rows=rows, lanes=lanes)
    return part, *sums


@dataclass(frozen=True)
class Recalled:
    """x, in the form of what it can be made of."""

    recipe: Normalised
    source: Tensor


def _kept(x: Tensor, pending: Pending | None) -> Tensor:
    """What to keep for the backward pass: x, or what it can be made of."""
    return x if pending is None or pending.recipe is None else pending.recipe.input()


def _recalled(kept: Tensor | None, pending: Pending | None, passes: Passes) -> Map | None:
    """x from what was kept, as far as the backend needs it."""
    if kept is None or pending is None or pending.recipe is None:
        return kept
    recalled = Recalled(pending.recipe, kept)
    return recalled if passes.REMAKES else _with_graph(recalled).detach()


def _with_graph(x: Map) -> Tensor:
    return x.recipe.differentiable(x.source) if isinstance(x, Recalled) else x


def _matrices(x: Map, reading: Reading) -> Tensor | Remade:
    return x.recipe.matrices(x.source, reading) if isinstance(x, Recalled) else as_matrices(x, reading)


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
