"""Finding the layer that computes the logits, and putting another in its place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attngraft as ag
from attngraft.backbones import find_head, replace_head_
from attngraft.errors import BackboneError

HEADS = {
    "torchvision:resnet18": "fc",
    "torchvision:vgg11": "classifier.6",
    "torchvision:densenet121": "classifier",
    "torchvision:mobilenet_v2": "classifier.1",
    "torchvision:squeezenet1_0": "classifier.1",
    "torchvision:googlenet": "fc",
    "torchvision:mnasnet0_5": "classifier.1",
    "timm:test_convnext": "head.fc",
    "timm:repvgg_a0": "head.fc",
    "timm:ghostnet_100": "classifier",
    "timm:dla46_c": "fc",
    "timm:dpn48b": "classifier",
    "timm:hrnet_w18_small": "classifier",
    "timm:resnetv2_50": "head.fc",
    "timm:legacy_xception": "fc",
    "small-cnn": "head",
}


@pytest.mark.parametrize(("spec", "path"), HEADS.items())
def test_the_head_is_found(spec, path):
    classes = 10 if spec == "small-cnn" else 1000
    with torch.device("meta"):  # names and shapes are enough
        model = ag.create_backbone(spec)
    assert find_head(model) == path
    assert find_head(model, classes) == path
    replace_head_(model, 6)
    assert find_head(model, 6) == path
    assert model(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 6)


def test_a_graft_is_never_the_head():
    model = ag.graft(ag.create_backbone("small-cnn"), "se", where="stage")
    assert find_head(model) == "head"


def test_a_model_without_a_head_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(BackboneError, match="has no linear layer or 1x1 convolution: it does not look like"):
        find_head(model)
    with pytest.raises(BackboneError, match="has no linear layer or 1x1 convolution with 9 outputs"):
        find_head(ag.create_backbone("small-cnn"), 9)


def test_a_new_head_keeps_what_the_old_one_had():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False)).to(torch.bfloat16)
    replace_head_(model, 3)
    assert (model[1].weight.shape, model[1].weight.dtype, model[1].bias) == ((3, 12), torch.bfloat16, None)
    model = ag.create_backbone("timm:test_resnet")
    replace_head_(model, 3)
    assert model.num_classes == 3


def test_only_the_head_changes():
    model = ag.create_backbone("small-cnn")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    replace_head_(model, 4)
    changed = {k for k, v in model.state_dict().items() if v.shape != before[k].shape or not torch.equal(v, before[k])}
    assert changed == {"head.weight", "head.bias"}
