"""Maps behind a batch normalisation need not be kept, and everything is as if they were."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fused_helpers import (
    SHAPE,
    arriving_at,
    assert_near,
    awakened,
    both_ways,
    feature_map,
    grads,
    in_both_layouts,
    needs_numba,
    of_a_few,
)
from pairs import over
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attngraft import kernels
from attngraft.kernels import recompute

pytestmark = needs_numba


@pytest.fixture(autouse=True)
def _small_maps_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "WORTH_IT", 0)


def normalisation() -> nn.BatchNorm2d:
    """A layer with weights of its own."""
    layer = nn.BatchNorm2d(32)
    with torch.no_grad():
        layer.weight.copy_(feature_map(32, seed=8))
        layer.bias.copy_(feature_map(32, seed=9))
    return layer


BETWEEN: dict[str, Callable[[Tensor], Any]] = {
    "nothing": lambda x: x,
    "a value set": lambda x: x.detach()[:, :, 2, 3].fill_(7),  # beyond autograd, as masks and clamps do it
    "a value added": lambda x: x[:, :, 2, 3].add_(1),
    "relu": lambda x: x.relu_(),
    "relu of all": lambda x: torch.no_grad()(x.clamp_)(min=0),
}


@of_a_few
@in_both_layouts
@over(between=BETWEEN)
@over(training=[True, False])
def test_behind_a_normalisation(name: str, layout: str, between: str, training: bool) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        layer = normalisation().train(training)
        inner = layer(x)
        BETWEEN[between](inner)
        y = module(inner)
        y.backward(arriving_at(y))
        return [y, *grads(module, x), *grads(layer, x)]

    both_ways(compute, name, layout)


@of_a_few
def test_behind_a_normalisation_in_bf16(name: str) -> None:
    results = []
    for choice in ("auto", "reference"):
        module, layer, x = awakened(name).eval(), normalisation(), feature_map(*SHAPE).requires_grad_()
        with kernels.using(choice), torch.autocast("cpu", torch.bfloat16):
            y = module(layer(x.bfloat16()))
        y.backward(arriving_at(y))
        results.append([y.detach(), x.grad])
    assert_near(*results, 5e-2)


@of_a_few
def test_behind_a_normalisation_runs_may_repeat_and_be_partial(name: str) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        layer = normalisation()
        y = module(layer(x))
        alone = torch.autograd.grad(y, list(module.parameters()), arriving_at(y), retain_graph=True)
        wanted = [x, *layer.parameters(), *module.parameters()]
        first = torch.autograd.grad(y, wanted, arriving_at(y, 1), retain_graph=True)
        return [*alone, *first, *torch.autograd.grad(y, wanted, arriving_at(y, 2))]

    both_ways(compute, name)


@of_a_few
@in_both_layouts
def test_behind_a_normalisation_double_backward(name: str, layout: str) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        layer = normalisation()
        wanted = [x, *layer.parameters(), *module.parameters()]
        y = module(layer(x))
        first = torch.autograd.grad(y.square().sum(), wanted, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in first) / 100
        return [*first, *torch.autograd.grad(penalty, wanted, allow_unused=True)]

    both_ways(compute, name, layout, tolerance=1e-4)


@pytest.mark.parametrize("where", ["both", "normalisation", "attention"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_behind_a_normalisation_with_checkpoints(where: str, use_reentrant: bool) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        layer = normalisation()
        parts = {"both": [nn.Sequential(layer, module)]}.get(where, [layer, module])
        y = x * 1
        for part in parts:
            kept = where in ("both", "normalisation" if part is layer else "attention")
            y = checkpoint(part, y, use_reentrant=use_reentrant) if kept else part(y)
        y.backward(arriving_at(y))
        return [y, *grads(module, x), *grads(layer, x), layer.running_mean, layer.running_var]

    both_ways(compute, "cbam")


@pytest.mark.parametrize("where", ["both", "normalisation", "attention"])
@in_both_layouts
def test_behind_a_normalisation_with_saved_tensors_elsewhere(where: str, layout: str) -> None:
    def packed(tensor: Tensor) -> Tensor:
        return tensor.detach().contiguous().double()

    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        layer, y = normalisation(), x * 1
        for part in (layer, module):
            with contextlib.ExitStack() as stack:
                if where in ("both", "normalisation" if part is layer else "attention"):
                    stack.enter_context(torch.autograd.graph.saved_tensors_hooks(packed, Tensor.float))
                y = part(y)
        y.backward(arriving_at(y))
        return [y, *grads(module, x), *grads(layer, x)]

    both_ways(compute, "cbam", layout)


def test_behind_a_normalisation_whose_own_backward_pass_is_over() -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        inner = normalisation()(x)
        y = module(inner)
        inner.square().mean().backward()  # frees what the normalisation kept
        return [x.grad, *torch.autograd.grad(y, list(module.parameters()), arriving_at(y))]

    both_ways(compute, "cbam")


def test_behind_a_normalisation_whose_parameters_have_moved() -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        layer = normalisation()
        y = module(layer(x))
        with torch.no_grad():
            layer.bias.add_(1)
        y.backward(arriving_at(y))
        return [y, *grads(module, x), *grads(layer, x)]

    both_ways(compute, "cbam")


def test_behind_a_normalisation_whose_input_has_changed_raises() -> None:
    for choice in ("auto", "reference"):
        with kernels.using(choice):
            source = feature_map(*SHAPE).requires_grad_() * 2
            y = awakened("cbam").eval()(normalisation()(source))
            source.add_(1)
            with pytest.raises(RuntimeError, match="inplace"):
                y.sum().backward()
