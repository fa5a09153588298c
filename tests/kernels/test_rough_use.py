"""What users do to modules and tensors, and what the fast kernels then must not do: crash, or compute something else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from fused_helpers import awakened
from pairs import over
from torch import Tensor, nn
from torch.nn.utils import prune

from attngraft import kernels
from attngraft.attention import ATTENTIONS

# --- tensors that have no address ------------------------------------------------------------------------------------


@over(name=["se", "cbam", "static", "cbam-spatial", "coord"], batch=[4, 8], training=[False, True])
def test_weights_elsewhere_are_an_error_as_in_pytorch(name: str, batch: int, training: bool) -> None:
    attention = ATTENTIONS[name].build(16, init="paper").to("meta").train(training)
    with torch.set_grad_enabled(training), pytest.raises((RuntimeError, NotImplementedError)):
        attention(torch.randn(batch, 16, 9, 9)).sum().item()


@pytest.mark.parametrize("name", ["se", "cbam", "eca", "static", "gct", "srm", "coord", "cbam-spatial"])
@pytest.mark.parametrize("batch", [4, 8])
def test_weights_of_a_tensor_subclass(name: str, batch: int) -> None:
    class Noted(Tensor):
        """A tensor of another type with the same numbers."""

    attention = awakened(name, 16).eval()
    x = torch.randn(batch, 16, 6, 6)
    with torch.no_grad():
        expected = attention(x)
        for module in attention.modules():
            for key, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[key] = nn.Parameter(parameter.detach().as_subclass(Noted))
        torch.testing.assert_close(attention(x).as_subclass(Tensor), expected, atol=1e-5, rtol=1e-4)


# --- layers that are not what they were --------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A layer with something beside it, under the names of the layer's own weights."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + 0.5 * x.mean(-1, keepdim=True)


def wrap(attention: Any) -> None:
    attention.channel.mlp.fc1 = Wrapped(attention.channel.mlp.fc1)


def patch(attention: Any) -> None:
    attention.channel.mlp.forward = lambda descriptor: descriptor * 0.5


def identity_norm(attention: Any) -> None:
    attention.spatial.logits.bn = nn.Identity()


def group_norm(attention: Any) -> None:
    attention.spatial.logits.bn = nn.GroupNorm(1, 1)


def no_statistics(attention: Any) -> None:
    norm = attention.spatial.logits.bn
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None


def parametrise(attention: Any) -> None:
    nn.utils.parametrizations.weight_norm(attention.channel.mlp.fc2)


def other_convolution(attention: Any) -> None:
    attention.spatial.logits.conv = nn.Conv2d(2, 1, 3, padding=2, dilation=2)


def quantise(attention: Any) -> None:
    attention.channel.mlp = Rounded(attention.channel.mlp)


class Rounded(nn.Module):
    """Numbers with few digits, as quantised layers have them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x) * 8).round() / 8


@pytest.mark.parametrize(
    "change",
    [wrap, patch, identity_norm, group_norm, no_statistics, parametrise, other_convolution, quantise],
    ids=lambda change: change.__name__,
)
@pytest.mark.parametrize("training", [False, True])
def test_replaced_layers_are_what_runs(change: Any, training: bool) -> None:
    torch.manual_seed(0)
    attention = awakened("cbam", 32)
    change(attention)
    attention.train(training)
    x = torch.randn(8, 32, 7, 7)
    with torch.no_grad():
        fast = copy_of(attention)(x)
        with kernels.using("reference"):
            slow = copy_of(attention)(x)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


def copy_of(attention: nn.Module) -> nn.Module:
    """A copy, as training changes running statistics; functions that were put on a module stay where they are."""
    twin = copy.deepcopy(attention)
    for mine, theirs in zip(attention.modules(), twin.modules(), strict=True):
        if "forward" in mine.__dict__:
            theirs.__dict__["forward"] = mine.__dict__["forward"]
    return twin


def test_double_weights_are_refused_for_any_number_of_images() -> None:
    attention = ATTENTIONS["se"].build(16, init="paper").double().eval()
    for batch in (4, 8):
        with torch.no_grad(), pytest.raises(RuntimeError):
            attention(torch.randn(batch, 16, 5, 5))


@pytest.mark.parametrize("batch", [4, 8])
@pytest.mark.parametrize("training", [False, True])
def test_hooks_see_every_layer(batch: int, training: bool) -> None:
    attention = awakened("cbam", 32).train(training)
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module))
    try:
        with torch.set_grad_enabled(training):
            attention(torch.randn(batch, 32, 7, 7))
    finally:
        handle.remove()
    layers = [module for module in attention.modules() if not list(module.children())]
    assert all(any(module is one for one in seen) for module in layers)


