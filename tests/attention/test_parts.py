"""The parts of an attention's gates: which there are, what leaves x as it is, and what one is without the other."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import combinations

import pytest
import torch
from pairs import over

from attngraft.attention import ATTENTIONS, Attention, Gates, attentions, create_attention

NAMES = attentions()
FIELDS = tuple(field.name for field in fields(Gates))
SHAPE = (2, 16, 5, 4)
# the rest multiply or add, so that a part at its neutral value is as good as none
MIXED = {"bam", "triplet"}
SEVERAL = [name for name in NAMES if len(ATTENTIONS[name].build.parts) > 1]

every_name = over(name=NAMES)
every_init = over(init=["identity", "paper"])


def awakened(name: str, init: str = "identity", scale: float = 0.5, **options) -> Attention:
    """In eval mode, with random parameters, so that no zero hides a wrong path."""
    torch.manual_seed(1)
    module = create_attention(name, SHAPE[1], init=init, **options).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def feature_map(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or SHAPE), generator=torch.Generator().manual_seed(0))


def present(gates: Gates) -> dict[str, torch.Tensor]:
    return {part: getattr(gates, part) for part in FIELDS if getattr(gates, part) is not None}


def neutral_gates(module: Attention, x: torch.Tensor) -> Gates:
    return Gates(**{part: torch.full_like(gate, module.neutral) for part, gate in present(module.gates(x)).items()})


def assert_same_gates(one: Gates, other: Gates) -> None:
    assert present(one).keys() == present(other).keys()
    for part, gate in present(one).items():
        assert torch.equal(gate, getattr(other, part)), part


# --- parts, neutral, limits --------------------------------------------------------------------------------------


@every_name
@every_init
def test_the_parts_are_those_that_gates_has(name, init):
    module = awakened(name, init)
    assert sorted(present(module.gates(feature_map()))) == sorted(module.parts)


def test_there_are_parts_of_every_kind():
    assert {part for name in NAMES for part in ATTENTIONS[name].build.parts} == set(FIELDS)


@every_name
@every_init
def test_with_all_parts_neutral_x_stays_as_it_is(name, init):
    module, x = awakened(name, init), feature_map()
    if (name, init) == ("bam", "paper"):  # published as 1 + sigmoid, which is never 1
        torch.testing.assert_close(module.apply_gates(x, neutral_gates(module, x)), 1.5 * x)
    else:
        assert torch.equal(module.apply_gates(x, neutral_gates(module, x)), x)


@every_init
@pytest.mark.parametrize("name", [name for name in NAMES if name not in MIXED])
def test_a_part_that_is_neutral_is_as_good_as_none(name, init):
    module, x = awakened(name, init), feature_map()
    gates, neutral = module.gates(x), neutral_gates(module, x)
    for part in module.parts:
        with_neutral = module.apply_gates(x, replace(gates, **{part: getattr(neutral, part)}))
        torch.testing.assert_close(with_neutral, module.apply_gates(x, replace(gates, **{part: None})))


@every_name
@every_init
@over(size=[1, 1e3])
def test_gates_lie_between_the_limits(name, init, size):
    module = awakened(name, init, scale=3.0)
    if module.limits is None:
        return
    low, high = module.limits
    assert low < module.neutral <= high
    for part, gate in present(module.gates(size * feature_map())).items():
        assert low <= gate.min(), part
        assert gate.max() <= high, part


@every_init
def test_those_without_limits_are_known(init):
    """Logits, sums and learned scales; whoever adds one has to think about it."""
    unbounded = {name for name in NAMES if create_attention(name, 8, init=init).limits is None}
    assert unbounded == {"bam", "capacity", "gc", "simam", "static"}


@every_name
@every_init
@torch.no_grad()
@over(memory_format=[torch.contiguous_format, torch.channels_last])
def test_the_gates_of_one_image_serve_for_a_batch(name, init, memory_format):
    """As a mean gate does, (1, C) for (B, C)."""
    module, x = awakened(name, init), feature_map().to(memory_format=memory_format)
    one = module.gates(x[:1])
    many = Gates(**{part: gate.expand(len(x), *gate.shape[1:]) for part, gate in present(one).items()})
    torch.testing.assert_close(module.apply_gates(x, one), module.apply_gates(x, many))
    for part in module.parts:
        mixed = replace(module.gates(x), **{part: getattr(one, part)})
        expected = replace(mixed, **{part: getattr(many, part)})
        torch.testing.assert_close(module.apply_gates(x, mixed), module.apply_gates(x, expected))


# --- switched off ------------------------------------------------------------------------------------------------


@every_name
@every_init
def test_with_nothing_off_the_gates_are_those_of_ever(name, init):
    module, x = awakened(name, init), feature_map()
    assert_same_gates(module.gates_without(x, ()), module.gates(x))


@every_name
@every_init
def test_a_part_that_is_off_is_none_and_the_others_are_there(name, init):
    module, x = awakened(name, init), feature_map()
    for count in range(1, len(module.parts) + 1):
        for off in combinations(module.parts, count):
            assert present(module.gates_without(x, off)).keys() == set(module.parts) - set(off)


@every_name
@every_init
def test_with_all_parts_off_x_stays_as_it_is(name, init):
    module, x = awakened(name, init), feature_map()
    assert torch.equal(module.apply_gates(x, module.gates_without(x, module.parts)), x)


@pytest.mark.parametrize("name", [name for name in SEVERAL if name not in {"cbam", "light-cbam"}])
@every_init
def test_parts_that_are_computed_side_by_side_do_not_notice(name, init):
    module, x = awakened(name, init), feature_map()
    gates = module.gates(x)
    for part in module.parts:
        assert_same_gates(module.gates_without(x, {part}), replace(gates, **{part: None}))


@pytest.mark.parametrize("order", ["channel-spatial", "spatial-channel", "parallel"])
@every_init
def test_each_half_of_cbam_is_computed_as_if_the_other_did_not_exist(order, init):
    module, x = awakened("cbam", init, order=order), feature_map()
    channel = module.gates_without(x, {"spatial"}).channel
    spatial = module.gates_without(x, {"channel"}).spatial
    assert torch.equal(channel, module.channel.gates(x).channel)
    assert torch.equal(spatial, module.spatial.gates(x).spatial)
    gates = module.gates(x)
    assert torch.equal(gates.channel, channel) == (order != "spatial-channel")
    assert torch.equal(gates.spatial, spatial) == (order != "channel-spatial")


@every_init
def test_without_its_channel_half_light_cbam_looks_at_x_itself(init):
    module, x = awakened("light-cbam", init, reduction=2), feature_map()
    gates = module.gates(x)
    alone = module.gates_without(x, {"channel"}).spatial
    torch.testing.assert_close(
        gates.spatial, module.gates_without(x * gates.channel[..., None, None], {"channel"}).spatial
    )
    assert not torch.allclose(alone, gates.spatial, atol=1e-4)
    assert torch.equal(module.gates_without(x, {"spatial"}).channel, gates.channel)


# --- other orders ------------------------------------------------------------------------------------------------


@every_name
def test_only_cbam_can_be_rearranged(name):
    assert bool(awakened(name).rearranged()) == (name == "cbam")


@pytest.mark.parametrize("order", ["channel-spatial", "spatial-channel", "parallel"])
@every_init
def test_another_order_is_that_of_a_cbam_that_was_built_so(order, init):
    module, x = awakened("cbam", init, order=order), feature_map()
    orders = {"channel-spatial", "spatial-channel", "parallel"}
    assert module.rearranged().keys() == orders - {order}
    for other, compute in module.rearranged().items():
        twin = create_attention("cbam", SHAPE[1], init=init, order=other).eval()
        twin.load_state_dict(module.state_dict())
        assert_same_gates(compute(x), twin.gates(x))
    assert module.order == order


@every_init
def test_the_orders_differ(init):
    module, x = awakened("cbam", init), feature_map()
    outputs = [module.apply_gates(x, compute(x)) for compute in module.rearranged().values()]
    for one, other in combinations([module(x), *outputs], 2):
        assert not torch.allclose(one, other, atol=1e-5)
