"""Phases: which parameters are trained, at which rates, and what frozen means."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from ..errors import BackboneError
from ..settings.recipe import BatchNormPolicy, Phase, Recipe, check_part
from ..surgery import Head, decoder_start, find_head, main_output
from ..surgery.graft_paths import is_inside_graft
from ..surgery.sites import resolve_input
from ..surgery.trace import trace
from ..surgery.trace_record import Trace
from .batchnorm import is_new


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay.

    Attributes:
        names: of the parameters, in the model's order.
        part: "head", "grafts" or "stage N".
        lr: highest rate in the phase.
        weight_decay: 0 for biases and normalisation.
    """

    names: tuple[str, ...]
    part: str
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Anatomy:
    """Which part of the network every parameter belongs to.

    Attributes:
        parts: parameter name -> "head", "grafts" or the number of its resolution stage (0 is at the input).
        stages: how many resolution stages with parameters there are.
        norms: paths of the layers with running statistics, outside grafts and head.
        logit_biases: names of the biases of the layers that compute the logits.
        head_layers: paths of the layers that compute the logits.
        new_norms: those of `norms` whose statistics are still those of a new layer; no policy keeps them from training.
    """

    parts: dict[str, str | int]
    stages: int
    norms: tuple[str, ...] = ()
    logit_biases: tuple[str, ...] = ()
    head_layers: tuple[str, ...] = ()
    new_norms: tuple[str, ...] = ()


def dissect(model: nn.Module, input_size: tuple[int, int, int], record: Trace | None = None) -> Anatomy:
    """Assign every parameter to the head, the grafts or a stage of the backbone.

    A stage is all that works at one resolution, found by running the model once without weights. Resolutions at
    which nothing is learned, such as that of a last pooling, do not count.

    Args:
        model: the network.
        input_size: (channels, height, width) of one image.
        record: the trace of the model, with or without its grafts, where there is one already.
    """
    record = record or trace(model, resolve_input(model, input_size, None))
    stage_of, stages = _stages(record, decoder_start(record) if is_dense(record) else None)
    head = find_head(model, record=record)
    parts: dict[str, str | int] = {}
    for name, _ in model.named_parameters():
        if is_inside_graft(name):
            parts[name] = "grafts"
        elif head.contains(name):
            parts[name] = "head"
        else:
            parts[name] = _nearest_stage(name.rpartition(".")[0], stage_of, stages)
    learning = sorted({part for part in parts.values() if isinstance(part, int)})
    numbered = {name: part if isinstance(part, str) else learning.index(part) for name, part in parts.items()}
    norms = _norms(model, head)
    new = tuple(path for path in norms if is_new(model.get_submodule(path)))
    return Anatomy(numbered, len(learning), norms, head.biases, head.layers, new)


def is_dense(record: Trace) -> bool:
    """Whether the main output has a place for every part of the image."""
    try:
        return main_output(record.outputs).ndim > 2
    except BackboneError:
        return True  # boxes


def apply_phase_(model: nn.Module, anatomy: Anatomy, phase: Phase, policy: BatchNormPolicy = "train") -> None:
    """Make exactly the phase's parameters trainable and put every module into its mode.

    Args:
        model: in place.
        anatomy: of the model.
        phase: what is trained.
        policy: of the recipe for BatchNorm, where the phase has none of its own.
    """
    trainable = trainable_names(anatomy, phase, policy)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    apply_modes_(model, anatomy, phase, policy)


def apply_modes_(model: nn.Module, anatomy: Anatomy, phase: Phase, policy: BatchNormPolicy = "train") -> None:
    """Put every module into its mode in the phase."""
    set_modes_(model, anatomy.norms if "bn" in phase.train else ())
    for path in kept_norms(anatomy, phase, policy):
        model.get_submodule(path).training = False


def kept_norms(anatomy: Anatomy, phase: Phase, policy: BatchNormPolicy) -> set[str]:
    """Paths of the layers that keep their running statistics, although what is around them may be trained."""
    if (phase.batchnorm or policy) == "train" or "bn" in phase.train:
        return set()
    return set(anatomy.norms) - set(anatomy.new_norms)


def set_modes_(model: nn.Module, moving: Collection[str] = ()) -> None:
    """Train mode where something is trained, eval mode where all is frozen.

    Frozen BatchNorm then keeps its statistics, and frozen dropout and stochastic depth do nothing. A module without
    parameters goes with the module around it, and where that is frozen in part, with the next layer that has
    parameters: dropout before the head is the head's. Grafts are judged by themselves: a trained graft does not wake
    the frozen module that hosts it.

    Args:
        model: its parameters say by `requires_grad` what is trained.
        moving: paths of layers that are in train mode whatever is around them.
    """
    _set_mode(model, None, _followed_by_training(model))
    for path in moving:
        model.get_submodule(path).training = True


