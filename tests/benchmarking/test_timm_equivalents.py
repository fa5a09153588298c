"""Peers compute the same function, or are refused with a reason."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from attngraft.attention import create_attention
from attngraft.benchmarking import timm_equivalents as peers
from attngraft.benchmarking.network_timing import build_grafted, build_networks, build_plain
from attngraft.benchmarking.timm_equivalents import PEERS, NoPeer, disagreement, objection, timm_network, timm_twin
from attngraft.surgery import graft

CPU = torch.device("cpu")


def output_and_gradients(module, x):
    x = x.clone().requires_grad_(True)
    output = module(x)
    direction = torch.linspace(-1, 1, output.numel()).view_as(output)
    return output, *torch.autograd.grad(output, (x, *module.parameters()), direction)


@pytest.fixture
def unflipped(monkeypatch):
    """A CBAM of timm whose convolution gets the mean where ours gets the maximum."""
    wrong = dataclasses.replace(PEERS["cbam"], flipped=frozenset())
    monkeypatch.setattr(peers, "PEERS", {**PEERS, "cbam": wrong})


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", PEERS)
def test_timms_module_with_our_weights_computes_what_ours_computes(name, train):
    torch.manual_seed(0)
    ours = create_attention(name, 32, init="paper").train(train)
    twin = timm_twin(name, ours)
    x = torch.randn(3, 32, 9, 7) + torch.randn(3, 32, 1, 1)
    one, other = output_and_gradients(ours, x), output_and_gradients(twin, x)
    assert twin.training == train
    assert len(one) == len(other)
    assert max(disagreement(one[:2], other[:2])) < 1e-5


def test_running_statistics_move_alike():
    torch.manual_seed(0)
    ours = create_attention("cbam", 32, init="paper").train()
    twin = timm_twin("cbam", ours)
    x = torch.randn(4, 32, 8, 8)
    ours(x), twin(x)
    mine, theirs = ours.get_submodule("spatial.logits.bn"), twin.get_submodule("spatial.conv.bn")
    assert torch.allclose(mine.running_mean, theirs.running_mean, atol=1e-6)
    assert torch.allclose(mine.running_var, theirs.running_var, atol=1e-6)


def test_a_module_that_computes_something_else_is_seen(unflipped):
    torch.manual_seed(0)
    ours = create_attention("cbam", 32, init="paper").train()
    x = torch.randn(3, 32, 9, 7)
    distances = disagreement(output_and_gradients(ours, x)[:2], output_and_gradients(timm_twin("cbam", ours), x)[:2])
    assert "computes something else (output differs" in str(objection(distances, (1e-4, 1e-3)))


def test_an_attention_without_a_peer_and_one_of_another_size_say_so():
    with pytest.raises(NoPeer, match="has no module that computes the same function as simam"):
        timm_twin("simam", create_attention("simam", 8, init="paper"))
    with pytest.raises(NoPeer, match="does not take the same weights"):
        timm_twin("eca", create_attention("eca", 32, init="paper", kernel_size=5))


def test_distances_that_are_no_numbers_are_infinite_and_refused():
    one = torch.ones(3)
    assert disagreement([one], [one * math.nan]) == (math.inf,)
    assert disagreement([one], [torch.ones(4)]) == (math.inf,)
    assert objection((0.0, math.inf), (1e-4, 1e-3)) == (
        "computes something else (input gradient of another shape, or with values that are not finite)"
    )
    assert objection((1e-5, 1e-5), (1e-4, 1e-3)) is None


def test_timms_own_network_has_attention_at_our_sites_with_our_weights():
    networks, size = build_networks("timm:resnet18", "cbam", 64, CPU)
    assert size == 64
    assert networks.sites == 8
    assert networks.reasons == {}
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain, ours, timm = (networks.by_name[name].eval()(x) for name in ("plain", "attngraft", "timm"))
    assert max(disagreement([ours], [timm])) < 1e-4
    assert max(disagreement([ours], [plain])) > 1e-2


def test_a_network_that_computes_something_else_is_refused(unflipped):
    networks, _ = build_networks("timm:resnet18", "cbam", 64, CPU)
    assert set(networks.by_name) == {"plain", "attngraft"}
    assert "computes something else" in networks.reasons["timm"]


@pytest.mark.parametrize(
    ("spec", "attention", "words"),
    [
        ("small-cnn", "se", "does not make small-cnn"),
        ("timm:tf_efficientnet_lite0", "se", "has no attention at the end of the blocks"),
        ("timm:resnet18", "simam", "has no module"),
    ],
)
def test_a_network_that_timm_does_not_offer_is_a_reason(spec, attention, words):
    grafted = build_grafted(build_plain(spec), attention, 32)
    with pytest.raises(NoPeer, match=words):
        timm_network(spec, attention, grafted)


def test_attention_elsewhere_is_not_compared():
    grafted = graft(build_plain("timm:resnet18"), "se", where="layer4.*.bn2", init="paper", input_size=(3, 64, 64))
    with pytest.raises(NoPeer, match="puts attention into 8 blocks of resnet18, which are not the 2 of attngraft"):
        timm_network("timm:resnet18", "se", grafted)
