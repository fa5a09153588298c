import torch
from torch import nn

from attngraft.attention.layers import GateBatchNorm


def test_gate_batchnorm_equals_batchnorm_where_there_is_something_to_normalise():
    x = torch.randn(4, 3, 5, 2)
    ours, theirs = GateBatchNorm(3), nn.BatchNorm2d(3)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_single_value_per_channel_uses_and_keeps_the_running_statistics():
    layer = GateBatchNorm(3)
    layer(torch.randn(8, 3))
    before = layer.running_mean.clone()
    x = torch.randn(1, 3)
    trained = layer(x)
    assert torch.equal(layer.running_mean, before)
    torch.testing.assert_close(trained, layer.eval()(x))
