"""Which sums of two maps end a residual branch, and which do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attngraft as ag
from attngraft.errors import GraftError
from attngraft.surgery import search_sites

SIZE = (3, 16, 24)
C = 8


class Block(nn.Module):
    """Layers of all kinds, and a rule that combines them."""

    def __init__(self, rule: Callable[[Block, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.wide = (nn.Conv2d(C, C, 3, 1, 1) for _ in range(3))
        self.point, self.point2 = nn.Conv2d(C, C, 1), nn.Conv2d(C, C, 1)
        self.down, self.up = nn.Conv2d(C, 2, 1), nn.Conv2d(2, C, 1)
        self.low, self.deconv = nn.Conv2d(C, C, 3, 2, 1), nn.ConvTranspose2d(C, C, 2, 2)
        self.bn, self.bn2 = nn.BatchNorm2d(C), nn.BatchNorm2d(C)
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x)


class Other(nn.Module):
    """The rule in a block within the residual branch of another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn = inner, nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn(self.conv(x)))


def net(*blocks: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, C, 3, 2, 1), *blocks, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, 2)
    )


def residual_sites(model: nn.Module, size: tuple[int, int, int] = SIZE) -> list[str]:
    try:
        return [site.path for site in ag.find_sites(model, "residual", input_size=size)]
    except GraftError:
        return []


SHAPE_LENDERS = {
    "view_as": (lambda s, x: x + s.b(x).flatten(2).view_as(x), "b"),
    "view_as of the branch": (lambda s, x: x.flatten(2).view_as(s.b(x)) + s.point(F.relu(s.a(x))), "point"),
    "reshape_as": (lambda s, x: x + s.b(x).reshape(x.shape[0], -1).reshape_as(x), "b"),
    "view of a size": (lambda s, x: x + s.b(x).flatten(1).view(x.size()), "b"),
    "expand_as": (lambda s, x: x + s.b(x).mean((2, 3), True).expand_as(x), None),
    "expand_as of the deep one": (lambda s, x: (y := s.b(s.a(x))) + x.mean((2, 3), True).expand_as(y), "b"),
    "type_as": (lambda s, x: x + s.b(x).double().type_as(x), "b"),
    "type_as the deep one": (lambda s, x: x.type_as(s.wide(s.a(x))) + s.b(x), "b"),
    "to another": (lambda s, x: x.to(s.wide(s.a(x))) + s.b(x), "b"),
    "zeros_like": (lambda s, x: x + torch.zeros_like(s.b(x)), None),
    "ones_like times": (lambda s, x: x * torch.ones_like(s.wide(s.a(x))) + s.b(x), "b"),
    "full_like": (lambda s, x: torch.full_like(s.wide(s.a(x)), 0.5) + s.b(x), None),
    "new_zeros": (lambda s, x: x + s.b(x).new_zeros(x.shape), None),
    "randn_like": (lambda s, x: x + torch.randn_like(s.a(x)), None),
    "interpolate to a size": (lambda s, x: x + F.interpolate(s.b(x), size=s.a(x).shape[2:]), "b"),
    "broadcast_tensors": (lambda s, x: torch.add(*torch.broadcast_tensors(x, s.b(x))), "b"),
    "broadcast the shortcut": (lambda s, x: torch.broadcast_tensors(x, s.wide(s.a(x)))[0] + s.b(x), "b"),
    "broadcast_to": (lambda s, x: x + s.b(x).mean((2, 3), True).broadcast_to(x.shape), None),
    "copy_": (lambda s, x: torch.empty_like(s.wide(s.a(x))).copy_(x) + s.b(x), "b"),
    "out": (lambda s, x: torch.mul(x, 2.0, out=torch.empty_like(s.wide(s.a(x)))) + s.b(x), "b"),
    "an index of the shape": (lambda s, x: x[:, : s.wide(s.a(x)).shape[1]] + s.b(x), "b"),
    "a view changed in place": (lambda s, x: _scaled_in_place(s.b(x)) + x, "b"),
}  # fmt: skip


def _scaled_in_place(y: Tensor) -> Tensor:
    y[:, :2].mul_(0.5)
    return y


@pytest.mark.parametrize("name", SHAPE_LENDERS)
def test_a_tensor_that_lends_its_shape_makes_nothing(name):
    rule, expected = SHAPE_LENDERS[name]
    model = net(Block(rule))
    assert residual_sites(model) == ([f"1.{expected}"] if expected else [])
    if expected:
        grown = ag.graft(model.eval(), "se", where="residual", input_size=SIZE)
        x = torch.randn(1, 3, 20, 12)
        with torch.no_grad():
            assert torch.equal(grown(x), model(x))


RESIDUAL = {
    "in line": (lambda s, x: x + s.b(F.relu(s.a(x))), "b"),
    "one layer": (lambda s, x: x + s.wide(x), "wide"),
    "normalised": (lambda s, x: s.bn(s.b(F.relu(s.a(x)))) + x, "bn"),
    "of an activated map": (lambda s, x: (y := F.relu(s.bn2(x))) + s.b(F.relu(s.a(y))), "b"),
    "a projection": (lambda s, x: s.point(x) + s.b(F.relu(s.a(x))), "b"),
    "a normalised projection": (lambda s, x: s.bn(s.point(x)) + s.b(F.relu(s.a(x))), "b"),
    "shifted": (lambda s, x: torch.roll(x, 1, 2) + s.b(F.relu(s.a(x))), "b"),
    "scaled": (lambda s, x: 0.5 * x + s.b(F.relu(s.a(x))), "b"),
    "a linear bottleneck": (lambda s, x: x + s.up(s.down(x)), "up"),
    "positions of an image": (lambda s, x: x + s.point(torch.softmax(s.a(x).flatten(2), -1).view_as(x)), "point"),
}  # fmt: skip

