"""Let grafts compute their gates in another way for a while, or watch them compute: the model itself is not changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from ..attention import Attention, Gates
from ..errors import GraftError, nearest
from .graft import grafts, uncompiled

Compute = Callable[[Attention, Tensor], Gates]
See = Callable[[str, Tensor, Gates], None]


@contextmanager
def computing(model: nn.Module, how: Mapping[str, Compute]) -> Iterator[None]:
    """Within the block, the grafts at these sites compute their gates as told; afterwards as ever, also after errors.

    Not for several threads at once on one model. Of a compiled model, the module that was compiled is changed: run
    that one (`uncompiled`).

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
    changed: list[Attention] = []
    try:
        for path, compute in how.items():
            changed.append(live[path])
            live[path].forward = partial(_forward, live[path], compute)  # type: ignore[method-assign]
        yield
    finally:
        for attention in changed:
            attention.__dict__.pop("forward", None)


@contextmanager
def watching(model: nn.Module, see: See) -> Iterator[None]:
    """Within the block, `see(site path, input (B, C, *), gates)` is called whenever a graft runs."""

    def watched(path: str, attention: Attention, x: Tensor) -> Gates:
        gates = attention.gates(x)
        see(path, x, gates)
        return gates

    with computing(model, {path: partial(watched, path) for path in grafts(uncompiled(model))}):
        yield


def _forward(attention: Attention, compute: Compute, x: Tensor) -> Tensor:
    return attention.apply_gates(x, compute(attention, x))