def _set_mode(module: nn.Module, around: bool | None, followed: dict[nn.Module, bool]) -> None:
    """`around` is the mode of the module around it, None where that is frozen in part."""
    trained = {p.requires_grad for p in _own_parameters(module)}
    if trained:
        module.training = True in trained
        around = module.training if len(trained) == 1 else None
    else:
        module.training = followed[module] if around is None else around
    for name, child in module.named_children():
        if name == "graft":
            child.train(any(p.requires_grad for p in child.parameters()))
        else:
            _set_mode(child, around, followed)


def _followed_by_training(model: nn.Module) -> dict[nn.Module, bool]:
    """For every module whether the next layer with parameters, in the model's order, is trained."""
    followed, after = {}, True
    for path, module in reversed(list(model.named_modules())):
        if not is_inside_graft(path):
            followed[module] = after
            own = list(module.parameters(recurse=False))
            after = any(p.requires_grad for p in own) if own else after
    return followed


def _own_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of the module and all below it, except those of grafts."""
    return [p for name, p in module.named_parameters() if not is_inside_graft(name)]


def trainable_names(anatomy: Anatomy, phase: Phase, policy: BatchNormPolicy = "train") -> set[str]:
    """Names of the parameters that the phase trains, by the phase's policy for BatchNorm or else this."""
    chosen = _chosen_names(anatomy, phase)
    if (phase.batchnorm or policy) == "fixed":
        kept = kept_norms(anatomy, phase, policy)
        return {name for name in chosen if name.rpartition(".")[0] not in kept}
    return chosen


def _chosen_names(anatomy: Anatomy, phase: Phase) -> set[str]:
    lowest = anatomy.stages
    kinds = set(phase.train)
    for part in phase.train:
        upper = check_part(part, phase.name)
        if upper is not None:
            count = upper if upper >= 1 else math.ceil(upper * anatomy.stages)
            lowest = min(lowest, anatomy.stages - int(count))
    if "all" in kinds:
        return set(anatomy.parts)
    chosen = {
        name for name, part in anatomy.parts.items() if (part in kinds if isinstance(part, str) else part >= lowest)
    }
    if "bn" in kinds:
        norms = set(anatomy.norms)
        chosen |= {name for name in anatomy.parts if name.rpartition(".")[0] in norms}
    return chosen | set(anatomy.logit_biases) if "head-bias" in kinds else chosen


def parameter_groups(model: nn.Module, anatomy: Anatomy, phase: Phase, recipe: Recipe) -> list[ParameterGroup]:
    """The optimiser's groups: rates fall with depth, biases and normalisation do not decay."""
    trainable = trainable_names(anatomy, phase, recipe.batchnorm)
    collected: dict[tuple[str, float, float], list[str]] = {}
    for name, parameter in model.named_parameters():
        if name in trainable:
            part = anatomy.parts[name]
            lr, decay = _rates(part, anatomy.stages, phase, recipe)
            key = (part if isinstance(part, str) else f"stage {part}", lr, decay if parameter.ndim > 1 else 0.0)
            collected.setdefault(key, []).append(name)
    return [ParameterGroup(tuple(names), *key) for key, names in collected.items()]


def _rates(part: str | int, stages: int, phase: Phase, recipe: Recipe) -> tuple[float, float]:
    lr = phase.lr * recipe.lr_scale
    if part == "head":
        return lr * recipe.head_lr_scale, recipe.weight_decay
    if part == "grafts":
        return lr * recipe.graft_lr_scale, recipe.graft_weight_decay
    assert isinstance(part, int)
    return lr * phase.lr_decay ** (stages - part), recipe.weight_decay


def _stages(record: Trace, decoder: int | None) -> tuple[dict[str, int], int]:
    """Module path -> stage number, for the modules that return a feature map; and the number of stages.

    A decoder, which begins at a time, is of the last stage: no pretrained features are lost there.
    """
    heights: dict[str, int] = {}
    decoding: set[str] = set()
    for call in record.calls:
        if call.shape is None or not call.path or call.shape[2:].numel() <= 1:
            continue
        if decoder is not None and call.end >= decoder:
            decoding.add(call.path)
        else:
            heights.setdefault(call.path, int(call.shape[2]))
    order = sorted(set(heights.values()), reverse=True)
    stages = max(1, len(order))
    found = {path: order.index(height) for path, height in heights.items()}
    return {**found, **dict.fromkeys(decoding - found.keys(), stages - 1)}, stages


def _norms(model: nn.Module, head: Head) -> tuple[str, ...]:
    return tuple(
        path
        for path, module in model.named_modules()
        if getattr(module, "running_var", None) is not None
        and not is_inside_graft(path)
        and not (head.contains(path) or head.contains(f"{path}.weight"))
    )


def _nearest_stage(path: str, stage_of: dict[str, int], stages: int) -> int:
    """The stage of the module, else of the closest module around it, else the last."""
    while path:
        if path in stage_of:
            return stage_of[path]
        path = path.rpartition(".")[0]
    return stages - 1
