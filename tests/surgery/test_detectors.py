"""Placements in detectors, and what grafts change in their boxes: nothing."""

from __future__ import annotations

import pytest
import torch
from small_detector import small_detector
from torch import nn

import attngraft as ag
from attngraft.errors import BackboneError, GraftError
from attngraft.surgery.heads import find_head, replace_head_
from attngraft.training.phases import dissect

SPECS = (
    "fcos:timm:tf_efficientnet_lite0",
    "retinanet:timm:resnet18",
    "fasterrcnn:timm:resnet18",
    "torchvision:ssdlite320_mobilenet_v3_large",
)


def detector(spec: str) -> nn.Module:
    torch.manual_seed(0)
    return ag.create_backbone(spec, num_classes=4, pretrained=False).eval()


def paths(model: nn.Module, where: str, size: int = 64) -> list[str]:
    return [site.path for site in ag.find_sites(model, where, input_size=size)]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("attention", ["gc", "cbam", "eca"])
def test_boxes_before_and_after_grafting_are_equal_bit_for_bit(spec: str, attention: str) -> None:
    plain = detector(spec)
    images = torch.randn(2, 3, 64, 64)
    grafted = ag.graft(plain, attention, where="residual+neck", input_size=64)
    with torch.no_grad():
        before, after = plain(images), grafted(images)
    assert sum(len(one["boxes"]) for one in before) > 0
    for one, other in zip(before, after, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("spec", SPECS[:3])
def test_a_graft_in_the_neck_or_the_trunk_learns(spec: str) -> None:
    model = ag.graft(detector(spec), "gc", where="stage-c3-c5+neck", input_size=64).train()
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])}] * 2
    sum(model(torch.randn(2, 3, 64, 64), targets).values()).backward()
    grafts = [parameter for name, parameter in model.named_parameters() if ".graft." in name]
    assert len(grafts) > 6
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in grafts)


def test_places_in_the_parts_of_a_detector() -> None:
    model = small_detector(4).eval()
    assert paths(model, "neck") == ["backbone.fpn.layer_blocks.1.0", "backbone.fpn.layer_blocks.0.0"]
    assert paths(model, "stage") == ["backbone.body.stem.2", "backbone.body.middle.2", "backbone.body.last.2"]
    assert paths(model, "stage-c2") == ["backbone.body.middle.2"]
    assert paths(model, "stage-c2+stage-c3") == ["backbone.body.middle.2", "backbone.body.last.2"]
    with pytest.raises(GraftError, match="head: its output is not one"):
        paths(model, "head")
    with pytest.raises(GraftError, match="runs 3 times"):
        paths(model, "head.classification_head.conv.0")
    with pytest.raises(GraftError, match="puts out no boxes"):
        paths(ag.create_backbone("small-cnn"), "neck", 32)


def test_strides_are_places_of_classifiers_too() -> None:
    model = ag.create_backbone("timm:resnet18", pretrained=False)
    assert paths(model, "stage-c3-c5", 224) == ["layer2.1", "layer3.1", "layer4.1"]


def test_neck_and_heads_train_as_the_head_and_the_trunk_in_stages() -> None:
    model = small_detector(4)
    anatomy = dissect(model, (3, 64, 64))
    assert anatomy.stages == 3
    for name, part in anatomy.parts.items():
        is_new = name.startswith(("backbone.fpn.", "head."))
        assert (part == "head") == is_new
    assert anatomy.parts["backbone.body.stem.0.weight"] == 0
    assert anatomy.parts["backbone.body.last.0.weight"] == 2
    assert len(anatomy.norms) == 3
    two_stages = find_head(detector("fasterrcnn:timm:resnet18"), input_size=(3, 64, 64))
    assert two_stages.modules == ("backbone.fpn", "rpn", "roi_heads")


def test_the_heads_of_a_detector_are_not_replaced() -> None:
    with pytest.raises(BackboneError, match="create it anew for 7 classes"):
        replace_head_(small_detector(4), 7, input_size=(3, 64, 64))


def test_a_grafted_detector_is_saved_and_loaded(tmp_path) -> None:
    model = ag.graft(detector("fcos:timm:resnet18"), "gc", where="neck", input_size=64)
    ag.save(model, tmp_path)
    loaded = ag.load(tmp_path).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images)[0]["boxes"], model(images)[0]["boxes"])
