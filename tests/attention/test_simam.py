import torch

from attngraft.attention import create_attention


def test_published_form_has_no_parameters():
    assert not list(create_attention("simam", 8, init="paper").parameters())


def test_strength_blends_from_x_to_the_published_output():
    x = torch.randn(2, 3, 5, 4)
    module, published = create_attention("simam", 3), create_attention("simam", 3, init="paper")
    torch.nn.init.constant_(module.strength, 0.25)
    torch.testing.assert_close(module(x), x + 0.25 * (published(x) - x))


def test_a_constant_channel_is_halfway_open():
    gate = create_attention("simam", 1, init="paper").gates(torch.full((1, 1, 3, 3), 2.0)).full
    torch.testing.assert_close(gate, torch.full_like(gate, torch.sigmoid(torch.tensor(0.5)).item()))