def test_a_pruned_convolution_can_be_trained() -> None:
    attention = awakened("cbam", 32)
    prune.l1_unstructured(attention.spatial.logits.conv, "weight", 0.5)  # type: ignore[union-attr]
    for _ in range(2):
        attention(torch.randn(4, 32, 7, 7)).sum().backward()


# --- changes between the forward and the backward pass -------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["weight", "bias"])
def test_gradients_of_gradients_after_a_change_are_no_silent_error(changed: str) -> None:
    torch.manual_seed(0)
    norm, attention = nn.BatchNorm2d(64), awakened("cbam", 64)
    x = torch.randn(2, 64, 64, 64, requires_grad=True)  # large enough to be made anew
    y = attention(norm(x)).square().sum()
    with torch.no_grad():
        getattr(norm, changed).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, list(attention.parameters()), create_graph=True)


def test_a_changed_input_of_the_normalisation_does_not_stop_the_forward_pass() -> None:
    norm, attention = nn.BatchNorm2d(64), awakened("cbam", 64)
    hidden = torch.randn(2, 64, 64, 64, requires_grad=True) * 1
    normed = norm(hidden)
    with torch.no_grad():
        hidden.add_(1)
    loss = attention(normed).square().mean()
    wanted = torch.autograd.grad(loss, list(attention.parameters()))
    assert all(bool(gradient.isfinite().all()) for gradient in wanted)


def test_a_mean_may_be_changed_in_place() -> None:
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    mean = kernels.channel_mean(x)
    mean.mul_(2)
    mean.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 2 / 36))


# --- gates of other shapes --------------------------------------------------------------------------------------------


@over(rows=[(2, 3, 8), (2, 1, 8), (2, 3, 1), (2, 1, 1), (1, 3, 8)], columns=[(2, 3, 5), (2, 3, 1), None])
@over(training=[False, True])
def test_row_and_column_gates_broadcast(rows: tuple[int, ...], columns: tuple[int, ...] | None, training: bool) -> None:
    torch.manual_seed(0)
    x, by_row = torch.randn(2, 3, 8, 5), torch.rand(rows, requires_grad=training)
    by_column = None if columns is None else torch.rand(columns, requires_grad=training)
    found = kernels.apply_gates(x, rows=by_row, columns=by_column)
    with kernels.using("reference"):
        expected = kernels.apply_gates(x, rows=by_row, columns=by_column)
    torch.testing.assert_close(found, expected)
    if training:
        one, other = (torch.autograd.grad(y.square().sum(), by_row)[0] for y in (found, expected))
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 4, 8)])
def test_row_gates_of_another_size_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError):
        kernels.apply_gates(torch.randn(2, 3, 8, 5), rows=torch.rand(shape))


# --- sums of many numbers, and of none -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(1, 16, 224, 224), (9, 4, 300, 301)])
def test_sums_of_large_maps_keep_their_digits(layout: torch.memory_format, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).relu().contiguous(memory_format=layout)
    exact = x.double()
    mean, variance = kernels.channel_moments(x)
    torch.testing.assert_close(mean.double(), exact.mean((2, 3)), rtol=1e-5, atol=0)
    torch.testing.assert_close(variance.double(), exact.var((2, 3)), rtol=1e-5, atol=0)
    norm = kernels.channel_norm(x, 1e-5).double()
    torch.testing.assert_close(norm, (exact.square().sum((2, 3)) + 1e-5).sqrt(), rtol=1e-5, atol=0)
    same = torch.full(shape, 0.1).contiguous(memory_format=layout)
    torch.testing.assert_close(kernels.channel_mean(same), same[:, :, 0, 0], rtol=1e-5, atol=0)
    pooled, _ = kernels.channel_pool(same)
    torch.testing.assert_close(pooled, same[:, :, 0, 0], rtol=1e-5, atol=0)
    attention = awakened("se", shape[1]).eval()
    with torch.no_grad():
        gate = (attention(same) / same)[:, :, 0, 0]
        torch.testing.assert_close(gate, attention.gates(same[:, :, :8, :8]).channel, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["cbam", "se", "eca", "coord", "srm", "gct", "row-column", "triplet", "light-cbam"])
def test_an_empty_batch_compiles(name: str) -> None:
    torch.compiler.reset()
    attention = awakened(name, 8).eval()
    with torch.no_grad():
        found = torch.compile(attention, backend="eager", fullgraph=True)(torch.randn(0, 8, 6, 6))
    assert found.shape == (0, 8, 6, 6)
