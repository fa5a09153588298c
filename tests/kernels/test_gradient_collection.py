"""Gradients that are collected at an entrance and written once: whatever autograd does, they are the usual ones."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
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
    leaves,
    needs_numba,
    of_a_few,
)
from pairs import over
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attngraft import kernels
from attngraft.attention import attentions

pytestmark = needs_numba
every_name = over(name=attentions())


# --- several runs over one graph ---------------------------------------------------------------------------------


@of_a_few
@in_both_layouts
def test_a_run_for_parameters_alone_leaves_nothing_behind(name: str, layout: str) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        y = module(x)
        alone = torch.autograd.grad(y, list(module.parameters()), arriving_at(y), retain_graph=True)
        y.backward(arriving_at(y, 1))
        return [*alone, *grads(module, x)]

    both_ways(compute, name, layout)


@of_a_few
def test_gradients_of_two_runs_accumulate(name: str) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        y = module(x)
        y.backward(arriving_at(y), retain_graph=True)
        y.backward(arriving_at(y, 1))
        return grads(module, x)

    both_ways(compute, name)


@of_a_few
def test_parts_of_the_graph_may_run_alone(name: str) -> None:
    def compute(module: Any, x: Tensor) -> list[Tensor | None]:
        inner = x * 2
        gates = [gate for gate in vars(module.gates(inner)).values() if gate is not None]
        found = [torch.autograd.grad(gate, inner, arriving_at(gate), retain_graph=True)[0] for gate in gates]
        together = torch.autograd.grad(gates, [inner, *module.parameters()], [arriving_at(gate) for gate in gates])
        return [*found, *together]

    both_ways(compute, name)


@of_a_few
@in_both_layouts
def test_gradients_of_something_in_between(name: str, layout: str) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        between = (x * 2).tanh()
        y = module(between)
        return [y, *torch.autograd.grad(y, [between, x, *module.parameters()], arriving_at(y))]

    both_ways(compute, name, layout)


def test_a_run_that_fails_leaves_nothing_behind() -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        y = module(x)
        fails = [True]

        def fail_once(grad: Tensor) -> None:
            if fails and fails.pop():
                raise KeyError("fails once")

        handle = module.mlp.fc1.weight.register_hook(fail_once)  # between the gate's share and the pool's
        with pytest.raises(KeyError, match="fails once"):
            y.backward(arriving_at(y), retain_graph=True)
        handle.remove()
        return torch.autograd.grad(y, leaves(module, x), arriving_at(y))

    both_ways(compute, "se")


def test_a_run_within_a_run_over_the_same_graph() -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        y = module(x)
        inner: list[Tensor] = []

        def run_again(grad: Tensor) -> None:
            if not inner:
                inner.append(torch.empty(()))
                inner[:] = torch.autograd.grad(y, x, arriving_at(y, 1), retain_graph=True)

        module.mlp.fc1.weight.register_hook(run_again)
        outer = torch.autograd.grad(y, leaves(module, x), arriving_at(y), retain_graph=True)
        return [*inner, *outer]

    both_ways(compute, "se")


def test_runs_over_one_graph_in_two_threads_at_once() -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        y, meeting = module(x), threading.Barrier(2)

        def meet(grad: Tensor) -> None:
            meeting.wait(20)

        module.mlp.fc1.weight.register_hook(meet)  # both threads are half-way through

        def run(seed: int) -> tuple[Tensor, ...]:
            return torch.autograd.grad(y, leaves(module, x), arriving_at(y, seed), retain_graph=True)

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(run, (0, 1))
        return [*first, *second]

    both_ways(compute, "se")


# --- gradients of gradients --------------------------------------------------------------------------------------


@every_name
@in_both_layouts
def test_a_graph_of_the_gradients_does_not_change_them(name: str, layout: str) -> None:
    module, x = awakened(name).eval(), feature_map(*SHAPE, layout=layout).requires_grad_()
    y = module(x)
    plain = torch.autograd.grad(y, leaves(module, x), arriving_at(y), retain_graph=True)
    recorded = torch.autograd.grad(y, leaves(module, x), arriving_at(y), create_graph=True)
    assert_near([gradient.detach() for gradient in recorded], plain)


@every_name
@in_both_layouts
def test_double_backward_is_that_of_the_reference(name: str, layout: str) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        wanted = leaves(module, x)
        y = module(x)
        first = torch.autograd.grad(y.square().sum(), wanted, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in first) / 100
        return [*first, *torch.autograd.grad(penalty, wanted, allow_unused=True)]

    if name in ("capacity", "gc"):
        pytest.skip("computes nothing with the primitives")
    both_ways(compute, name, layout, tolerance=5e-5)  # differences of differences: rounding shows more


def test_a_frozen_attention_has_a_double_backward_too() -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        module.requires_grad_(False)
        y = module(x)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return [first, *torch.autograd.grad(first.square().sum(), x)]

    for name in ("cbam", "static", "eca"):
        both_ways(compute, name)


@of_a_few
def test_gradcheck_in_float64(name: str) -> None:
    module = awakened(name, 3).double().eval()
    parameters = dict(module.named_parameters())
    x = feature_map(1, 3, 3, 2, dtype=torch.float64).requires_grad_()

    def function(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(parameters, values, strict=True)), (x,))

    inputs = (x, *parameters.values())
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


# --- what else networks do ---------------------------------------------------------------------------------------


@of_a_few
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(name: str, use_reentrant: bool) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        y = checkpoint(module, x * 2, use_reentrant=use_reentrant)
        y.backward(arriving_at(y))
        return [y, *grads(module, x)]

    both_ways(compute, name)


@every_name
@in_both_layouts
def test_the_output_may_be_added_to_in_place(name: str, layout: str) -> None:
    module, results = awakened(name).eval(), []
    for choice in ("auto", "reference"):
        twin, x = copy.deepcopy(module), feature_map(*SHAPE, layout=layout).requires_grad_()
        with kernels.using(choice):
            y = twin(x)
            y += x
            y.relu_()
            y.backward(arriving_at(y))
        results.append([y.detach(), *(gradient for gradient in grads(twin, x) if gradient is not None)])
    assert_near(*results)


@of_a_few
@pytest.mark.parametrize("choice", ["auto", "reference"])
def test_changing_x_before_the_backward_pass_raises(name: str, choice: str) -> None:
    with kernels.using(choice):
        x = feature_map(*SHAPE, seed=1).requires_grad_() * 2
        y = awakened(name).eval()(x)
        x.add_(1)
        with pytest.raises(RuntimeError, match="inplace"):
            y.sum().backward()


def test_x_may_change_where_the_backward_pass_does_not_read_it() -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        module.requires_grad_(False)
        inner = x * 2
        y = module(inner)
        inner.add_(1)
        (y + inner).backward(arriving_at(y))
        return [y, x.grad]

    both_ways(compute, "static")


def test_x_changed_in_place_is_entered_anew() -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        inner = x * 2
        kernels.channel_mean(inner)
        inner.mul_(3)
        y = module(inner)
        y.backward(arriving_at(y))
        return grads(module, x)

    both_ways(compute, "cbam")


@of_a_few
def test_hooks_of_modules_and_tensors_see_the_usual_gradients(name: str) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        seen: list[Tensor] = []
        module.register_full_backward_hook(lambda _, at_input, at_output: seen.extend([*at_input, *at_output]))
        module.register_full_backward_pre_hook(lambda _, at_output: seen.extend(at_output))
        inner = x * 2
        inner.register_hook(seen.append)
        inner.retain_grad()
        y = module(inner)
        y.register_hook(lambda grad: grad * 3)
        y.backward(arriving_at(y))
        return [*seen, inner.grad, *grads(module, x)]

    both_ways(compute, name)


@of_a_few
@in_both_layouts
def test_x_may_be_frozen(name: str, layout: str) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        y = module(x.detach())
        y.backward(arriving_at(y))
        return [y, *(parameter.grad for parameter in module.parameters())]

    both_ways(compute, name, layout)


@of_a_few
@in_both_layouts
def test_parameters_may_be_frozen(name: str, layout: str) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        y = module.requires_grad_(False)(x)
        y.backward(arriving_at(y))
        return [y, x.grad]

    both_ways(compute, name, layout)


@of_a_few
@in_both_layouts
def test_saved_tensors_may_be_kept_elsewhere(name: str, layout: str) -> None:
    def packed(tensor: Tensor) -> tuple[Tensor, torch.Size]:
        return tensor.double().flatten().clone(), tensor.dtype, tensor.shape  # and forget the layout

    def unpacked(kept: tuple[Tensor, torch.dtype, torch.Size]) -> Tensor:
        return kept[0].view(kept[2]).to(kept[1])

    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        with torch.autograd.graph.save_on_cpu():
            first = module(x)
        with torch.autograd.graph.saved_tensors_hooks(packed, unpacked):
            second = module(x)
        (first * 2 + second).backward(arriving_at(first))
        return grads(module, x)

    both_ways(compute, name, layout)


@of_a_few
@in_both_layouts
def test_x_may_be_used_by_something_else_as_well(name: str, layout: str) -> None:
    def compute(module: nn.Module, x: Tensor) -> list[Tensor | None]:
        inner = x * 2
        y = module(inner) * inner.sigmoid() + module(inner)
        (y + inner).backward(arriving_at(y))
        return [y, *grads(module, x)]

    both_ways(compute, name, layout)


def test_outputs_do_not_keep_x_where_nothing_learns_from_it() -> None:
    x = feature_map(*SHAPE).requires_grad_()
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        kernels.apply_gates(x, channel=torch.rand(2, 32))
        kernels.channel_mean(x)
    assert x.shape not in kept


def test_memory_is_freed_when_the_graph_is_dropped() -> None:
    module, x = awakened("cbam"), feature_map(*SHAPE).requires_grad_()
    freed: list[bool] = []

    class Watched:
        def __del__(self) -> None:
            freed.append(True)

    y = module(x * 2)
    y.grad_fn.metadata["watched"] = Watched()
    torch.autograd.grad(y, list(module.parameters()), arriving_at(y))
    del y
    assert freed
