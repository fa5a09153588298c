import pytest
import torch

from attngraft.attention import create_attention


@pytest.mark.parametrize(("channels", "groups", "expected"), [(128, 64, 64), (32, 64, 32), (30, 8, 6), (7, 4, 1)])
def test_groups_fall_back_to_the_largest_divisor(channels, groups, expected):
    assert create_attention("sge", channels, groups=groups).groups == expected


def test_channels_of_a_group_share_their_gate():
    module = create_attention("sge", 6, groups=2)
    torch.nn.init.ones_(module.weight)
    gate = module.gates(torch.randn(2, 6, 4, 5)).full
    assert torch.equal(gate[:, 0], gate[:, 2])
    assert not torch.equal(gate[:, 0], gate[:, 3])
