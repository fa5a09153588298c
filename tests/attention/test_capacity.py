import pytest
import torch

from attngraft.attention import create_attention
from attngraft.errors import ConfigError


def parameters(name, channels, **options):
    return sum(parameter.numel() for parameter in create_attention(name, channels, **options).parameters())


@pytest.mark.parametrize("channels", [64, 100, 256, 2048])
@pytest.mark.parametrize("like", ["cbam", "se", "bam", "ese", "global-context", "coord"])
def test_comes_as_close_to_another_attentions_parameters_as_its_width_allows(channels, like):
    wanted = parameters(like, channels)
    gap = abs(parameters("capacity", channels, like=like) - wanted)
    hidden = create_attention("capacity", channels, like=like).reduce.out_channels
    for other in {max(1, hidden - 1), hidden + 1}:
        assert gap <= abs(parameters("capacity", channels, hidden=other) - wanted)


def test_an_unknown_attention_to_match_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cbam'"):
        create_attention("capacity", 8, like="cbma")


def test_hidden_sets_the_width():
    assert parameters("capacity", 10, hidden=3) == 2 * 10 * 3 + 3 + 10


def test_adds_the_same_function_at_every_position():
    module = create_attention("capacity", 8)
    torch.nn.init.normal_(module.expand.weight)
    x = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(module(x)[:, :, 1:2, 2:3], module(x[:, :, 1:2, 2:3]))


@pytest.mark.parametrize(("name", "options"), [("cbam", {"kernel_size": 99_999}), ("eca", {"kernel_size": 10**9})])
def test_options_that_no_memory_holds_are_refused(name, options):
    with pytest.raises(ConfigError, match="expected at most 65,536"):
        create_attention(name, 8, **options)
