"""Detectors: "fcos:timm:NAME" and others on a trunk of timm, and those of torchvision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from ..config import Preprocessing
from ..errors import BackboneError, first_line, nearest
from . import timm_models
from .channels import adapt_input_
from .metadata import BackboneInfo, backbone_info, note_backbone_
from .published_weights import is_in_torch_cache, load_trunk_, require_network

TORCHVISION = "torchvision:"
FAMILIES = ("fasterrcnn_", "fcos_", "keypointrcnn_", "maskrcnn_", "retinanet_", "ssd")  # of torchvision
PUBLISHED_CLASSES = 91  # of torchvision's weights, with a background
SIZE = 320  # of the images for a trunk of timm
STRIDES = (8, 16, 32)  # of the maps that the pyramid takes: c3, c4 and c5
WIDTH = 128  # channels of the pyramid and the heads
CONVS = 2  # 3 x 3 convolutions before each output of a one-stage head
HIDDEN = 256  # features of a box in a two-stage head
LEAST_SCORE = 0.005  # of a detection that is put out


def claims(spec: str) -> bool:
    detector, _, trunk = spec.partition(":")
    is_torchvision = spec.startswith(TORCHVISION) and spec.removeprefix(TORCHVISION).startswith(FAMILIES)
    return is_torchvision or (detector in DETECTORS and trunk.startswith(timm_models.PREFIX))


def create(spec: str, num_classes: int | None, pretrained: bool, in_channels: int | None = None) -> nn.Module:
    """Create a detector with torchvision's calling convention; its images are padded, not cropped.

    In eval mode it returns for each image a dict of `boxes` (n, 4) x0 y0 x1 y1 in pixels of the input, `scores` and
    `labels` (n,), 0 to K - 1; in train mode, where targets follow the images, a dict of losses. It takes images
    (B, C, H, W) as they come, see `GivenImages`.

    Raises:
        BackboneError: no such network, a trunk without maps of three resolutions, or weights that cannot be had.
    """
    if spec.startswith(TORCHVISION):
        return _create_torchvision(spec, num_classes, pretrained, in_channels or 3)
    return _create_on_timm(spec, num_classes or PUBLISHED_CLASSES - 1, pretrained, in_channels or 3)


def _create_on_timm(spec: str, classes: int, pretrained: bool, channels: int) -> nn.Module:
    detector, _, trunk = spec.partition(":")
    published = timm_models.create(trunk, None, pretrained)
    info = backbone_info(published)
    assert info is not None
    body, widths = _trunk(trunk, spec)
    if pretrained:
        load_trunk_(body, published, spec)
    preprocessing = replace(info.preprocessing, image_size=SIZE, resize="pad")
    from .detector_parts import GivenImages

    has_background, build = DETECTORS[detector]
    model: Any = build(body, widths, classes + has_background)
    model.transform = GivenImages(int(has_background), preprocessing.mean, preprocessing.std, SIZE)
    adapt_input_(model, channels)
    told = f"trunk: {info.weights}" if pretrained else BackboneInfo.weights
    noted = BackboneInfo(spec, classes, preprocessing.with_channels(channels), pretrained, told)
    return note_backbone_(model, noted)


def _trunk(name: str, spec: str) -> tuple[nn.Module, list[int]]:
    """A network of timm that returns its maps at `STRIDES`, and their channels."""
    import timm

    try:
        whole: Any = timm.create_model(name.removeprefix(timm_models.PREFIX), features_only=True, pretrained=False)
        levels = {stride: number for number, stride in enumerate(whole.feature_info.reduction())}
        chosen = [levels[stride] for stride in STRIDES]
        body: Any = timm.create_model(
            name.removeprefix(timm_models.PREFIX), features_only=True, pretrained=False, out_indices=chosen
        )
    except Exception as error:
        reason = "it has no maps at strides 8, 16 and 32" if isinstance(error, KeyError) else first_line(error)
        raise BackboneError(f"'{spec}' cannot be built ({reason}): choose a convolutional network of timm.") from error
    return body, list(body.feature_info.channels())


def _fcos(body: nn.Module, widths: list[int], classes: int) -> nn.Module:
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.fcos import FCOSHead
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    from .detector_parts import TrunkWithPyramid

    backbone = TrunkWithPyramid(body, widths, WIDTH, LastLevelP6P7(WIDTH, WIDTH))
    return FCOS(backbone, classes, head=FCOSHead(WIDTH, 1, classes, CONVS), score_thresh=LEAST_SCORE)


def _retinanet(body: nn.Module, widths: list[int], classes: int) -> nn.Module:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.retinanet import RetinaNetHead
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    from .detector_parts import TrunkWithPyramid

    backbone = TrunkWithPyramid(body, widths, WIDTH, LastLevelP6P7(WIDTH, WIDTH))
    sizes = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in (32, 64, 128, 256, 512))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    head = RetinaNetHead(WIDTH, anchors.num_anchors_per_location()[0], classes)
    return RetinaNet(backbone, classes, anchor_generator=anchors, head=head, score_thresh=LEAST_SCORE)


def _faster_rcnn(body: nn.Module, widths: list[int], classes: int) -> nn.Module:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    from .detector_parts import TrunkWithPyramid

    backbone = TrunkWithPyramid(body, widths, WIDTH, LastLevelMaxPool())
    sizes = ((32,), (64,), (128,), (256,))
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign([str(i) for i in range(len(widths))], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(WIDTH * 7 * 7, HIDDEN),
        box_predictor=FastRCNNPredictor(HIDDEN, classes),
        box_score_thresh=LEAST_SCORE,
    )


Build = Callable[[nn.Module, list[int], int], nn.Module]
DETECTORS: dict[str, tuple[bool, Build]] = {  # whether class 0 is a background, and what builds it
    "fcos": (False, _fcos),
    "retinanet": (False, _retinanet),
    "fasterrcnn": (True, _faster_rcnn),
}


def _create_torchvision(spec: str, classes: int | None, pretrained: bool, channels: int) -> nn.Module:
    from torchvision import models

    name = spec.removeprefix(TORCHVISION)
    known = models.list_models(module=models.detection)
    if name not in known:
        raise BackboneError(f"torchvision has no detector '{name}': {nearest(name, known)}")
    published: Any = models.get_model_weights(name).DEFAULT
    if pretrained and not is_in_torch_cache(published.url):
        require_network(published.url, spec)
    has_background = not name.startswith(("fcos_", "retinanet_"))
    count = PUBLISHED_CLASSES if classes is None else classes + has_background
    model: Any = models.get_model(name, weights=None, weights_backbone=None, num_classes=count)
    if pretrained:
        have, wanted = published.get_state_dict(progress=False, check_hash=True), model.state_dict()
        fits = {key: have[key] for key in wanted if key in have and have[key].shape == wanted[key].shape}
        model.load_state_dict(fits, strict=False)
    preprocessing = take_given_images_(model)
    adapt_input_(model, channels)
    told = f"torchvision's {published}" if pretrained else BackboneInfo.weights
    info = BackboneInfo(spec, count - has_background, preprocessing.with_channels(channels), pretrained, told)
    return note_backbone_(model, info)


def why_not_trained(model: Any) -> str | None:
    """Why a detector cannot be trained on boxes and images as they come, as a sentence; None where nothing speaks against it."""
    heads = getattr(model, "roi_heads", None)
    for what in ("mask", "keypoint"):
        if getattr(heads, f"{what}_head", None) is not None:
            return f"the detector finds {what}s too, which it cannot learn from boxes: take one that finds boxes alone."
    own = getattr(model, "transform", None)
    if own is not None and type(own).__name__ == "GeneralizedRCNNTransform":
        return (
            "the detector resizes and normalises its images itself, and numbers classes in its own way: call "
            "attngraft.backbones.take_given_images_(model)."
        )
    return None


def take_given_images_(model: Any) -> Preprocessing:
    """Let a detector of torchvision's classes take images as they come, in place, with the data's classes from 0 on.

    Its own resizing and normalisation are left out, and labels are shifted where it scores a background.

    Args:
        model: a FasterRCNN, RetinaNet, FCOS or SSD, or one of their kind, as torchvision makes them.

    Returns:
        what it did with images before, for the data to do.

    Raises:
        BackboneError: it has no such transform.
    """
    from torchvision.models.detection import FCOS, RetinaNet
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    from .detector_parts import GivenImages

    own = getattr(model, "transform", None)
    if not isinstance(own, GeneralizedRCNNTransform):
        raise BackboneError(
            f"a {type(model).__name__} has no transform of torchvision's detectors: nothing to leave out."
        )
    size = max(own.fixed_size) if own.fixed_size else max(own.min_size)
    mean, std = tuple(own.image_mean), tuple(own.image_std)
    if not isinstance(own, GivenImages):
        model.transform = GivenImages(int(not isinstance(model, (FCOS, RetinaNet))), mean, std, size)
    return Preprocessing(image_size=size, mean=mean, std=std, interpolation="bilinear", resize="pad")
