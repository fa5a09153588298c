"""Context managers that record or replace the gates of grafts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from ..attention import Attention, Gates
from ..errors import GraftError, nearest
from .compiled import uncompiled
from .graft import grafts

Compute = Callable[[Attention, Tensor], Gates]
See = Callable[[str, Tensor, Gates], None]


@contextmanager
def computing(model: nn.Module, how: Mapping[str, Compute]) -> Iterator[None]:
    """Within the block, the grafts at these sites compute their gates as told; afterwards as ever, also after errors.

    Blocks may be nested: of two that name one site, the inner one holds. Not for several threads at once on one
    model. Of a compiled model, the module that was compiled is changed: run that one (`uncompiled`).

    Args:
        model: with live grafts.
        how: site path -> (attention, its input (B, C, *)) -> gates.

    Raises:
        GraftError: no graft is live at one of the paths.
    """
    live = grafts(uncompiled(model))
    for path in how:
        if path not in live:
            raise GraftError(f"no graft is live at '{path}': {nearest(path, live)}")
    before = {path: live[path].__dict__.get("forward") for path in how}
    try:
        for path, compute in how.items():
            live[path].forward = partial(_forward, live[path], compute)  # type: ignore[method-assign]
        yield
    finally:
        for path, forward in before.items():
            live[path].__dict__.pop("forward", None)
            if forward is not None:
                live[path].forward = forward  # type: ignore[method-assign]


@contextmanager
def watching(model: nn.Module, see: See) -> Iterator[None]:
    """Within the block, `see(site path, input (B, C, *), gates)` is called whenever a graft runs.

    Within a block of `computing` it sees what that one computes.
    """

    def watched(path: str, compute: Compute, attention: Attention, x: Tensor) -> Gates:
        gates = compute(attention, x)
        see(path, x, gates)
        return gates

    live = grafts(uncompiled(model))
    with computing(model, {path: partial(watched, path, _compute_of(attention)) for path, attention in live.items()}):
        yield


def _compute_of(attention: Attention) -> Compute:
    """How a graft computes its gates at present."""
    forward = attention.__dict__.get("forward")
    if isinstance(forward, partial) and forward.func is _forward:
        compute: Compute = forward.args[1]
        return compute
    return _own_gates


def _own_gates(attention: Attention, x: Tensor) -> Gates:
    return attention.gates(x)


def _forward(attention: Attention, compute: Compute, x: Tensor) -> Tensor:
    return attention.apply_gates(x, compute(attention, x))
