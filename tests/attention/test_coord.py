import pytest

from attngraft.attention import create_attention


@pytest.mark.parametrize(("channels", "expected"), [(4, 8), (256, 8), (512, 16)])
def test_bottleneck_has_at_least_eight_channels(channels, expected):
    assert create_attention("coord", channels).reduce.out_channels == expected
