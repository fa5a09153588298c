from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import attngraft as ag
from attngraft.backbones import preprocessing_of
from attngraft.continual.adaptation.partial_update import blended, check_update, refresh_statistics_, with_whole_head
from attngraft.data import build_transform, load_data
from attngraft.errors import ConfigError
from attngraft.settings.serving import AdaptOptions, parse_update, update_recipe


@pytest.fixture
def grown():
    torch.manual_seed(0)
    return ag.graft_(ag.create_backbone("small-cnn", num_classes=10), "cbam", input_size=(3, 32, 32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grafs", "did you mean 'grafts'"),
        ("", "unknown part ''"),
        ("bn+", "unknown part ''"),
        ("all+bn", "write all alone"),
    ],
)
def test_an_update_that_names_nothing_known_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_update(text)


def test_an_update_of_grafts_needs_grafts(grown):
    check_update(grown, "grafts+bn")
    with pytest.raises(ConfigError, match="no grafts: update bn\\+head-bias"):
        check_update(ag.ungraft(grown), "grafts+bn+head-bias")
    with pytest.raises(ConfigError, match="no BatchNorm"):
        check_update(nn.Sequential(nn.Linear(3, 2)), "bn")


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"lr": 0.0},
        {"blends": ()},
        {"blends": (0.0, 1.0)},
        {"replay": -1},
        {"distill": -0.1},
        {"batch_size": 0},
        {"temperature": 0.0},
        {"update": "everything"},
    ],
)
def test_options_out_of_range_are_refused(change):
    with pytest.raises(ConfigError):
        AdaptOptions(**change)


def test_everything_is_trained_at_the_rate_of_the_backbone():
    options = AdaptOptions(lr=0.1, backbone_lr=0.001)
    assert update_recipe(options, "all").phases[0].lr == 0.001
    assert update_recipe(options, "grafts+bn").phases[0].lr == 0.1


def test_added_classes_take_the_whole_head():
    assert with_whole_head("bn") == "bn+head"
    assert with_whole_head("all") == "all"


def test_a_blend_is_old_at_0_and_new_at_1_bit_for_bit(grown):
    old, new = grown.state_dict(), copy.deepcopy(grown).state_dict()
    for tensor in new.values():
        tensor += 1
    for weight, expected in ((0.0, old), (1.0, new)):
        found = blended(old, new, weight)
        assert all(torch.equal(found[name], expected[name]) for name in found if found[name].is_floating_point())
    half = blended(old, new, 0.5)
    assert torch.allclose(half["head.weight"], old["head.weight"] + 0.5)


def test_refreshed_statistics_are_those_of_the_images(grown):
    images = load_data("cluttered-digits", image_size=32, limit=128).train
    preprocessing = preprocessing_of(grown)
    weights = {name: p.detach().clone() for name, p in grown.named_parameters()}
    momentum = grown.block1[1].momentum
    refresh_statistics_(grown, images, preprocessing, batch_size=64)
    transform = build_transform("none", preprocessing, train=False)
    inputs = torch.stack([transform(images.image(i)) for i in range(len(images))])
    with torch.no_grad():
        maps = grown.block1[0](inputs)
    assert torch.allclose(grown.block1[1].running_mean, maps.mean((0, 2, 3)), atol=1e-4)
    assert not any(module.training for module in grown.modules())
    assert grown.block1[1].momentum == momentum
    assert all(torch.equal(p, weights[name]) for name, p in grown.named_parameters())
