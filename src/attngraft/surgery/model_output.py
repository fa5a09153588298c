"""Find the main output of a network in tuples, dicts and dataclasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BackboneError

MAIN_OUTPUTS = ("logits", "out", "output", "outputs", "pred", "preds", "prediction", "predictions")
MOST_BOXES = 100  # of an image that are kept: as many as COCO's evaluation looks at


def main_output(outputs: Any) -> Tensor:
    """The tensor that a loss and predictions are computed from.

    - A tensor is the output itself.
    - Of a dict, a dataclass or a named tuple, such as the outputs of `transformers` and of torchvision's GoogLeNet and
      Inception in train mode, it is the tensor called as the first of `MAIN_OUTPUTS` that is there, or the only tensor.
    - Of another tuple or list it is the first entry, where that is a tensor.
    - Of a detector it is what `packed_boxes` makes of its boxes.

    Auxiliary outputs beside it are left out.

    >>> import torch
    >>> main_output({"logits": torch.zeros(2, 3), "aux": torch.zeros(2, 5)}).shape
    torch.Size([2, 3])

    Raises:
        BackboneError: nothing of the kind; the sentence says what the model returned.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if is_detections(outputs):
        return packed_boxes(outputs)
    named = dict(_named(outputs))
    for name in MAIN_OUTPUTS:
        if isinstance(named.get(name), Tensor):
            return named[name]
    tensors = [value for value in named.values() if isinstance(value, Tensor)]
    if len(tensors) == 1:
        return tensors[0]
    if isinstance(outputs, (tuple, list)) and outputs and isinstance(outputs[0], Tensor):
        return outputs[0]
    raise BackboneError(
        f"the model returns {described(outputs)}: return one tensor, or call the main one '{MAIN_OUTPUTS[0]}'."
    )


def is_detections(outputs: Any) -> bool:
    """Whether a model returned boxes as torchvision's detectors do: for each image a dict of boxes, scores and labels."""
    if not isinstance(outputs, (tuple, list)) or not outputs:
        return False
    return all(isinstance(one, Mapping) and {"boxes", "scores", "labels"} <= one.keys() for one in outputs)


def packed_boxes(detections: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """The best 100 boxes of each image as one tensor.

    Returns:
        (B, 100, 6) float32: x0 y0 x1 y1, score and label, best score first; zeros with the label -1 where there are fewer.
    """
    rows = []
    for one in detections:
        found = torch.cat([one["boxes"], one["scores"][:, None], one["labels"][:, None]], 1).float()
        found = found[one["scores"].argsort(descending=True, stable=True)[:MOST_BOXES]]
        missing = found.new_zeros(MOST_BOXES - len(found), 6)
        missing[:, 5] = -1
        rows.append(torch.cat([found, missing]))
    return torch.stack(rows)


def output_tensors(outputs: Any, nested: int = 4) -> list[Tensor]:
    """All tensors in what a model returned, also those in dataclasses and objects within lists and dicts.

    Args:
        outputs: what it returned.
        nested: how many containers may lie within each other; what lies deeper is left out.
    """
    if isinstance(outputs, Tensor):
        return [outputs]
    if not nested or isinstance(outputs, (type, nn.Module)):
        return []
    inner = outputs if isinstance(outputs, (tuple, list)) else [value for _, value in _named(outputs)]
    return [tensor for value in inner for tensor in output_tensors(value, nested - 1)]


def described(outputs: Any) -> str:
    """Types, names and shapes of what a model returned, in a few words.

    >>> import torch
    >>> described({"boxes": torch.zeros(2, 4), "depth": None})
    'a dict of boxes (2, 4), depth NoneType'
    """
    if isinstance(outputs, Tensor):
        return f"a tensor of shape {tuple(outputs.shape)}"
    kind = type(outputs).__name__
    parts = [f"{name} {_short(value)}" for name, value in _named(outputs)]
    if not parts and isinstance(outputs, (tuple, list)):
        parts = [_short(value) for value in outputs]
    more = f" and {len(parts) - 6} more" if len(parts) > 6 else ""
    return f"a {kind} of {', '.join(parts[:6])}{more}" if parts else f"a {kind}"


def _named(outputs: Any) -> Iterator[tuple[str, Any]]:
    """The named entries of a mapping, a named tuple or an object with attributes."""
    if isinstance(outputs, Mapping):
        yield from ((str(name), value) for name, value in outputs.items())
    elif hasattr(outputs, "_fields"):
        yield from zip(outputs._fields, outputs, strict=True)
    elif not isinstance(outputs, (Tensor, tuple, list)):
        yield from getattr(outputs, "__dict__", {}).items()


def _short(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
