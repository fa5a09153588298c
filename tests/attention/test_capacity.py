import pytest
import torch

from attngraft.attention import create_attention


def parameters(name, channels, **options):
    return sum(parameter.numel() for parameter in create_attention(name, channels, **options).parameters())


@pytest.mark.parametrize("channels", [64, 100, 256, 2048])
def test_has_the_parameters_of_cbam_without_its_spatial_half(channels):
    assert parameters("capacity", channels) == parameters("cbam", channels) - parameters("cbam-spatial", channels)


def test_hidden_sets_the_width():
    assert parameters("capacity", 10, hidden=3) == 2 * 10 * 3 + 3 + 10


def test_adds_the_same_function_at_every_position():
    module = create_attention("capacity", 8)
    torch.nn.init.normal_(module.expand.weight)
    x = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(module(x)[:, :, 1:2, 2:3], module(x[:, :, 1:2, 2:3]))
