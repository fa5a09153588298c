import torch

from attngraft.attention import create_attention


def test_gate_by_hand():
    module = create_attention("cbam-spatial", 2, init="paper", kernel_size=1).eval()
    x = torch.tensor([[[[1.0, 4.0]], [[3.0, -2.0]]]])  # (1, 2, 1, 2)
    with torch.no_grad():
        module.logits.conv.weight.copy_(torch.tensor([2.0, 1.0]).view(1, 2, 1, 1))  # 2 * max + mean
    logits = torch.tensor([[[2 * 3.0 + 2.0, 2 * 4.0 + 1.0]]]) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(module.gates(x).spatial, torch.sigmoid(logits))


def test_identity_keeps_the_convolution_random():
    module = create_attention("cbam-spatial", 8)
    assert module.logits.conv.weight.count_nonzero() == 2 * 7 * 7
    assert not module.logits.bn.weight.any()
    assert not module.logits.bn.bias.any()
