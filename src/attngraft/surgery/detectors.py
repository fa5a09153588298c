"""The parts of detectors: a trunk, a neck that takes several of its maps, and heads that make boxes of what comes out."""

from __future__ import annotations

from dataclasses import dataclass

from .model_output import is_detections
from .trace_record import Call, Key, Trace


@dataclass(frozen=True)
class DetectorParts:
    """Where the parts of a detector are.

    Attributes:
        neck: paths of modules that take several maps of the trunk, such as a feature pyramid; mostly one or none.
        heads: paths of modules that run after trunk and neck.
        handed_over: the maps that the heads take, in the order of making.
        trunk_end: when the trunk had run, in the count of `Call.end`.
    """

    neck: tuple[str, ...]
    heads: tuple[str, ...]
    handed_over: tuple[Key, ...]
    trunk_end: int


def detector_parts(record: Trace) -> DetectorParts | None:
    """The parts of a network that returns boxes, as torchvision's detectors are built; None for others.

    Of the modules that run one after the other, the first with layers makes features, and those after it are heads.
    """
    if not is_detections(record.outputs):
        return None
    layers = [step.time for step in record.steps.values() if step.is_layer]
    running = _with_layers(record.root, layers)
    while len(running) == 1 and running[0].children:
        running = _with_layers(running[0], layers)
    if len(running) < 2:
        return None
    features, heads = running[0], running[1:]
    neck = [call for call in _with_layers(features, layers)[1:] if call.source is None]  # it takes several maps
    read = {key for step in record.steps.values() if step.time > features.end for key in step.inputs}
    handed = [key for key, step in record.steps.items() if step.time < features.end and key in read]
    return DetectorParts(
        neck=_paths(neck),
        heads=_paths(heads),
        handed_over=tuple(key for key in handed if len(record.shapes.get(key, ())) == 4),
        trunk_end=neck[0].begin if neck else features.end,
    )


def _with_layers(call: Call, layers: list[int]) -> list[Call]:
    """The children in which a layer with weights runs."""
    return [child for child in call.children if any(child.begin < time < child.end for time in layers)]


def _paths(calls: list[Call]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(call.path for call in calls))
