"""Collect the gradients of all uses of a map, and write them in one pass.

An attention uses its input x several times, to pool it and to scale it. Left to itself, autograd would write a
gradient of x's size for each use and add them up. Here x goes through an entrance. In the backward pass every use
leaves the small tensors that its gradient is made of at the entrance, which autograd visits last, and there one
pass writes the sum.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function

from . import torch_backend
from .backend import Backend, GradientTerms, PoolGradient, Recomputed
from .layout import Reading, from_matrices, matrix_shape, own_tensor
from .recompute import Normalised


class Like(NamedTuple):
    """What must be known of x to write its gradient."""

    shape: torch.Size
    dtype: torch.dtype


class Part(NamedTuple):
    """A share of the gradient of x, for one reading of x."""

    reading: Reading
    terms: GradientTerms

    def arrived(self) -> Tensor | None:
        """A gradient among the terms."""
        pooled = self.terms.over_rows or self.terms.over_lanes
        return self.terms.grad if pooled is None else pooled.weight

    def joined(self, other: Part) -> Part | None:
        """Both in one, or None where both need the same place."""
        mine, others = self.terms.given(), other.terms.given()
        both = (mine.keys() & others.keys()) - {"x"}
        if self.reading is not other.reading or {"row_factor", "lane_factor"} <= mine.keys() | others.keys():
            return None
        joint = {name: _joined_pools(mine[name], others[name]) for name in both if name.startswith("over_")}
        if len(joint) < len(both) or None in joint.values():
            return None
        return Part(self.reading, GradientTerms(**{**mine, **others, **joint}))


def _joined_pools(one: PoolGradient, other: PoolGradient) -> PoolGradient | None:
    """Weights without gates add up."""
    if one.gate is None and other.gate is None and (one.maximum is None or other.maximum is None):
        with_maximum = other if one.maximum is None else one
        return replace(with_maximum, weight=one.weight + other.weight)
    return None


@dataclass
class Pending:
    """Parts that wait at an entrance, a list for each run of autograd that is under way.

    A run that asks for the gradients of some parameters only never reaches the entrance, and runs may go over one
    graph at the same time: so each has a list of its own, which is gone when the run is.
    """

    recipe: Normalised | None = None  # how x can be recomputed from something that is stored anyway
    parts: dict[int, list[Part]] = field(default_factory=dict)

    def add(self, part: Part) -> None:
        run = torch._C._current_graph_task_id()
        if run not in self.parts:
            self.parts[run] = []
            torch.autograd.Variable._execution_engine.queue_callback(functools.partial(self._forget, run))
        self.parts[run].append(part)

    def _forget(self, run: int) -> None:
        self.parts.pop(run, None)

    def take(self) -> list[Part]:
        return self.parts.pop(torch._C._current_graph_task_id(), [])


class Entrance(Function):
    """The identity whose backward pass sums up what the uses of x have left."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, backend: Backend, recipe: Normalised | None) -> Tensor:
        ctx.collected, ctx.backend, ctx.like = Pending(recipe), backend, Like(x.shape, x.dtype)
        ctx.set_materialize_grads(False)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        parts = ctx.collected.take()
        backend = backend_in_backward(ctx, (part.arrived() for part in parts))
        return write_gradient(backend, parts, ctx.like, grad), None, None


def backend_in_backward(ctx: Any, grads: Iterable[Tensor | None]) -> Backend:
    """The backend of the forward pass, or plain PyTorch for a batch of gradients, which has no address in memory."""
    in_memory = all(grad is None or torch._C._has_storage(grad) for grad in grads)
    if in_memory and not torch._C._are_functorch_transforms_active():
        return ctx.backend
    return cast(Backend, torch_backend)


def pending_of(x: Tensor) -> Pending | None:
    """Where uses of x leave their parts; None unless x has come through an entrance."""
    return getattr(x.grad_fn, "collected", None)


def write_gradient(backend: Backend, parts: Sequence[Part], like: Like, rest: Tensor | None = None) -> Tensor | None:
    """The sum of all parts, and of what came the usual way, for an x like that."""
    for part in _joined(parts):
        whole = _write(backend, part, like)
        rest = whole if rest is None else rest + whole
    return rest


def _joined(parts: Sequence[Part]) -> list[Part]:
    result: list[Part] = []
    for part in parts:
        for index, other in enumerate(result):
            both = other.joined(part)
            if both is not None:
                result[index] = both
                break
        else:
            result.append(part)
    return result


def _write(backend: Backend, part: Part, like: Like) -> Tensor:
    big = part.terms.x if part.terms.grad is None else part.terms.grad
    big = big.source if isinstance(big, Recomputed) else big
    matrices = _expanded(part, like) if big is None else backend.input_gradient(big, part.terms)
    gradient = from_matrices(matrices, part.reading, like.shape)
    if big is None or not torch._C._has_storage(gradient):
        return gradient
    return own_tensor(gradient)  # autograd keeps it without a copy


def _expanded(part: Part, like: Like) -> Tensor:
    """Gradients of means are constant along what was pooled: views suffice, no pass is needed."""
    total: Tensor | None = None
    shape = matrix_shape(like.shape, part.reading)
    for pooled, across in ((part.terms.over_rows, 1), (part.terms.over_lanes, 2)):
        if pooled is not None:
            weight = pooled.weight.unsqueeze(1) if across == 1 else torch_backend.along_lanes(pooled.weight, shape[2])
            if pooled.gate is not None:
                weight = weight * pooled.gate.unsqueeze(3 - across)
            total = weight if total is None else total + weight
    assert total is not None, "a part without x, gradient and pools is no part"
    return total.to(like.dtype).expand(shape)
