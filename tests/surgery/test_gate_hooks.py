"""Gates are replaced or watched for a while, and nothing of it remains."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.fx
from grafting_helpers import image_batch, settle_, stir_grafts_
from torch import nn

import attngraft as ag
from attngraft.attention import Gates, attentions
from attngraft.errors import GraftError
from attngraft.surgery import computing, grafts, watching

SIZE = (3, 32, 32)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return settle_(ag.create_backbone("small-cnn", num_classes=5)).eval()


@pytest.fixture(scope="module")
def pristine(plain):
    return stir_grafts_(ag.graft(plain, "cbam", input_size=SIZE))


@pytest.fixture
def model(pristine):
    return copy.deepcopy(pristine)


@pytest.fixture(scope="module")
def x():
    return image_batch(3, *SIZE)


def own(attention, x):
    return attention.gates(x)


def nothing(attention, x):
    return Gates()


def halved(attention, x):
    return replace(attention.gates(x), channel=torch.full(x.shape[:2], 0.5))


def footprint(model):
    """All that a block could leave behind: attributes, hooks, modes, weights."""
    return [
        (
            path,
            sorted(module.__dict__),
            [list(module._forward_hooks), list(module._forward_pre_hooks), list(module._backward_hooks)],
            module.training,
            [(p.data_ptr(), p.requires_grad, p._version) for p in module.parameters(recurse=False)],
            [(b.data_ptr(), b._version) for b in module.buffers(recurse=False)],
        )
        for path, module in model.named_modules()
    ]


# --- computing ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_computing_own_gates_changes_no_bit(model, x):
    expected = model(x)
    with computing(model, dict.fromkeys(grafts(model), own)):
        assert torch.equal(model(x), expected)


@torch.no_grad()
def test_without_any_gate_the_plain_network_is_left(plain, model, x):
    assert not torch.allclose(model(x), plain(x), atol=1e-3)
    with computing(model, dict.fromkeys(grafts(model), nothing)):
        assert torch.equal(model(x), plain(x))


@torch.no_grad()
def test_only_the_named_sites_compute_otherwise(model, x):
    first, *others = grafts(model)
    asked = []

    def note(attention, y):
        asked.append(attention)
        return halved(attention, y)

    with computing(model, {first: note}):
        changed = model(x)
    assert asked == [grafts(model)[first]]
    by_hand = copy.deepcopy(model)
    grafts(by_hand)[first].gates = lambda y: halved(grafts(model)[first], y)
    assert torch.equal(changed, by_hand(x))
    assert not torch.equal(changed, model(x))
    assert others


@torch.no_grad()
def test_the_rule_of_the_attention_combines_what_is_computed(x):
    """scSE adds its halves: 0.5 + 0.5 is the identity."""
    backbone = settle_(ag.create_backbone("small-cnn", num_classes=5)).eval()
    model = stir_grafts_(ag.graft(backbone, "scse", input_size=SIZE))

    def half(attention, y):
        return Gates(channel=torch.full(y.shape[:2], 0.5), spatial=torch.full((len(y), *y.shape[2:]), 0.5))

    with computing(model, dict.fromkeys(grafts(model), half)):
        assert torch.equal(model(x), backbone(x))


@torch.no_grad()
@pytest.mark.parametrize("block", ["computing", "watching"])
def test_afterwards_the_model_is_as_before(model, x, block):
    before, expected = footprint(model), model(x)
    how = computing(model, dict.fromkeys(grafts(model), halved)) if block == "computing" else watching(model, print_not)
    with how:
        model(x)
    assert footprint(model) == before
    assert torch.equal(model(x), expected)


def print_not(path, x, gates):
    """Sees and does nothing."""


@torch.no_grad()
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("depth", [0, 1])
def test_an_error_in_the_middle_leaves_nothing_behind(model, x, error, depth):
    before, expected = footprint(model), model(x)
    seen = []

    def fails(path, y, gates):
        seen.append(path)
        if len(seen) > depth:
            raise error("stop")

    with pytest.raises(error, match="stop"), watching(model, fails):
        model(x)
    assert len(seen) == depth + 1
    assert footprint(model) == before
    assert torch.equal(model(x), expected)


def test_an_unknown_path_says_the_nearest_and_changes_nothing(model):
    before, (path, *_) = footprint(model), grafts(model)
    with (
        pytest.raises(GraftError, match=f"no graft is live at '{path}x': did you mean '{path}'"),
        computing(model, {path: halved, f"{path}x": halved}),
    ):
        pytest.fail("it went on")
    assert footprint(model) == before


def test_a_graft_that_is_not_live_cannot_compute(model):
    path, *_ = grafts(model)
    model.get_submodule(path)._forward_hooks.clear()
    with pytest.raises(GraftError, match="no graft is live"), computing(model, {path: halved}):
        pytest.fail("it went on")


@torch.no_grad()
def test_of_two_blocks_the_inner_one_holds_and_then_the_outer_one_again(model, x):
    sites = grafts(model)
    intact = model(x)
    with computing(model, dict.fromkeys(sites, halved)):
        outer = model(x)
        with computing(model, dict.fromkeys(sites, own)):
            assert torch.equal(model(x), intact)
        assert torch.equal(model(x), outer)
    assert torch.equal(model(x), intact)
    assert not torch.equal(outer, intact)


@torch.no_grad()
def test_within_computing_what_is_computed_is_watched(model, x):
    seen = {}
    with computing(model, dict.fromkeys(grafts(model), halved)):
        expected = model(x)
        with watching(model, lambda path, y, gates: seen.update({path: gates})):
            assert torch.equal(model(x), expected)
    assert seen.keys() == grafts(model).keys()
    assert all(bool((gates.channel == 0.5).all()) for gates in seen.values())


@torch.no_grad()
def test_of_a_compiled_model_the_inner_one_computes_otherwise(model, x):
    compiled = torch.compile(model, backend="eager")
    with computing(compiled, dict.fromkeys(grafts(model), halved)):
        changed = model(x)
    with computing(model, dict.fromkeys(grafts(model), halved)):
        assert torch.equal(model(x), changed)
    assert not torch.equal(model(x), changed)


@torch.no_grad()
def test_a_symbolically_traced_model_computes_otherwise_too(plain, model, x):
    traced = torch.fx.symbolic_trace(model)
    assert grafts(traced)
    with computing(traced, dict.fromkeys(grafts(traced), nothing)):
        torch.testing.assert_close(traced(x), plain(x))


def test_gradients_are_those_of_the_ordinary_forward(model, x):
    def gradients():
        model.zero_grad()
        model(x).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients()
    with computing(model, dict.fromkeys(grafts(model), own)):
        found = gradients()
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


# --- watching ----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", attentions())
def test_what_is_watched_is_what_the_model_computes(plain, x, name):
    model = stir_grafts_(ag.graft(plain, name, input_size=SIZE))
    live, seen, made = grafts(model), [], {}

    def note(attention, arguments, output):
        made.setdefault(attention, (arguments[0].clone(), output.clone()))

    for attention in live.values():
        attention.register_forward_hook(note)
    expected = model(x)

    def see(path, y, gates):
        seen.append(path)
        expected_input, expected_output = made[live[path]]
        assert torch.equal(y, expected_input)
        assert torch.equal(live[path].apply_gates(y, gates), expected_output)

    with watching(model, see):
        assert torch.equal(model(x), expected)
    assert sorted(seen) == sorted(live)


@torch.no_grad()
def test_sites_are_seen_in_the_order_in_which_they_run(x):
    class Backwards(nn.Module):
        """Runs its last child first."""

        def __init__(self):
            super().__init__()
            self.second = nn.Conv2d(4, 4, 1)
            self.first = nn.Conv2d(3, 4, 1)

        def forward(self, y):
            return self.second(self.first(y)).mean((2, 3))

    model = ag.graft(Backwards(), "se", where=["first", "second"], input_size=SIZE)
    seen = []
    with watching(model, lambda path, y, gates: seen.append(path)):
        model(x)
    assert seen == ["first", "second"]
    assert list(grafts(model)) == ["second", "first"]


@torch.no_grad()
def test_a_model_without_grafts_is_watched_in_vain(plain, x):
    with watching(plain, lambda *found: pytest.fail("there is nothing to see")):
        assert torch.equal(plain(x), plain(x))
