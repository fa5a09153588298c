"""Scaling all logits of an attention: the temperature of its gates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attngraft.attention import ATTENTIONS, Attention, AttentionEntry, Gates, attentions, create_attention
from attngraft.backbones import create_backbone
from attngraft.errors import ConfigError
from attngraft.surgery import graft, grafts
from attngraft.training.dynamic_attention import logit_parameters, strengthen_

UNGATED = {name for name in attentions() if ATTENTIONS[name].control} | {
    "gc"
}  # what only adds has no gate to strengthen
BUILDS = [
    *((name, init, {}) for name in attentions() for init in ("identity", "paper")),
    *(("cbam-channel", init, {"combine": "product"}) for init in ("identity", "paper")),
    *(("cbam-channel", init, {"combine": "product", "poolings": "max"}) for init in ("identity", "paper")),
    *(("cbam", "identity", {"order": order}) for order in ("spatial-channel", "parallel")),
]
every_build = pytest.mark.parametrize(("name", "init", "options"), BUILDS)


def awakened(name: str, init: str = "identity", **options: object) -> Attention:
    """A module with parameters and running statistics that are all random, in eval mode and double precision."""
    torch.manual_seed(0)
    module = create_attention(name, 32, init=init, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for key, buffer in module.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_()
    return module.eval()


def scaled(module: Attention, name: str, options: dict, factor: float) -> bool:
    """Scale the logits of one attention, as `strengthen_` does with all of a model; whether it has any."""
    parameters, degree = logit_parameters(module, name, options)
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(factor ** (1 / degree))
    return bool(parameters)


def feature_map() -> Tensor:
    return torch.randn(2, 32, 9, 7, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def logits_of(module: Attention, gate: Tensor) -> Tensor:
    """The inverse of what makes a gate of a logit."""
    name = next(name for name, entry in ATTENTIONS.items() if entry.build is type(module))
    if name == "bam" or name in UNGATED:  # parts that are logits, and what has none
        return gate
    if name == "simam":  # a blend with 1, by a learned part
        return gate - 1
    if name == "gct":
        return torch.atanh(gate - 1)
    if name == "ese":
        return 6 * gate / module.gate_factor - 3
    return torch.logit(gate / (1 if name == "scse" else module.gate_factor))


def parts_of(gates: Gates) -> dict[str, Tensor]:
    names = ("channel", "spatial", "rows", "columns", "full", "offset")
    return {name: getattr(gates, name) for name in names if getattr(gates, name) is not None}


def gates_seeing(module: Attention, x: Tensor, before: Gates) -> Gates:
    """Gates of x where what the second half of a CBAM sees is weighed as before the change."""
    name, order = type(module).__name__, getattr(module, "order", "channel-spatial")
    if name == "CBAM" and order == "channel-spatial":
        return Gates(channel=module.channel.channel_gate(x), spatial=module.spatial.spatial_gate(x, before.channel))
    if name == "CBAM" and order == "spatial-channel":
        return Gates(channel=module.channel.channel_gate(x, before.spatial), spatial=module.spatial.spatial_gate(x))
    if name == "LightCBAM":
        return Gates(channel=module._channel_gate(x), spatial=module._spatial_gate(x, before.channel))
    return module.gates(x)


@every_build
@pytest.mark.parametrize("factor", [0.5, 1.1, 2.0])
def test_the_gates_afterwards_are_those_of_the_logits_times_the_factor(
    name: str, init: str, options: dict, factor: float
):
    module, x = awakened(name, init, **options), feature_map()
    before = module.gates(x)
    strengthened = scaled(module, name, options, factor)
    after = parts_of(gates_seeing(module, x, before))
    assert strengthened == (name not in UNGATED and (name, init) != ("simam", "paper"))
    scale = factor if strengthened else 1.0
    for part, gate in parts_of(before).items():
        wanted = logits_of(module, gate) * (1.0 if name == "bam" and part == "spatial" else scale)
        if name == "ese":
            wanted = wanted.clamp(-3, 3)
            assert logits_of(module, gate).abs().lt(3).any()  # not all of them are cut off
            inside = logits_of(module, gate).abs() < 3
            torch.testing.assert_close(logits_of(module, after[part])[inside], wanted[inside])
        else:
            torch.testing.assert_close(logits_of(module, after[part]), wanted)


@every_build
def test_in_train_mode_too(name: str, init: str, options: dict):
    """BatchNorm of the batch comes before what is scaled."""
    module, x = awakened(name, init, **options).train(), feature_map()
    before = module.gates(x)
    if scaled(module, name, options, 2.0):
        after = parts_of(gates_seeing(module, x, before))
        part = module.parts[0]
        gate = parts_of(before)[part]
        if name != "ese":
            torch.testing.assert_close(logits_of(module, after[part]), 2 * logits_of(module, gate))


def grafted(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return graft(create_backbone("small-cnn", num_classes=3), name, input_size=(3, 32, 32))


@pytest.mark.parametrize("name", attentions())
def test_factor_one_changes_no_bit(name: str):
    model = grafted(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    assert strengthen_(model, 1.0) == (name not in UNGATED)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", attentions())
def test_identity_stays_identity(name: str):
    torch.manual_seed(0)
    module, x = create_attention(name, 32), feature_map().float()
    scaled(module, name, {}, 2.0)
    for training in (True, False):
        assert torch.equal(module.train(training)(x), x)


@every_build
def test_what_is_scaled_is_what_identity_sets_to_zero(name: str, init: str, options: dict):
    module = create_attention(name, 32, init="identity", **options)
    parameters, degree = logit_parameters(module, name, options)
    assert bool(parameters) == (name not in UNGATED)
    assert all(not parameter.any() for parameter in parameters)
    assert degree == 1


@pytest.mark.parametrize("name", sorted(set(attentions()) - UNGATED))
def test_twice_is_the_product_of_both(name: str):
    once, twice, x = awakened(name), awakened(name), feature_map()
    scaled(once, name, {}, 1.5)
    scaled(twice, name, {}, 3.0)
    scaled(twice, name, {}, 0.5)
    torch.testing.assert_close(once(x), twice(x))


@pytest.mark.parametrize("name", ["cbam", "se", "eca"])
def test_programs_of_kernels_read_the_scaled_weights(name: str):
    module, x = awakened(name).float(), feature_map().float()
    with torch.no_grad():
        module(x)
        scaled(module, name, {}, 2.0)
        torch.testing.assert_close(module(x), module.apply_gates(x, module.gates(x)), rtol=1e-5, atol=1e-5)


def test_a_grafted_network_keeps_its_keys_and_its_plain_part():
    model = grafted("cbam")
    for attention in grafts(model).values():
        with torch.no_grad():
            attention.channel.mlp.fc2.weight.fill_(0.5)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    strengthen_(model, 2.0)
    after = model.state_dict()
    assert after.keys() == before.keys()
    moved = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    assert moved == {key for key in before if key.endswith("graft.channel.mlp.fc2.weight")}
    assert all(after[key].eq(1.0).all() for key in moved)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_a_factor_that_makes_no_sense_is_refused(factor: float):
    with pytest.raises(ConfigError, match="strength"):
        strengthen_(grafted("cbam"), factor)


class Brightness(Attention):
    """Somebody else's attention, which knows nothing of strength."""

    def __init__(self, channels: int, *, init: str = "identity") -> None:
        super().__init__(channels, init)  # type: ignore[arg-type]
        self.norm = torch.nn.BatchNorm1d(channels)
        self.out = torch.nn.Linear(channels, channels)
        if init == "identity":
            torch.nn.init.zeros_(self.out.weight)
            torch.nn.init.zeros_(self.out.bias)

    def gates(self, x: Tensor) -> Gates:
        return Gates(channel=self.sigmoid_gate(self.out(self.norm(x.mean((2, 3))))))


def test_attentions_of_others_need_not_know_of_it(monkeypatch: pytest.MonkeyPatch):
    entry = AttentionEntry("brightness", Brightness, "a gate from channel means", "a test")
    monkeypatch.setitem(ATTENTIONS._entries, "brightness", entry)
    parameters, _ = logit_parameters(Brightness(8, init="paper"), "brightness", {})
    assert [parameter.shape for parameter in parameters] == [(8, 8), (8,)]
