"""Backbones by name: specs, heads, preprocessing, and errors that say what to type instead."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attngraft as ag
from attngraft.backbones import BUILTIN, SOURCES, backbone_info, has_pretrained, preprocessing_of
from attngraft.config import Preprocessing
from attngraft.errors import BackboneError


@pytest.mark.parametrize("spec", sorted(BUILTIN))
def test_builtin_backbones_take_32_pixel_images(spec):
    model = ag.create_backbone(spec, num_classes=3, pretrained=False).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert preprocessing_of(model).image_size == 32
    assert len(ag.find_sites(model)) == {"small-cnn": 3, "resnet20-32": 9, "resnet18-32": 8, "resnet50-32": 16}[spec]


def test_builtin_backbones_have_ten_classes_where_nothing_is_said():
    model = ag.create_backbone("small-cnn")
    assert backbone_info(model).num_classes == 10
    assert model.head.out_features == 10


@pytest.mark.parametrize(
    ("spec", "head"),
    [
        ("timm:test_resnet", "fc"),
        ("timm:test_resnet.r160_in1k", "fc"),
        ("timm:mobilenetv3_small_050", "classifier"),
        ("torchvision:mobilenet_v3_small", "classifier.3"),
        ("torchvision:shufflenet_v2_x0_5", "fc"),
        ("torchvision:squeezenet1_1", "classifier.1"),
        ("small-cnn", "head"),
    ],
)
def test_the_number_of_classes_is_that_of_the_head_and_of_the_logits(spec, head):
    model = ag.create_backbone(spec, num_classes=7, pretrained=False).eval()
    layer = model.get_submodule(head)
    assert (layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features) == 7
    with torch.no_grad():
        assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)
    info = backbone_info(model)
    assert (info.spec, info.num_classes, info.pretrained) == (spec, 7, False)
    assert info.weights == "random initialisation"


@pytest.mark.parametrize("spec", ["timm:test_resnet", "torchvision:shufflenet_v2_x0_5"])
def test_the_published_head_stays_where_no_number_is_given(spec):
    assert backbone_info(ag.create_backbone(spec, pretrained=False)).num_classes == 1000


@pytest.mark.parametrize("spec", ["timm:test_resnet", "torchvision:squeezenet1_1", "small-cnn"])
def test_the_same_seed_gives_the_same_weights_and_head(spec):
    def state():
        torch.manual_seed(5)
        return ag.create_backbone(spec, num_classes=4, pretrained=False).state_dict()

    first, second = state(), state()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_auxiliary_heads_are_gone_so_that_training_returns_a_tensor(name):
    model = ag.create_backbone(f"torchvision:{name}", num_classes=4, pretrained=False).train()
    logits = model(torch.randn(2, 3, 96, 96))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 4)
    assert not any("aux" in key.lower() for key in model.state_dict())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("small-cn", "unknown backbone 'small-cn': did you mean 'small-cnn'"),
        ("resnet-18-32", "did you mean 'resnet18-32'"),
        ("resnet18", "unknown backbone 'resnet18': did you mean 'timm:resnet18'"),
        ("squeezenet1_1", "did you mean 'torchvision:squeezenet1_1'"),
        ("qqqq", "known: .*small-cnn, .*the path of a run folder, timm:NAME, torchvision:NAME"),
        ("", "unknown backbone ''"),
        ("timm:resnet81", "timm has no model 'resnet81': did you mean 'resnet"),
        ("timm:", "timm has no model ''"),
        ("torchvision:vgg61", "torchvision has no classifier 'vgg61': did you mean 'vgg"),
        (
            "torchvision:fasterrcnn_resnet51_fpn",
            "torchvision has no detector .*: did you mean .fasterrcnn_resnet50_fpn",
        ),
        ("runs/none/here", "unknown backbone 'runs/none/here'"),
    ],
)
def test_an_unknown_name_says_the_nearest(spec, message):
    with pytest.raises(BackboneError, match=message) as caught:
        ag.create_backbone(spec, pretrained=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, -1])
def test_a_senseless_number_of_classes_is_refused(count):
    with pytest.raises(BackboneError, match=f"num_classes is {count}: expected at least 1"):
        ag.create_backbone("small-cnn", num_classes=count)


def test_one_class_is_enough():
    assert ag.create_backbone("small-cnn", num_classes=1).head.out_features == 1


def test_preprocessing_is_the_one_the_backbone_was_published_with():
    assert preprocessing_of(ag.create_backbone("torchvision:shufflenet_v2_x0_5", pretrained=False)) == Preprocessing(
        image_size=224, interpolation="bilinear", crop_pct=224 / 256
    )
    timm_model = ag.create_backbone("timm:mobilenetv3_small_050", pretrained=False)
    config = timm_model.default_cfg
    found = preprocessing_of(timm_model)
    assert found.mean == config["mean"]
    assert found.crop_pct == config["crop_pct"]
    assert found.interpolation == config["interpolation"]


def test_the_image_size_can_be_another_and_a_foreign_model_has_the_usual():
    model = ag.create_backbone("small-cnn")
    assert preprocessing_of(model, 48).image_size == 48
    assert preprocessing_of(model, 48).mean == preprocessing_of(model).mean
    assert backbone_info(nn.Linear(2, 2)) is None
    assert preprocessing_of(nn.Linear(2, 2)) == Preprocessing()


def test_each_spec_is_claimed_by_one_source_only(tmp_path):
    for spec in ("timm:resnet18", "torchvision:vgg16", "small-cnn", str(tmp_path)):
        assert sum(source.claims(spec) for source in SOURCES.values()) == 1


def test_only_the_builtin_backbones_have_no_published_weights():
    assert not any(has_pretrained(spec) for spec in BUILTIN)
    assert has_pretrained("timm:resnet18")
