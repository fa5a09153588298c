"""The delta of a model from its base: the tensors whose bits differ, as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ...backbones import backbone_info, note_backbone_
from ...backbones.classifier_layers import replace_layer_
from ...errors import BackboneError, GraftError, RunError
from ...files import write_atomically
from ...safetensors_files import open_tensors
from ..compiled import uncompiled
from ..graft import check_live
from ..tensor_bytes import tensor_bytes

DELTA_FORMAT = 1


@dataclass(frozen=True)
class Delta:
    """What turns the base into the model.

    Attributes:
        tensors: name -> value in the model, for every entry of its `state_dict` that differs from the base.
        head: path of the classification head where it has another number of logits than in the base.
        logits: that number.
    """

    tensors: Mapping[str, Tensor]
    head: str | None = None
    logits: int | None = None


def difference(model: nn.Module, base: Mapping[str, Tensor]) -> Delta:
    """Compare a model with the `state_dict` of the base, bit by bit.

    Negative zeros and the payloads of NaNs count; so do the statistics and counters of BatchNorm.

    Raises:
        GraftError: a graft is not live, or the model is built otherwise than the base; only the number of classes
            may differ.
    """
    model = uncompiled(model)
    check_live(model)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    other = sorted(state.keys() ^ base.keys())
    if other:
        where = "the model" if other[0] in state else "the base"
        raise GraftError(
            f"only {where} has a tensor '{other[0]}': a version can differ from the base of its store in values and in "
            "the number of classes, not in its grafts or layers."
        )
    head, logits = _resized_head(state, base)
    for name, tensor in state.items():
        resized = head is not None and name.rpartition(".")[0] == head and tensor.shape[1:] == base[name].shape[1:]
        if tensor.shape != base[name].shape and not resized:
            raise GraftError(
                f"'{name}' has the shape {tuple(tensor.shape)}, {tuple(base[name].shape)} in the base: a version can "
                "differ in values and in the number of classes, not in its grafts or layers."
            )
    changed = {name: tensor for name, tensor in state.items() if not same_bits(tensor, base[name])}
    return Delta(changed, head, logits)


def write_delta(delta: Delta, path: Path) -> Path:
    """Write the tensors; equal deltas make equal files.

    Raises:
        RunError: the disk is full.
    """
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in delta.tensors.items()}
    header = json.dumps({"format": DELTA_FORMAT, "head": delta.head, "logits": delta.logits}, sort_keys=True)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, {"attngraft_delta": header}))
    return path


def read_delta(path: Path) -> Delta:
    """Read what `write_delta` has written.

    Raises:
        RunError: missing, damaged, or of a newer version.
    """
    try:
        with open_tensors(path) as file:
            header = json.loads((file.metadata() or {})["attngraft_delta"])
            if header["format"] != DELTA_FORMAT:
                raise RunError(newer(path, header["format"], DELTA_FORMAT))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Delta(tensors, header["head"], header["logits"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): restore the store from a copy.") from None


def apply_delta_(model: nn.Module, delta: Delta) -> nn.Module:
    """Turn the base into the model in place, and return it.

    Raises:
        RunError: the delta belongs to another base.
    """
    try:
        if delta.head is not None and delta.logits is not None:
            _resize_head_(model, delta.head, delta.logits)
        state = model.state_dict(keep_vars=True)
        for name, tensor in delta.tensors.items():
            if state[name].shape != tensor.shape:
                raise ValueError(f"{name} has the shape {tuple(state[name].shape)}")
            state[name].data = state[name].data.to(tensor.dtype)
            state[name].data.copy_(tensor)
    except (KeyError, ValueError, AttributeError, BackboneError) as error:
        raise RunError(
            f"the difference does not fit the base of the store ({error}): restore it from a copy."
        ) from None
    return model


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits; equal numbers are not enough.

    >>> same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    False
    """
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(tensor_bytes(one), tensor_bytes(other))


def count_changed(model: nn.Module, delta: Delta, base: Mapping[str, Tensor]) -> int:
    """How many parameters have other bits than in the base; buffers such as BatchNorm's statistics are none."""
    count = 0
    for name, _ in uncompiled(model).named_parameters():
        if name in delta.tensors:
            count += _elements_that_differ(delta.tensors[name], base[name])
    return count


def newer(path: Path, found: object, known: int) -> str:
    """The sentence for a file of a format that is not known."""
    return f"{path} was written by a newer attngraft, format {found}; this one reads {known}: update attngraft."


def _elements_that_differ(one: Tensor, other: Tensor) -> int:
    if one.dtype != other.dtype or one.shape != other.shape or not one.numel():
        return one.numel()
    width = one.element_size()
    return int((tensor_bytes(one).view(-1, width) != tensor_bytes(other).view(-1, width)).any(dim=1).sum())


def _resized_head(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> tuple[str | None, int | None]:
    """Path and width of the layer that is not as wide as in the base."""
    for name, tensor in state.items():
        if tensor.shape != base[name].shape and tensor.ndim > 1 and name.endswith(".weight"):
            return name.rpartition(".")[0], len(tensor)
    return None, None


def _resize_head_(model: nn.Module, head: str, logits: int) -> None:
    with torch.random.fork_rng(devices=[]):  # the random weights are replaced in a moment
        replace_layer_(model, head, logits)
    info = backbone_info(model)
    if info is not None:
        note_backbone_(model, replace(info, num_classes=logits))
