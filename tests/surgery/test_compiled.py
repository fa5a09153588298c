"""Networks that were compiled before they are grafted: code that is compiled already does not see a later hook."""

import copy

import pytest
import torch
from grafting_helpers import image_batch, settle_, stir_grafts_
from own_networks import FunctionalResNet
from torch import nn

import attngraft as ag
from attngraft.surgery import check_live, graft_plan, is_compiled

SIZE = (3, 32, 32)


def whole(model):
    return torch.compile(model, backend="eager")


def in_place(model):
    model.compile(backend="eager")
    return model


def part(model):
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    return model


def part_in_place(model):
    model.blocks[1].compile(backend="eager")
    return model


@pytest.fixture
def plain():
    torch.compiler.reset()
    return settle_(FunctionalResNet()).eval()


@pytest.fixture(params=[whole, in_place, part, part_in_place])
def compiled(request, plain):
    model = request.param(copy.deepcopy(plain))
    with torch.no_grad():
        model(image_batch(2, *SIZE))  # the code is compiled now
    return model


@torch.no_grad()
def test_grafting_in_place_changes_what_the_compiled_network_computes(compiled, plain):
    x = image_batch(2, *SIZE)
    expected = plain(x)
    assert ag.graft_(compiled, "se", input_size=SIZE) is compiled
    torch.testing.assert_close(compiled(x), expected)
    assert len(ag.grafts(compiled)) == len(graft_plan(compiled).sites) == 3
    check_live(compiled)
    stir_grafts_(compiled)
    assert (compiled(x) - expected).abs().max() > 1e-3
    ag.ungraft_(compiled)
    torch.testing.assert_close(compiled(x), expected)


@torch.no_grad()
def test_a_grown_copy_leaves_the_compiled_network_plain(compiled, plain):
    x = image_batch(2, *SIZE)
    expected = plain(x)
    grown = stir_grafts_(ag.graft(compiled, "se", input_size=SIZE))
    assert (grown(x) - expected).abs().max() > 1e-3
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(ag.ungraft(grown)(x), expected)


def test_sites_of_a_compiled_network_have_the_paths_of_the_network(plain):
    compiled = torch.compile(plain, backend="eager")
    assert ag.find_sites(compiled, input_size=SIZE) == ag.find_sites(plain, input_size=SIZE)
    assert [s.path for s in ag.find_sites(compiled, "blocks.*", input_size=SIZE)] == [
        "blocks.0",
        "blocks.1",
        "blocks.2",
    ]


def test_what_is_compiled_is_told():
    model = nn.Sequential(nn.ReLU())
    assert not is_compiled(model)
    assert is_compiled(whole(model))
    assert is_compiled(in_place(model))
