"""The head of a network: the layers that make its main output in a recorded forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..backbones import backbone_info, note_backbone_
from ..backbones.classifier_layers import named_classifiers, replace_layer_
from ..errors import BackboneError
from .detectors import detector_parts
from .model_output import is_detections, main_output
from .notes import classes_of, note_classes_
from .sites import resolve_input
from .trace import trace
from .trace_record import Key, Step, Trace


@dataclass(frozen=True)
class Head:
    """The layers from whose outputs the main output follows by functions without layers.

    Attributes:
        layers: paths of these layers, in the order in which they run; several where a network averages two heads.
        modules: paths of the modules that count as the head: those that timm's `get_classifier` names around a layer,
            else the layers themselves.
        parameters: names of the parameters of the head that lie outside these modules, such as those of a
            normalisation or a scale after the layer, or of a function that uses the weights of another layer.
        biases: names of the parameters that are added to the output.
    """

    layers: tuple[str, ...]
    modules: tuple[str, ...]
    parameters: frozenset[str]
    biases: tuple[str, ...]

    def contains(self, path: str) -> bool:
        """Whether a module or a parameter belongs to the head."""
        return path in self.parameters or any(_is_within(path, module) for module in self.modules)


def find_head(
    model: nn.Module,
    *,
    input_size: tuple[int, int, int] | None = None,
    example_input: Any = None,
    record: Trace | None = None,
) -> Head:
    """Find the head in one forward pass in eval mode; the model is not changed.

    Activations, dropout, pooling, slicing, softmax and averages may lie between the layers and the output, and so may
    normalisation. The order in which layers are defined means nothing.

    Args:
        model: any network.
        input_size: as for `find_sites`.
        example_input: as for `find_sites`.
        record: the trace of the model, where there is one already.

    Raises:
        GraftError: the model cannot be traced.
        BackboneError: no layer with parameters makes its output.
    """
    record = record or trace(model, resolve_input(model, input_size, example_input))
    if is_detections(record.outputs):
        return _detector_head(record)
    output = record.latest(main_output(record.outputs))
    before, reached = _reached(record, [output])
    below, _ = _reached(record, [key for layer in reached for key in record.steps[layer].inputs], through_layers=True)
    layers = [record.steps[key] for key in record.steps if key in reached and key not in below]
    if not layers:
        raise BackboneError("no layer with weights makes the output of the model: it has no head to train or replace.")
    after = [record.steps[key] for key in record.steps if key in before and key not in below and key not in reached]
    paths = tuple(dict.fromkeys(path for step in layers for path in _owners(step)))
    modules = _classifiers_around(model, paths) or paths
    weights = {name for step in (*layers, *after) for name in step.weights}
    return Head(
        paths,
        modules,
        frozenset(name for name in weights if not any(_is_within(name, module) for module in modules)),
        tuple(dict.fromkeys(name for step in (*layers, *after) for name in step.biases)),
    )


def replace_head_(
    model: nn.Module,
    outputs: int,
    *,
    input_size: tuple[int, int, int] | None = None,
    example_input: Any = None,
) -> tuple[str, ...]:
    """Put freshly initialised layers with so many outputs in place of the head's.

    Returns:
        the paths of the new layers.

    Raises:
        GraftError, BackboneError: as for `find_head`, a layer of the head is no linear layer and no convolution, or the
            network is a detector.
    """
    record = trace(model, resolve_input(model, input_size, example_input))
    if is_detections(record.outputs):
        raise BackboneError(f"the heads of a detector are not replaced: create it anew for {outputs} classes.")
    layers = find_head(model, record=record).layers
    if not layers:
        raise BackboneError(f"no layer of its own computes the output: give a model with {outputs} outputs.")
    for path in layers:
        replace_layer_(model, path, outputs)
    return layers


def renew_head_(model: nn.Module, classes: Sequence[str]) -> bool:
    """Give the model a new head, unless its logits are called exactly this, in this order, or nobody knows how.

    Returns:
        whether it has a new one.

    Raises:
        BackboneError: its head cannot be found.
    """
    known = classes_of(model)
    if not known or known == tuple(classes):
        return False
    replace_head_(model, len(classes))
    info = backbone_info(model)
    if info is not None:
        note_backbone_(model, replace(info, num_classes=len(classes)))
    note_classes_(model, ())
    return True


def _detector_head(record: Trace) -> Head:
    """The heads of a detector and its neck, which is as new as they are on a trunk that was made for something else."""
    parts = detector_parts(record)
    if parts is None:
        raise BackboneError(
            "no module after the first one makes the boxes: expected a detector with a backbone and a head."
        )
    modules = (*parts.neck, *parts.heads)
    return Head(modules, modules, frozenset(), ())


def _reached(record: Trace, keys: Iterable[Key], *, through_layers: bool = False) -> tuple[set[Key], set[Key]]:
    """All tensors that these were made from, back to the first layers or to the input; and the outputs of layers."""
    waiting, seen, layers = list(keys), set(), set()
    while waiting:
        key = waiting.pop()
        step = record.steps.get(key)
        if key in seen or step is None:
            continue
        seen.add(key)
        if step.is_layer:
            layers.add(key)
        if through_layers or not step.is_layer:
            waiting.extend(step.inputs)
    return seen, layers


def _owners(step: Step) -> list[str]:
    """The modules that hold a layer's parameters; parametrised weights belong to the module around them."""
    owners = [
        name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
        for name in step.weights
    ]
    return [owner for owner in owners if owner]


def _classifiers_around(model: nn.Module, layers: tuple[str, ...]) -> tuple[str, ...]:
    """What the model itself calls its classifiers, where these hold all the layers."""
    found = tuple(path for path in named_classifiers(model) if any(_is_within(layer, path) for layer in layers))
    return found if all(any(_is_within(layer, path) for path in found) for layer in layers) else ()


def _is_within(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")
