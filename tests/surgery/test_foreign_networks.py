"""Networks of other libraries, where these are installed: what they return stays what it was, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from grafting_helpers import image_batch, settle_
from torch import nn

import attngraft as ag
from attngraft.surgery.model_output import output_tensors

WIDTHS = (16, 32, 48, 64)
DEPTHS = (1, 1, 2, 1)
Build = Callable[[Any], nn.Module]


def hugging_face(config: str, model: str, **options: Any) -> Build:
    return lambda t: getattr(t, model)(getattr(t, config)(**options))


NETWORKS: dict[str, tuple[str, Build, int]] = {
    **{
        f"{name}/resnet18": ("segmentation_models_pytorch", lambda s, n=name: getattr(s, n)("resnet18", encoder_weights=None), 3)
        for name in ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "UPerNet")
    },
    **{
        f"Unet/{name}": ("segmentation_models_pytorch", lambda s, n=name: s.Unet(n, encoder_weights=None), 3)
        for name in ("mobilenet_v2", "vgg11_bn", "densenet121", "mobileone_s0", "tu-convnext_atto", "tu-mambaout_femto")
    },
    "monai UNet": ("monai.networks.nets", lambda n: n.UNet(2, 1, 2, (8, 16, 32), (2, 2), num_res_units=2), 1),
    "monai plain UNet": ("monai.networks.nets", lambda n: n.UNet(2, 1, 2, (8, 16, 32), (2, 2)), 1),
    "monai BasicUNet": ("monai.networks.nets", lambda n: n.BasicUNet(2, 1, 2, (8, 8, 16, 16, 32, 8)), 1),
    "monai AttentionUnet": ("monai.networks.nets", lambda n: n.AttentionUnet(2, 1, 2, (8, 16, 32), (2, 2)), 1),
    "monai SegResNet": ("monai.networks.nets", lambda n: n.SegResNet(2, 8, 1, 2), 1),
    "monai VNet": ("monai.networks.nets", lambda n: n.VNet(2, 1, 2), 1),
    "monai DenseNet": ("monai.networks.nets", lambda n: n.DenseNet121(2, 1, 2), 1),
    "facenet": ("facenet_pytorch", lambda f: f.InceptionResnetV1(num_classes=5, classify=True), 3),
    **{
        f"{name}": ("ultralytics.nn.tasks", lambda u, n=name, k=kind: getattr(u, k)(n, verbose=False), 3)
        for name, kind in (
            ("yolov8n.yaml", "DetectionModel"), ("yolov8n-seg.yaml", "SegmentationModel"),
            ("yolo11n-cls.yaml", "ClassificationModel"), ("yolov9t.yaml", "DetectionModel"),
        )
    },
    "ResNet": ("transformers", hugging_face("ResNetConfig", "ResNetForImageClassification"), 3),
    "ConvNext": (
        "transformers",
        hugging_face("ConvNextConfig", "ConvNextForImageClassification", depths=DEPTHS, hidden_sizes=WIDTHS),
        3,
    ),
    "RegNet": ("transformers", hugging_face("RegNetConfig", "RegNetForImageClassification", depths=DEPTHS), 3),
    "MobileNetV2": ("transformers", hugging_face("MobileNetV2Config", "MobileNetV2ForImageClassification"), 3),
    "Segformer": ("transformers", hugging_face("SegformerConfig", "SegformerForSemanticSegmentation"), 3),
    "MobileViT": ("transformers", hugging_face("MobileViTConfig", "MobileViTForImageClassification", image_size=96), 3),
}  # fmt: skip


def outputs(model: nn.Module, x: torch.Tensor, train: bool) -> list[torch.Tensor]:
    model = copy.deepcopy(model).train(train)
    torch.manual_seed(3)
    with torch.no_grad():
        return output_tensors(model(x), 6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attention", ["cbam", "global-context"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_another_library_keeps_what_it_returns(name, attention):
    library, build, channels = NETWORKS[name]
    pytest.importorskip(library.partition(".")[0])
    torch.manual_seed(0)
    plain = settle_(build(import_module(library)))
    x = image_batch(2, channels, 96, 96)
    grown = ag.graft(plain, attention, input_size=(channels, 96, 96))
    for train in (False, True):
        expected = outputs(plain, x, train)
        assert expected
        for ours, theirs in zip(outputs(grown, x, train), expected, strict=True):
            assert torch.equal(ours, theirs)
    assert list(ag.ungraft(grown).state_dict()) == list(plain.state_dict())
