import pytest
import torch

from attngraft.attention import create_attention
from attngraft.errors import ConfigError

ORDERS = ("channel-spatial", "spatial-channel", "parallel")


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(2, 32, 9, 7)


def published(order="channel-spatial", **options):
    torch.manual_seed(1)
    return create_attention("cbam", 32, init="paper", order=order, **options).eval()


def test_each_order_equals_its_halves_composed_by_hand(x):
    for order in ORDERS:
        module = published(order)
        channel, spatial = module.channel, module.spatial
        by_hand = {
            "channel-spatial": spatial(channel(x)),
            "spatial-channel": channel(spatial(x)),
            "parallel": x * channel.gates(x).channel[..., None, None] * spatial.gates(x).spatial[:, None],
        }
        torch.testing.assert_close(module(x), by_hand[order])


def test_orders_differ(x):
    first, second, third = (published(order)(x) for order in ORDERS)
    assert not torch.allclose(first, second, atol=1e-6)
    assert not torch.allclose(first, third, atol=1e-6)
    assert not torch.allclose(second, third, atol=1e-6)


def test_options_reach_the_halves():
    module = published(reduction=4, poolings="max", kernel_size=3)
    assert module.channel.mlp.fc1.out_features == 8
    assert module.channel.poolings == ("max",)
    assert module.spatial.logits.conv.kernel_size == (3, 3)


def test_unknown_order_says_the_nearest():
    with pytest.raises(ConfigError, match="order is 'paralel': did you mean 'parallel'"):
        create_attention("cbam", 8, order="paralel")
