"""Load a state dict from a file: find it, map its names, check and copy it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..checksums import file_hash
from ..errors import BackboneError, listed
from ..safetensors_files import open_tensors
from .channels import adapted_weight, differs_in_channels, input_layer
from .checkpoint_contents import Contents, Weights, choose_weights, contents_of
from .classifier_layers import published_heads
from .torch_files import SUFFIXES, read_torch_file

_SHOWN = 6  # names of what is left
_DIGITS = 12  # of the hash, for people
_COUNTERS = ".num_batches_tracked"  # of BatchNorm; files from before PyTorch 0.4.1 have none


def load_weights_(model: nn.Module, path: Path) -> str:
    """Copy the weights of a file into the model, all or none of them; say which these are, and what was left.

    The file is a state dict in .safetensors, .pth, .pt, .bin, .ckpt or .pth.tar, or a checkpoint that has one somewhere:
    it is found by the names and shapes of the model, below any keys and prefixes. Averaged weights come before plain
    ones. A head of another size is left out, and a first convolution for another number of channels is adapted.

    Args:
        model: a plain backbone.
        path: of the file; FILE:KEY chooses one of several networks in it.

    Raises:
        BackboneError: it would run code, is damaged, does not fit, holds several networks or what is not finite.
    """
    path, asked = _chosen(path)
    try:
        if path.exists() and not path.is_file():
            raise BackboneError(f"{path} is not a regular file: give a file of weights.")
        with _opened(path) as contents:
            found = _found(model, contents, path.name, asked)
            headless = _check(model, found.tensors, path.name)
            _copy_(model, {name: t for name, t in found.tensors.items() if name not in headless}, path.name)
        digest = file_hash(path)
    except (SafetensorError, RuntimeError) as error:
        raise BackboneError(f"{path.name} is damaged ({error}): get it again.") from None
    except OSError as error:
        raise BackboneError(f"{path} cannot be read ({error.strerror or error}): give a file of weights.") from None
    notes = [
        f"sha256 {digest[:_DIGITS]}...",
        *([f"its '{found.where}'"] if found.where else []),
        *(["without its head"] if headless else []),
        *_left(contents, found),
    ]
    return f"{path.name} ({'; '.join(notes)})"


def _chosen(path: Path) -> tuple[Path, str | None]:
    """The file, and the key behind it."""
    before, colon, key = str(path).rpartition(":")
    is_key = colon and key and not path.exists() and Path(before).is_file()
    return (Path(before), key) if is_key else (path, None)


def _found(model: nn.Module, contents: Contents, file: str, asked: str | None) -> Weights:
    wanted = model.state_dict()
    heads, first = published_heads(model), f"{input_layer(model)}.weight"
    body = [n for n in wanted if n.rpartition(".")[0] not in heads and not n.endswith(_COUNTERS)]

    def fits(name: str, tensor: Any) -> bool:
        shape, expected = _shape(tensor), tuple(wanted[name].shape)
        return shape == expected or (name == first and differs_in_channels(shape, expected))

    return choose_weights(contents, body, wanted, fits, file, asked)


def _left(contents: Contents, found: Weights) -> list[str]:
    """What else is in the file, as a note: other keys at its top, and names beside the weights."""
    top = repr(found.where.split(".")[0])
    others = [one for one in contents.others if not one.startswith(top)] if found.nested else []
    left = [*others, *map(repr, found.left)]
    more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    return [f"not used: {', '.join(one[:100] for one in left[:_SHOWN])}{more}"] if left else []


@contextmanager
def _opened(path: Path) -> Iterator[Contents]:
    """What is in a file; its tensors are read while it is open."""
    if path.suffix == ".safetensors":
        with open_tensors(path) as tensors:
            yield Contents({"": {name: _Slice(tensors.get_slice(name)) for name in tensors.keys()}})  # noqa: SIM118
    elif path.suffix in SUFFIXES:
        yield contents_of(read_torch_file(path))
    else:
        kinds = ", ".join((".safetensors", *SUFFIXES))
        raise BackboneError(f"{path.name} is no file of weights: expected {kinds}.")


class _Slice:
    """A tensor of a safetensors file, read when it is asked for."""

    def __init__(self, found: Any) -> None:
        self.found, self.shape = found, tuple(found.get_shape())

    def load(self) -> Tensor:
        whole: Tensor = self.found[...]
        return whole


def _check(model: nn.Module, found: Mapping[str, Any], file: str) -> set[str]:
    """Names of the head that are left out.

    Raises:
        BackboneError: something else is missing, is there in addition, or has another shape or type.
    """
    wanted = model.state_dict()
    heads = published_heads(model)
    head = {name for name in wanted if name.rpartition(".")[0] in heads}
    headless = head if _is_of_another_head(found, {name: wanted[name] for name in head}) else set()
    missing = {n for n in wanted.keys() - found.keys() - headless if not n.endswith(_COUNTERS)}
    extra = found.keys() - wanted.keys()
    for word, lacking in (("lacks", missing), ("has in addition", extra)):
        if lacking:
            raise BackboneError(f"{file} {word} {listed(lacking)}: give the weights of this backbone.")
    first = input_layer(model)
    for name, tensor in found.items():
        is_adapted = name == f"{first}.weight" and differs_in_channels(_shape(tensor), tuple(wanted[name].shape))
        if name not in headless and not is_adapted:
            _check_tensor(file, name, tensor, wanted[name])
    return headless


def _is_of_another_head(found: Mapping[str, Any], head: Mapping[str, Tensor]) -> bool:
    """Whether the weights have no head, or one that differs in the number of logits alone."""
    if not any(name in found for name in head):
        return True
    shapes = [(_shape(found[name]), tuple(tensor.shape)) for name, tensor in head.items() if name in found]
    return len(shapes) == len(head) and all(a[:1] != b[:1] and a[1:] == b[1:] and a for a, b in shapes)


def _check_tensor(file: str, name: str, found: Any, wanted: Tensor) -> None:
    if not hasattr(found, "load"):
        what = getattr(found, "path", type(found).__name__)[:100]
        raise BackboneError(f"'{name}' in {file} is no plain tensor ({what}): save the state dict as plain tensors.")
    if _shape(found) != tuple(wanted.shape):
        raise BackboneError(
            f"'{name}' in {file} has the shape {_shape(found)}, expected {tuple(wanted.shape)}: "
            "give the weights of this backbone."
        )


def _copy_(model: nn.Module, found: Mapping[str, Any], file: str) -> None:
    """Read all, look at all, and only then change the model."""
    wanted = model.state_dict()
    values = {name: value.load() for name, value in found.items()}
    for name, value in values.items():
        if value.is_floating_point() != wanted[name].is_floating_point() or value.is_complex():
            raise BackboneError(f"'{name}' in {file} is of the type {value.dtype}, expected {wanted[name].dtype}.")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise BackboneError(f"'{name}' in {file} is not finite: the training that made it has failed.")
    with torch.no_grad():
        for name, value in values.items():
            is_adapted = differs_in_channels(tuple(value.shape), tuple(wanted[name].shape))
            wanted[name].copy_(adapted_weight(value, wanted[name].shape[1]) if is_adapted else value)


def _shape(tensor: Any) -> tuple[int, ...]:
    """Its sizes; none that a tensor can have for what is no tensor."""
    return tuple(getattr(tensor, "shape", (-1,)))
