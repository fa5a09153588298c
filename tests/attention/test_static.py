import torch

from attngraft.attention import create_attention


def test_gate_does_not_depend_on_the_input():
    module = create_attention("static", 4)
    torch.nn.init.normal_(module.scale)
    first, second = module.gates(torch.randn(3, 4, 5, 5)), module.gates(torch.randn(3, 4, 2, 2))
    assert torch.equal(first.channel, second.channel)
    assert torch.equal(first.channel[0], module.scale)
