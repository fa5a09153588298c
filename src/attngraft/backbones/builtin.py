"""Backbones for small images that neither timm nor torchvision has in this form."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..config import Preprocessing
from .describe import BackboneInfo, note_backbone_
from .weights import no_published_weights


class SmallCNN(nn.Module):
    """Three blocks of convolution, BatchNorm, ReLU and pooling, then a linear head; for 32x32 images.

    Args:
        num_classes: number of logits.
        width: channels of the first block; doubled in each of the next two.

    Shape:
        (B, 3, H, W) -> (B, num_classes), H and W at least 8.
    """

    def __init__(self, num_classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.block1 = _block(3, width)
        self.block2 = _block(width, 2 * width)
        self.block3 = _block(2 * width, 4 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(x)))
        return self.head(self.pool(x).flatten(1))


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


def resnet18_32(num_classes: int) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no max-pool, as is usual for CIFAR."""
    from torchvision.models import resnet18

    return _small_stem(resnet18(num_classes=num_classes))


def resnet50_32(num_classes: int) -> nn.Module:
    """ResNet-50 with a 3x3 stem and no max-pool, as is usual for CIFAR."""
    from torchvision.models import resnet50

    return _small_stem(resnet50(num_classes=num_classes))


def _small_stem(model: nn.Module) -> nn.Module:
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


BUILTIN: dict[str, Callable[[int], nn.Module]] = {
    "small-cnn": SmallCNN,
    "resnet18-32": resnet18_32,
    "resnet50-32": resnet50_32,
}

_SMALL_IMAGES = Preprocessing(
    image_size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), interpolation="bilinear", crop_pct=1.0
)


def claims(spec: str) -> bool:
    return spec in BUILTIN


def create(spec: str, num_classes: int | None, pretrained: bool) -> nn.Module:
    """Create one of them, for ten classes where nothing else is said.

    Raises:
        BackboneError: pretrained weights were asked for.
    """
    if pretrained:
        raise no_published_weights(spec)
    classes = num_classes or 10
    return note_backbone_(BUILTIN[spec](classes), BackboneInfo(spec, classes, _SMALL_IMAGES))
