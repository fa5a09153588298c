"""Models and images of which it is known where they look, and what a model must keep."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import attngraft as ag
from attngraft.attention import Attention
from attngraft.backbones import note_preprocessing_
from attngraft.config import Preprocessing
from attngraft.data import ImageSet
from attngraft.data.pixel_store import decode_array
from attngraft.surgery import note_classes_

SIDE, PATCH = 32, 8
PREPROCESSING = Preprocessing(image_size=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear", crop_pct=1.0)


class Detector(nn.Module):
    """The probability of class 1 is the larger, the more of the picture is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 1, bias=False)
        self.mix = nn.Conv2d(2, 2, 1, bias=False)
        self.head = nn.Linear(2, 2)
        nn.init.constant_(self.stem.weight, 1 / 3)
        self.mix.weight.data = torch.eye(2).view(2, 2, 1, 1)
        self.head.weight.data = torch.tensor([[0.0, 0.0], [60.0, 60.0]])
        self.head.bias.data = torch.tensor([0.0, -5.0])

    def forward(self, x: Tensor) -> Tensor:
        bright = torch.relu(self.mix(torch.relu(self.stem(x) - 0.3)))
        return self.head(bright.mean((2, 3)))


def planted_model() -> nn.Module:
    """A detector whose spatial gate is, by construction, a detector of bright places."""
    model = ag.graft(Detector(), "cbam-spatial", where="stem", input_size=(3, SIDE, SIDE), kernel_size=3).eval()
    logits = ag.grafts(model)["stem"].logits
    with torch.no_grad():
        logits.conv.weight.zero_()
        logits.conv.weight[0, :, 1, 1] = 0.5  # the mean of channel maximum and channel mean
        logits.bn.weight.fill_(10.0)
        logits.bn.bias.fill_(-5.0)
    return note_classes_(note_preprocessing_(model, PREPROCESSING), ("dark", "bright"))


def planted_images(count: int, seed: int = 0) -> ImageSet:
    """Dark noise with one bright square at a random place, which the box surrounds."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (count, SIDE, SIDE, 3), dtype=np.uint8)
    boxes = np.empty((count, 4), dtype=np.float32)
    for image, box in zip(pixels, boxes, strict=True):
        x, y = rng.integers(0, SIDE - PATCH, 2)
        image[y : y + PATCH, x : x + PATCH] += 190
        box[:] = x, y, x + PATCH, y + PATCH
    decoded = decode_array(pixels, limit=1000)
    ids = tuple(f"planted/{i}" for i in range(count))
    return ImageSet(ids, np.ones(count, np.int64), decoded.hashes, decoded.store, np.arange(count), boxes)


def planted_inputs(count: int, seed: int = 0) -> Tensor:
    images = planted_images(count, seed)
    return torch.stack([images.image(i) for i in range(count)]).float().contiguous() / 255


class Interrupting(Attention):
    """A graft in whose middle the user gives up."""

    def __init__(self) -> None:
        super().__init__(1, "identity")

    def gates(self, x: Tensor) -> Any:
        raise KeyboardInterrupt


def state_of(model: nn.Module) -> OrderedDict[str, Any]:
    """All that must be as before: weights, gradients, modes, hooks, attributes, random numbers."""
    found: OrderedDict[str, Any] = OrderedDict()
    for name, tensor in model.state_dict(keep_vars=True).items():
        grad = tensor.grad if isinstance(tensor, nn.Parameter) else None
        found[name] = (tensor.detach().clone(), tensor.requires_grad, None if grad is None else grad.clone())
    for path, module in model.named_modules():
        hooks = [list(h) for h in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)]
        found[f"{path}()"] = (module.training, hooks, sorted(module.__dict__))
    found["torch"] = torch.get_rng_state()
    found["numpy"] = np.random.get_state()[1].copy()
    return found


def assert_untouched(before: OrderedDict[str, Any], model: nn.Module) -> None:
    after = state_of(model)
    assert list(after) == list(before)
    for name, values in before.items():
        assert _equal(values, after[name]), name


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
