import torch

from attngraft.attention import create_attention


def test_published_form_is_the_identity():
    x = torch.randn(2, 8, 3, 4)
    assert torch.equal(create_attention("gct", 8, init="paper")(x), x)
