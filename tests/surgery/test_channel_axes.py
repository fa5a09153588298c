"""Hosts whose output is (B, H, W, C): found, grafted on the right axis, saved and folded like any other."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from cases import slow
from grafting_helpers import assert_same_function, image_batch, settle_, stir_grafts_
from torch import Tensor, nn

import attngraft as ag
from attngraft.errors import GraftError
from attngraft.surgery import fold_grafts, search_sites

SIZE = (3, 16, 24)
OTHER = (2, 3, 40, 32)


class Mlp(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.Linear(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class LastNet(nn.Module):
    """Blocks in channels last, reached in one of several ways."""

    def __init__(self, way: str = "permute", c: int = 8) -> None:
        super().__init__()
        self.stem, self.way, self.c = nn.Conv2d(3, c, 3, 2, 1), way, c
        self.blocks, self.head = nn.Sequential(Mlp(c), Mlp(c)), nn.Linear(c, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        b, c, h, w = y.shape
        if self.way == "tokens":
            y = y.flatten(2).transpose(1, 2).reshape(b, h, w, c)
        else:
            y = y.movedim(1, -1) if self.way == "movedim" else y.permute(0, 2, 3, 1).contiguous()
        return self.head(self.blocks(y).mean((1, 2)))


@pytest.mark.parametrize("way", ["permute", "movedim", "tokens"])
@pytest.mark.parametrize("attention", ["se", "cbam", "coord"])
def test_a_graft_weighs_the_channels_of_a_map_with_channels_last(way, attention):
    plain = LastNet(way)
    sites = ag.find_sites(plain, input_size=SIZE)
    assert [(s.path, s.channels, s.height, s.width) for s in sites] == [
        ("blocks.0.down", 8, 8, 12),
        ("blocks.1.down", 8, 8, 12),
    ]
    assert all(site.channels_last for site in sites)
    grown = ag.graft(plain, attention, input_size=SIZE)
    for train in (False, True):
        assert_same_function(plain, grown, image_batch(*OTHER), train=train)
    assert "8 x 8 x 12, end of the residual branch of blocks.0, channels last" in str(ag.surgery.graft_plan(grown))
    assert_same_function(plain, ag.ungraft(grown), image_batch(*OTHER), train=False)


def test_the_plan_of_such_a_network_is_read_back():
    plain = LastNet()
    plan = ag.plan_graft(plain, "se", input_size=SIZE)
    again = ag.GraftPlan.from_json(plan.to_json())
    assert again == plan
    grown = stir_grafts_(ag.graft(plain, again))
    assert torch.equal(copy.deepcopy(grown)(image_batch(*OTHER)), grown(image_batch(*OTHER)))


def test_a_constant_gate_is_folded_into_the_linear_layer_before_it():
    grown = ag.graft(LastNet().eval(), "se", where="blocks.0.down", input_size=SIZE)
    gate = torch.linspace(0.5, 1.5, 8)
    x = image_batch(*OTHER)
    folded, (part,) = fold_grafts(grown, {"blocks.0.down": {"channel": gate}}, x)
    assert part.action == "folded into blocks.0.down"
    expected = copy.deepcopy(grown)
    expected.blocks[0].down.weight.data *= gate[:, None]
    expected.blocks[0].down.bias.data *= gate
    assert torch.allclose(folded(x), ag.ungraft(expected)(x), atol=1e-6)


def test_a_lost_hook_is_put_back_on_the_same_axis():
    grown = stir_grafts_(ag.graft(LastNet().eval(), "se", input_size=SIZE))
    x = image_batch(*OTHER)
    before = grown(x)
    for module in grown.modules():
        module._forward_hooks.clear()
    assert torch.equal(ag.surgery.reattach_(grown)(x), before)


class Opaque(torch.autograd.Function):
    """Hides from the trace what it does."""

    @staticmethod
    def forward(ctx, x, dims):
        return x.permute(dims).clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class Hidden(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return Opaque.apply(x, self.dims)


def hidden(*dims: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Hidden(*dims), nn.Flatten(2), nn.AdaptiveAvgPool1d(4))


def test_where_no_layer_tells_the_axis_two_sizes_do():
    assert not ag.find_sites(hidden(0, 1, 2, 3), "1", input_size=SIZE)[0].channels_last
    (site,) = ag.find_sites(hidden(0, 2, 3, 1), "1", input_size=SIZE)
    assert (site.channels, site.height, site.width, site.channels_last) == (8, 8, 12, True)


def test_a_map_whose_channels_lie_elsewhere_is_passed_over_and_said():
    with pytest.raises(GraftError, match="1 passed over: the channels of the output change with the size of the input"):
        ag.find_sites(hidden(0, 2, 1, 3), "1", input_size=SIZE)
    search = search_sites(hidden(0, 2, 1, 3), ["0", "1"], input_size=SIZE)
    assert [site.path for site in search.sites] == ["0"]


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ("timm:test_mambaout", "auto"),
        slow("timm:mambaout_femto", "auto"),
        slow("timm:swin_tiny_patch4_window7_224", "auto"),
        slow("timm:swin_tiny_patch4_window7_224", "stage"),
        slow("torchvision:swin_t", "auto"),
        slow("torchvision:maxvit_t", "auto"),
        slow("torchvision:convnext_tiny", "**"),
        slow("timm:maxxvit_rmlp_nano_rw_256", "**"),
    ],
)
def test_published_networks_with_channels_last_are_grafted_on_them(spec, where):
    plain = settle_(ag.create_backbone(spec, num_classes=3, pretrained=False))
    size = plain.default_cfg["input_size"] if spec.startswith("timm:") and "test" not in spec else (3, 224, 224)
    grown = ag.graft(plain, "se", where=where, input_size=size)
    widths = {p.shape[0] for p in plain.parameters()}
    assert all(site.channels in widths for site in ag.surgery.graft_plan(grown).sites)
    for train in (False, True):
        assert_same_function(plain, grown, image_batch(2, *size), train=train)
