import torch

from attngraft.attention import create_attention


def test_logit_is_a_row_term_plus_a_column_term():
    module = create_attention("row-column", 2, init="paper", kernel_size=1)
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # (1, 2, 1, 2)
    with torch.no_grad():
        module.rows.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1))
        module.columns.weight.copy_(torch.tensor([0.0, 1.0]).view(1, 2, 1))
        module.rows.bias.fill_(0.5)
        module.columns.bias.zero_()
    logits = torch.tensor([[[2.0 + 0.5 + 0.0, 2.0 + 0.5 + 2.0]]])
    torch.testing.assert_close(module.gates(x).spatial, torch.sigmoid(logits))
