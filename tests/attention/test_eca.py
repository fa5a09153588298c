import pytest
import torch

from attngraft.attention import create_attention
from attngraft.attention.eca import adaptive_kernel_size


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (2, 1), (16, 3), (64, 3), (256, 5), (512, 5), (2048, 7)])
def test_kernel_size_follows_the_paper(channels, expected):
    # floor((log2(C) + 1) / 2), and the next odd number where that is even
    assert adaptive_kernel_size(channels) == expected
    assert create_attention("eca", channels).conv.kernel_size == (expected,)


def test_a_channel_sees_only_its_neighbours():
    module = create_attention("eca", 16, init="paper", kernel_size=3)
    x = torch.zeros(1, 16, 2, 2)
    x[:, 8] = 1.0
    changed = (module.gates(x).channel != 0.5).nonzero()[:, 1].tolist()
    assert changed == [7, 8, 9]
