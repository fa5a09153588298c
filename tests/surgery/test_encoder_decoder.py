"""Placements in networks with an encoder and a decoder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attngraft as ag
from attngraft.errors import BackboneError, GraftError
from attngraft.training.phases import dissect


def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU())


class SmallUNet(nn.Module):
    """Three levels; decoder modules are defined first, which means nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.up1, self.up0 = block(24, 8), block(12, 4)
        self.down0, self.down1, self.down2 = block(3, 4), block(4, 8, 2), block(8, 16, 2)
        self.logits = nn.Conv2d(4, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        whole = self.down0(images)
        half = self.down1(whole)
        quarter = self.down2(half)
        x = self.up1(torch.cat([F.interpolate(quarter, scale_factor=2), half], 1))
        x = self.up0(torch.cat([F.interpolate(x, scale_factor=2), whole], 1))
        return self.logits(x)


def paths(model: nn.Module, where: str, size: int = 32) -> list[str]:
    return [site.path for site in ag.find_sites(model, where, input_size=size)]


def test_parts_of_a_u_net() -> None:
    model = SmallUNet()
    assert paths(model, "skip") == ["down0.2", "down1.2"]  # a Sequential carries no hook: its last layer does
    assert paths(model, "decoder") == ["up1.2", "up0.2"]
    assert paths(model, "encoder") == paths(model, "skip")  # as `auto` does: before each downsampling
    assert paths(model, "skip+decoder") == ["down0.2", "down1.2", "up1.2", "up0.2"]


@pytest.mark.parametrize("where", ["encoder", "skip", "decoder"])
@pytest.mark.parametrize("attention", ["cbam", "gc", "coord"])
def test_grafts_are_identities_wherever_they_are(where: str, attention: str) -> None:
    model = SmallUNet().eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ag.graft(model, attention, where=where, input_size=32)(images), model(images))


def test_the_decoder_is_trained_as_the_last_stage() -> None:
    """No pretrained features are lost there, whatever its resolution."""
    parts = dissect(SmallUNet(), (3, 32, 32)).parts
    stages = {name.partition(".")[0]: part for name, part in parts.items()}
    assert stages == {"down0": 0, "down1": 1, "down2": 2, "up1": 2, "up0": 2, "logits": "head"}


def test_stages_of_classifiers_stay_as_they_are() -> None:
    class Hourglass(SmallUNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).mean((2, 3))

    parts = dissect(Hourglass(), (3, 32, 32)).parts
    assert {parts["up1.0.weight"], parts["up0.0.weight"]} == {1, 0}


def test_without_a_decoder_it_is_said() -> None:
    model = ag.create_backbone("small-cnn", num_classes=3)
    assert paths(model, "encoder") == paths(model, "auto")
    with pytest.raises(GraftError, match="the network has no decoder"):
        paths(model, "decoder")


@pytest.mark.parametrize(("architecture", "skips", "decoded"), [("Unet", 4, 5), ("FPN", 3, 3), ("DeepLabV3Plus", 1, 2)])
def test_networks_of_segmentation_models_pytorch(architecture: str, skips: int, decoded: int) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    model = ag.create_backbone(f"smp:{architecture}/resnet18", num_classes=4, pretrained=False).eval()
    assert len(paths(model, "encoder", 64)) == 8
    assert all(path.startswith("encoder.") for path in paths(model, "skip", 64))
    assert len(paths(model, "skip", 64)) == skips
    assert all(path.startswith("decoder") for path in paths(model, "decoder", 64))
    assert len(paths(model, "decoder", 64)) == decoded
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ag.graft(model, "cbam", where="decoder", input_size=64)(images), model(images))


def test_the_packaged_weights_go_into_the_encoder() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    model = ag.create_backbone("smp:Unet/tf_efficientnet_lite0", num_classes=4)
    trunk = ag.create_backbone("timm:tf_efficientnet_lite0").state_dict()
    encoder = model.encoder.model.state_dict()  # type: ignore[union-attr,operator]
    assert len(encoder) > 200
    assert all(torch.equal(value, trunk[name]) for name, value in encoder.items())
    grey = ag.create_backbone("smp:Unet/tf_efficientnet_lite0", num_classes=4, in_channels=1, pretrained=False)
    assert grey(torch.zeros(1, 1, 64, 64)).shape == (1, 4, 64, 64)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smp:Unet", r"give smp:ARCHITECTURE/ENCODER\.$"),
        ("smp:Unett/resnet18", r"did you mean 'Unet'\?$"),
        ("smp:Unet/resnet188", r"unknown encoder: did you mean 'resnet18"),
        ("torchvision:lraspp_mobilenet_v3_larg", r"did you mean 'lraspp_mobilenet_v3_large'"),
    ],
)
def test_a_network_that_is_misspelt_is_one_sentence(spec: str, message: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(BackboneError, match=message):
        ag.create_backbone(spec, num_classes=3)
