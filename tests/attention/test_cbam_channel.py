import pytest
import torch

from attngraft.attention import create_attention
from attngraft.attention.cbam_channel import parse_poolings
from attngraft.errors import ConfigError


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(2, 32, 9, 7)


@pytest.mark.parametrize("given", ["avg,max", "avg+max", "max, avg", ["avg", "max"], ("max", "avg")])
def test_poolings_from_text_and_lists(given):
    assert parse_poolings(given) == ("avg", "max")


@pytest.mark.parametrize("given", ["", [], "avg,", 3, "mean"])
def test_poolings_that_make_no_sense_raise(given):
    with pytest.raises(ConfigError, match="pooling"):
        parse_poolings(given)


def test_combinations_by_hand(x):
    for combine, joined in (("sum", torch.add), ("product", torch.mul)):
        module = create_attention("cbam-channel", 32, init="paper", combine=combine)
        logits = joined(module.mlp(x.mean((2, 3))), module.mlp(x.amax((2, 3))))
        torch.testing.assert_close(module.gates(x).channel, torch.sigmoid(logits))


@pytest.mark.parametrize("poolings", ["avg", "max"])
def test_one_pooling_sees_only_its_descriptor(x, poolings):
    module = create_attention("cbam-channel", 32, init="paper", poolings=poolings)
    descriptor = x.mean((2, 3)) if poolings == "avg" else x.amax((2, 3))
    torch.testing.assert_close(module.gates(x).channel, torch.sigmoid(module.mlp(descriptor)))


@pytest.mark.parametrize("poolings", ["avg", "avg+max"])
def test_product_starts_as_the_identity_and_learns(x, poolings):
    module = create_attention("cbam-channel", 32, combine="product", poolings=poolings)
    y = module(x)
    assert torch.equal(y, x)
    y.square().sum().backward()
    assert any(parameter.grad.count_nonzero() for parameter in module.parameters())
