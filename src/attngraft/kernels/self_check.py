"""Compare the passes of a backend with plain PyTorch on small random maps, once per device of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from . import torch_backend
from .backend import Backend, GradientTerms, Over, PoolGradient

SHAPES = ((2, 5, 12), (1, 33, 130))  # one that fills no tile, one that fills more than one
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}  # of the largest number

Pass = Callable[[Backend], Iterable[Tensor | None]]


def disagreement(backend: Backend, device: torch.device, dtypes: Iterable[torch.dtype]) -> str | None:
    """How a backend differs from plain PyTorch, in a few words; None where it does not.

    Args:
        backend: to check.
        device: where it runs.
        dtypes: of the maps.
    """
    for dtype in dtypes:
        for shape in SHAPES:
            for name, run in _passes(shape, dtype, device):
                what = f"{name} of a map {shape} in {str(dtype).removeprefix('torch.')}"
                try:
                    found = list(run(backend))
                except Exception as error:  # a compiler and a driver raise what they like
                    return f"{what} fails ({type(error).__name__}: {str(error).strip()[:300]})"
                for one, other in zip(found, run(_plain()), strict=True):
                    if (one is None) != (other is None):
                        return f"{what} gives something else"
                    if one is not None and other is not None and not _is_close(one, other, ALLOWED[dtype]):
                        return f"{what} is off by {float((one.float() - other.float()).abs().max()):.3g}"
    return None


def _plain() -> Backend:
    found: Backend = torch_backend  # type: ignore[assignment]
    return found


def _is_close(one: Tensor, other: Tensor, allowed: float) -> bool:
    one, other = one.float(), other.float()
    return one.shape == other.shape and bool(((one - other).abs() <= allowed * (1 + other.abs().max())).all())


def _passes(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Pass]]:
    """Every pass with all that it can be asked for, on maps of one shape."""
    draw = torch.Generator().manual_seed(0)
    plain: dict[str, Any] = {
        "generator": draw,
        "device": "cpu",
        "dtype": torch.float32,
    }  # whatever the defaults of the program are
    x, grad = (torch.randn(shape, **plain).to(device, dtype) for _ in range(2))
    rows, lanes = (torch.rand(shape[0], size, **plain).to(device) + 0.5 for size in shape[1:])
    gates: dict[Over, Tensor] = {"rows": rows, "lanes": lanes}
    pooled: dict[Over, PoolGradient] = {}
    for over, gate in gates.items():
        found = _plain().pool(x, gate, over, maximum=True, ties=True, squares="none")
        assert found.maximum is not None
        pooled[over] = PoolGradient(torch.ones_like(found.total), gate, found.maximum, torch.ones_like(found.total))
        yield f"a pool over {over}", lambda b, over=over, gate=gate: _pooled(b, x, gate, over)  # type: ignore[misc]
        yield f"squares over {over}", lambda b, over=over: _squares(b, x, over)  # type: ignore[misc]
        yield (
            f"the gradient of the gate of a pool over {over}",
            lambda b, over=over: [b.pool_gate_gradient(x, pooled[over], over)],  # type: ignore[misc]
        )
    yield "the product with gates", lambda b: [b.scale(x, rows, lanes), b.scale(x, rows, None), b.scale(x, None, lanes)]
    yield "the gradients of gates", lambda b: b.gate_sums(x, grad, rows, lanes, rows=True, lanes=True)
    terms = GradientTerms(x, grad, rows, lanes, pooled["rows"], pooled["lanes"], row_factor=rows)
    yield "the gradient of the input", lambda b: [b.input_gradient(x, terms)]


def _pooled(backend: Backend, x: Tensor, gate: Tensor, over: Over) -> list[Tensor | None]:
    found = backend.pool(x, gate, over, maximum=True, ties=True, squares="none")
    return [found.total, found.maximum, found.ties]


def _squares(backend: Backend, x: Tensor, over: Over) -> list[Tensor | None]:
    raw, centred = (
        backend.pool(x, None, over, maximum=False, ties=False, squares=s).squares for s in ("raw", "centred")
    )
    return [raw, centred]
