"""What the tests of the fused kernels share: running things fast and as the reference, comparing, and watching."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import over
from torch import Tensor, nn

from attngraft import kernels
from attngraft.attention import create_attention
from attngraft.kernels import numba_backend
from attngraft.kernels.backend import Backend
from attngraft.kernels.layout import CHANNELS_LAST

LAYOUTS = ("contiguous", "channels_last")
PASSES = tuple(name for name, value in vars(Backend).items() if callable(value) and not name.startswith("_"))
CHILDREN = Path(__file__).with_name("fused_children.py")

SHAPE = (2, 32, 5, 6)
FEW = ("cbam", "se", "gct", "srm", "coord", "simam", "global-context", "gc")

of_a_few = over(name=FEW)
in_both_layouts = over(layout=LAYOUTS)
needs_numba = pytest.mark.skipif(numba_backend.unavailable() is not None, reason="the fast kernels cannot run here")


def generator(seed: int) -> torch.Generator:
    """Random numbers of one's own, so that no test depends on another."""
    return torch.Generator().manual_seed(seed)


def feature_map(
    *shape: int, dtype: torch.dtype = torch.float32, layout: str = "contiguous", seed: int = 0, whole: bool = False
) -> Tensor:
    """Normal noise, or whole numbers from -1 to 1 with many ties."""
    source = generator(seed)
    x = torch.randint(-1, 2, shape, generator=source) if whole else torch.randn(shape, generator=source)
    return laid_out(x.to(dtype), layout)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """x in a layout, as far as its rank has it."""
    if layout == "contiguous" or x.dim() not in CHANNELS_LAST:
        return x.contiguous()
    return x.contiguous(memory_format=CHANNELS_LAST[x.dim()])


def awakened(name: str, channels: int = 32, seed: int = 0, **options: Any) -> nn.Module:
    """An attention whose parameters are all random, so that no gate is constant."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = create_attention(name, channels, **options)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def outcome(
    function: Callable[..., Any], *inputs: Tensor, choice: str = "auto", watched: Sequence[Tensor] = ()
) -> list[Tensor]:
    """What a function returns for copies of its inputs, then their gradients and those of `watched` tensors.

    The gradient that arrives at each output is fixed noise; where nothing arrives, the gradient is zero.
    """
    with kernels.using(choice):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        found = function(*leaves)
        outputs = [found] if isinstance(found, Tensor) else list(found)
        wanted = [*leaves, *watched]
        arriving = [arriving_at(output, index) for index, output in enumerate(outputs)]
        gradients = torch.autograd.grad(outputs, wanted, arriving, allow_unused=True)
    filled = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, gradients, strict=True)]
    return [*(output.detach() for output in outputs), *filled]


def arriving_at(output: Tensor, seed: int = 0) -> Tensor:
    """Noise that lies like an output, exact in bf16 so that every dtype sees the same."""
    noise = torch.randn(output.shape, generator=generator(100 + seed)).bfloat16()
    return torch.empty_like(output, requires_grad=False).copy_(noise)


def assert_near(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """Errors are judged by the largest number of a tensor; NaN must meet NaN, and infinities themselves.

    Where everything in a tensor cancels, by a tenth of the largest number of all.
    """
    largest = max(magnitude(wanted) for wanted in expected)
    for index, (found, wanted) in enumerate(zip(actual, expected, strict=True)):
        allowed = tolerance * max(magnitude(wanted), largest / 10)
        assert found.shape == wanted.shape
        torch.testing.assert_close(
            *(found.double(), wanted.double()),
            rtol=0,
            atol=allowed,
            equal_nan=True,
            msg=lambda text, index=index: f"tensor {index}: {text}",
        )


def assert_as_exact(actual: Sequence[Tensor], usual: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
    """Like `assert_near`, or no further from the exact numbers than ten times the worst error of the usual ones."""
    largest = max(magnitude(wanted) for wanted in exact)
    for index, (found, slow, wanted) in enumerate(zip(actual, usual, exact, strict=True)):
        error, usual_error = magnitude(found.double() - wanted), magnitude(slow.double() - wanted)
        allowed = max(1e-5 * magnitude(wanted), 1e-6 * largest, 10 * usual_error)
        assert found.shape == wanted.shape
        assert error <= allowed, f"tensor {index} is wrong by up to {error}, the reference by {usual_error}"


def magnitude(tensor: Tensor) -> float:
    """The largest finite number, without its sign."""
    ordinary = tensor[tensor.isfinite()]
    return float(ordinary.abs().max()) if ordinary.numel() else 0.0


def module_outcome(module: nn.Module, x: Tensor, choice: str = "auto") -> list[Tensor]:
    """Output, gradients of x and of all parameters, and buffers afterwards, of a copy of a module."""
    twin = copy.deepcopy(module)
    found = outcome(twin, x, choice=choice, watched=list(twin.parameters()))
    return [*found, *(buffer.detach() for buffer in twin.buffers())]


def assert_module_as_reference(module: nn.Module, x: Tensor) -> None:
    """A module computes, learns and keeps statistics as with the reference, judged in float64."""
    exact = module_outcome(copy.deepcopy(module).double(), x.double(), "reference")
    assert_as_exact(module_outcome(module, x), module_outcome(module, x, "reference"), exact)


@contextmanager
def observed_passes() -> Iterator[list[str]]:
    """The names of the passes that the processor's backend runs within the block, in order."""
    seen: list[str] = []

    def watched(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def observed(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            return run(*arguments, **options)

        return observed

    with pytest.MonkeyPatch.context() as patch:
        for name in PASSES:
            patch.setattr(numba_backend, name, watched(name, getattr(numba_backend, name)))
        yield seen


def both_ways(
    compute: Callable[[nn.Module, Tensor], Any], name: str, layout: str = "contiguous", tolerance: float = 1e-5
) -> None:
    """Assert that a computation with an attention and a leaf x gives the same fast and as the reference.

    What it returns is compared; the fast way must really have been fast.
    """
    results = []
    for choice in ("auto", "reference"):
        module, x = awakened(name).eval(), feature_map(*SHAPE, layout=layout).requires_grad_()
        with kernels.using(choice), observed_passes() as seen:
            found = compute(module, x)
        assert seen or choice == "reference"
        results.append([torch.zeros(()) if tensor is None else tensor.detach() for tensor in found])
    assert_near(*results, tolerance)


def leaves(module: nn.Module, x: Tensor) -> list[Tensor]:
    return [x, *module.parameters()]


def grads(module: nn.Module, x: Tensor) -> list[Tensor | None]:
    return [tensor.grad for tensor in leaves(module, x)]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch computes on so many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_child(
    task: str, *arguments: str, timeout_s: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a task of fused_children.py in a process of its own; a hang is an error."""
    child = subprocess.run(
        [sys.executable, str(CHILDREN), task, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **environment},
    )
    assert child.returncode == 0, child.stderr[-3000:]
    assert "Traceback" not in child.stderr, child.stderr[-3000:]
    return child
