from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attngraft.attention import create_attention, load_published, published_state
from attngraft.errors import ConfigError


@pytest.fixture
def state():
    tensors = load_file(Path(__file__).parents[1] / "golden" / "cbam.safetensors")
    return {name.removeprefix("state."): tensor for name, tensor in tensors.items() if name.startswith("state.")}


@pytest.fixture
def module():
    return create_attention("cbam", 32, init="paper")


def unchanged(module, before):
    return all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("prefix", ["layer1.0.cbam", "layer1.0.cbam.", "module.layer1.0.cbam"])
def test_a_whole_checkpoint_gives_the_block_below_a_prefix(state, module, prefix):
    checkpoint = {f"module.layer1.0.cbam.{name}": tensor for name, tensor in state.items()}
    checkpoint["module.layer1.0.conv1.weight"] = torch.zeros(1)
    load_published(module, published_state(checkpoint, prefix))
    assert torch.equal(module.channel.mlp.fc1.weight, state["ChannelGate.mlp.1.weight"])


def test_prefix_without_anything_below_says_the_nearest(state):
    checkpoint = {f"layer1.0.cbam.{name}": tensor for name, tensor in state.items()}
    with pytest.raises(ConfigError, match=r"nothing below 'layer2\.0\.cbam'"):
        published_state(checkpoint, "layer2.0.cbam")


def test_checkpoints_older_than_batchnorm_counters_load(state, module):
    del state["SpatialGate.spatial.bn.num_batches_tracked"]
    load_published(module, state)
    assert torch.equal(module.spatial.logits.bn.running_var, state["SpatialGate.spatial.bn.running_var"])


def test_our_own_names_load_too(module):
    other = load_published(create_attention("cbam", 32, init="paper"), module.state_dict())
    assert unchanged(other, module.state_dict())


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("ChannelGate.mlp.1.weight", None, r"missing \['channel.mlp.fc1.weight'\], unexpected nothing"),
        ("ChannelGate.mlp.9.weight", torch.zeros(1), r"missing nothing, unexpected \['ChannelGate.mlp.9.weight'\]"),
        ("ChannelGate.mlp.1.weight", torch.zeros(4, 32), r"shape \(4, 32\), expected \(2, 32\)"),
    ],
)
def test_weights_that_do_not_fit_raise_and_leave_the_module_unchanged(state, module, name, tensor, message):
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = {key: value for key, value in {**state, name: tensor}.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        load_published(module, state)
    assert unchanged(module, before)


def test_identity_modules_refuse_published_weights(state):
    with pytest.raises(ConfigError, match="init='paper'"):
        load_published(create_attention("cbam", 32), state)


def test_unregistered_modules_are_refused(module, state):
    class Other(type(module)):
        pass

    with pytest.raises(ConfigError, match="Other is not in the table"):
        load_published(Other(32, init="paper"), state)
