"""Small ResNets and CNNs for small images, in forms that timm and torchvision lack."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..config import Preprocessing
from ..errors import BackboneError
from .channels import adapt_input_
from .metadata import BackboneInfo, note_backbone_
from .published_weights import no_published_weights

MOST_WIDTH = 4096


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


class ResNet20(nn.Module):
    """The ResNet-20 for CIFAR of He et al. (arXiv:1512.03385, section 4.2): 0.27 million parameters.

    Three stages of three basic blocks with 16, 32 and 64 channels. Shortcuts that change the size are 1x1
    convolutions (the paper's option B).

    Args:
        num_classes: number of logits.
        width: channels of the first stage; doubled in each of the next two.

    Shape:
        (B, 3, H, W) -> (B, num_classes)
    """

    def __init__(self, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(channels_in: int, channels: int, *, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1 or channels_in != channels:
        shortcut = nn.Sequential(
            nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
        )
    first = BasicBlock(channels_in, channels, stride, shortcut)
    return nn.Sequential(first, BasicBlock(channels, channels), BasicBlock(channels, channels))


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


BUILTIN: dict[str, Callable[..., nn.Module]] = {
    "small-cnn": SmallCNN,
    "resnet20-32": ResNet20,
    "resnet18-32": resnet18_32,
    "resnet50-32": resnet50_32,
}

_SMALL_IMAGES = Preprocessing(
    image_size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), interpolation="bilinear", crop_pct=1.0
)


WITH_WIDTH = {"small-cnn": (32, 40, 48, 64, 80, 96, 128), "resnet20-32": (16, 20, 24, 32, 48, 64)}


def claims(spec: str) -> bool:
    return spec.partition(":")[0] in BUILTIN


def width_of(spec: str) -> int | None:
    """The width behind the name, as in "small-cnn:width=48"; None where it is not written.

    Raises:
        BackboneError: something else stands there.
    """
    name, _, option = spec.partition(":")
    key, _, number = option.partition("=")
    if not option:
        return None
    if name not in WITH_WIDTH or key != "width" or not number.isdigit() or not 1 <= int(number) <= MOST_WIDTH:
        raise BackboneError(
            f"unknown backbone '{spec}': expected {' or '.join(f'{name}:width=N' for name in WITH_WIDTH)}, N up to {MOST_WIDTH}."
        )
    return int(number)


def create(spec: str, num_classes: int | None, pretrained: bool, in_channels: int | None = None) -> nn.Module:
    """Create one of them, by default for ten classes and RGB.

    Raises:
        BackboneError: pretrained weights were asked for.
    """
    if pretrained:
        raise no_published_weights(spec)
    classes, preprocessing = num_classes or 10, _SMALL_IMAGES.with_channels(in_channels or 3)
    width = width_of(spec)
    options = {} if width is None else {"width": width}
    model = adapt_input_(BUILTIN[spec.partition(":")[0]](classes, **options), preprocessing.channels)
    return note_backbone_(model, BackboneInfo(spec, classes, preprocessing))