NOT_RESIDUAL = {
    "LoRA": (lambda s, x: s.wide(x) + s.up(s.down(x)), "one layer written as several"),
    "scaled LoRA": (lambda s, x: s.wide(x) + 0.5 * s.up(F.dropout(s.down(x))), "one layer written as several"),
    "LoRA of a pointwise layer": (lambda s, x: s.point(x) + s.up(s.down(x)), "one layer written as several"),
    "LoRA with a wide layer": (lambda s, x: s.wide(x) + s.point(s.a(x)), "one layer written as several"),
    "LoRA on the left": (lambda s, x: s.up(s.down(x)) + s.wide(x), "one layer written as several"),
    "a parallel adapter": (lambda s, x: s.wide(x) + s.up(F.relu(s.down(x))), "side by side"),
    "a parallel adapter of a point": (lambda s, x: s.point(x) + s.up(F.gelu(s.down(x))), "side by side"),
    "a wide Inception": (lambda s, x: s.wide(x) + s.b(F.relu(s.point(x))), "side by side"),
    "an activated Inception": (
        lambda s, x: F.relu(s.point(x)) + F.relu(s.b(F.relu(s.a(x)))),
        "neither operand is what its block was given",
    ),
    "two branches": (
        lambda s, x: s.point(F.relu(s.a(x))) + s.point2(F.relu(s.b(F.relu(s.wide(x))))),
        "neither operand is what its block was given",
    ),
    "RepVGG": (lambda s, x: s.bn(x) + s.bn2(s.wide(x)), "one layer written as several"),
    "RepVGG without normalisation": (lambda s, x: x + s.point(x) + s.wide(x), "one layer written as several"),
    "RepVGG in another order": (lambda s, x: s.point(x) + s.wide(x) + x, "one layer written as several"),
    "U-Net": (
        lambda s, x: (y := F.relu(s.a(s.b(x)))) + F.interpolate(s.point(F.relu(s.low(y))), scale_factor=2),
        "comes back",
    ),
    "U-Net with a transposed convolution": (
        lambda s, x: (y := F.relu(s.a(s.b(x)))) + s.deconv(F.relu(s.low(y))),
        "comes back",
    ),
    "a feature pyramid": (
        lambda s, x: s.point(y := F.relu(s.a(s.b(x)))) + F.interpolate(s.point2(F.relu(s.low(y))), scale_factor=2),
        "comes back",
    ),
    "an unrelated map": (lambda s, x: s.b(x) + torch.ones(x.shape), "neither operand is what its block was given"),
}  # fmt: skip


@pytest.mark.parametrize("name", RESIDUAL)
def test_what_a_block_was_given_or_its_projection_is_the_shortcut(name):
    rule, expected = RESIDUAL[name]
    assert residual_sites(net(Block(rule))) == [f"1.{expected}"]


@pytest.mark.parametrize("name", NOT_RESIDUAL)
def test_other_sums_are_passed_over_and_the_reason_is_said(name):
    rule, reason = NOT_RESIDUAL[name]
    model = net(Block(rule))
    with pytest.raises(GraftError, match=f"sums in 1 passed over: .*{reason}"):
        ag.find_sites(model, "residual", input_size=SIZE)
    assert any(reason in note for note in search_sites(model, "stage+residual", input_size=SIZE).notes)


@pytest.mark.parametrize("name", [name for name in NOT_RESIDUAL if "Net" not in name and "pyramid" not in name])
def test_the_residual_block_around_such_a_sum_is_found(name):
    model = net(*(Other(Block(NOT_RESIDUAL[name][0])) for _ in range(2)))
    assert residual_sites(model) == ["1.bn", "2.bn"]


def test_a_block_that_changes_resolution_and_channels_projects_its_shortcut():
    class Strided(nn.Module):
        def __init__(self, side: int, layers: int) -> None:
            super().__init__()
            self.skip = nn.Sequential(nn.Conv2d(C, 2 * C, side, 2, side // 2), nn.BatchNorm2d(2 * C))
            if layers == 2:
                self.skip.insert(0, nn.Conv2d(C, C, 3, 1, 1, groups=C))
            self.a, self.b = nn.Conv2d(C, 2 * C, 3, 2, 1), nn.Conv2d(2 * C, 2 * C, 3, 1, 1)
            self.c = nn.Conv2d(2 * C, 2 * C, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.skip(x) + self.c(F.relu(self.b(F.relu(self.a(x))))))

    for side, layers in ((1, 1), (3, 1), (1, 2)):
        model = nn.Sequential(nn.Conv2d(3, C, 3), Strided(side, layers), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        assert residual_sites(model) == ["1.c"]


@pytest.mark.parametrize("activated", [False, True], ids=["LoRA", "adapter"])
def test_adapters_in_a_published_network_leave_its_sites_what_they_were(activated):
    class Adapted(nn.Module):
        def __init__(self, base: nn.Conv2d) -> None:
            super().__init__()
            self.base = base
            self.down = nn.Conv2d(base.in_channels, 2, base.kernel_size, base.stride, base.padding)
            self.up = nn.Conv2d(2, base.out_channels, 1)

        def forward(self, x: Tensor) -> Tensor:
            low = self.down(x)
            return self.base(x) + self.up(F.relu(low) if activated else low)

    model = ag.create_backbone("torchvision:resnet18", pretrained=False)
    expected = residual_sites(model, (3, 64, 64))
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and "layer" in path and "downsample" not in path:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, Adapted(module))
    assert residual_sites(model, (3, 64, 64)) == expected
