"""Load a state dict from a file: find it, map its names, check and copy it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
from .classifier_layers import published_heads
from .torch_zip import SUFFIXES, read_archive

NESTED = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state", "model")  # the first that is there
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
_DIGITS = 12  # of the hash, for people
_COUNTERS = ".num_batches_tracked"  # of BatchNorm; files from before PyTorch 0.4.1 have none


def load_weights_(model: nn.Module, path: Path) -> str:
    """Copy the weights of a file into the model, all or none of them; say which these are.

    The file is a state dict in .safetensors, .pth, .pt, .bin or .ckpt; in the latter it may be nested under one of
    `NESTED`, and its names may begin with some of `PREFIXES`. A head of another size is left out, and a
    first convolution for another number of channels is adapted.

    Args:
        model: a plain backbone.
        path: of the file.

    Raises:
        BackboneError: it cannot be read without running code, is damaged, does not fit, or holds what is not finite.
    """
    try:
        if path.exists() and not path.is_file():
            raise BackboneError(f"{path} is not a regular file: give a file of weights.")
        with _opened(path) as (source, where):
            names = without_prefixes(source, model.state_dict())
            headless = _check(model, source, names, path.name)
            _copy_(model, {ours: source[theirs] for theirs, ours in names.items() if ours not in headless}, path.name)
        digest = file_hash(path)
    except (SafetensorError, RuntimeError) as error:
        raise BackboneError(f"{path.name} is damaged ({error}): get it again.") from None
    except OSError as error:
        raise BackboneError(f"{path} cannot be read ({error.strerror or error}): give a file of weights.") from None
    notes = [f"sha256 {digest[:_DIGITS]}...", *([f"its '{where}'"] if where else []), *_head_note(headless)]
    return f"{path.name} ({'; '.join(notes)})"


def without_prefixes(names: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """Name in the file -> name in the model: without what wrappers put before it, as long as most names have it.

    >>> without_prefixes(["module.backbone.conv.weight", "module.fc.weight"], ["conv.weight", "fc.weight"])
    {'module.backbone.conv.weight': 'conv.weight', 'module.fc.weight': 'fc.weight'}

    Raises:
        BackboneError: two names become one.
    """
    found = {name: name for name in names}
    prefixes = [prefix for prefix in PREFIXES if not any(name.startswith(prefix) for name in wanted)]
    while True:
        prefix = next((p for p in prefixes if 2 * sum(n.startswith(p) for n in found.values()) >= len(found) > 0), None)
        if prefix is None:
            break
        found = {name: ours.removeprefix(prefix) for name, ours in found.items()}
    if len(set(found.values())) < len(found):
        raise BackboneError("the weights have two entries for one layer: save the state dict of the network alone.")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    """The tensors of a file, and under which name they were nested."""
    if path.suffix == ".safetensors":
        with open_tensors(path) as tensors:
            yield _Lazy(tensors), None
    elif path.suffix in SUFFIXES:
        yield _unnested(read_archive(path), path.name)
    else:
        kinds = ", ".join((".safetensors", *SUFFIXES))
        raise BackboneError(f"{path.name} is no file of weights: expected {kinds}.")


class _Lazy(dict[str, Any]):
    """Tensors of a safetensors file, read when they are asked for."""

    def __init__(self, tensors: Any) -> None:
        super().__init__({name: tensors.get_slice(name) for name in tensors.keys()})  # noqa: SIM118


def _unnested(found: Mapping[str, Any], file: str) -> tuple[Mapping[str, Any], str | None]:
    """The state dict, where a checkpoint has it beside other things."""
    where = next((name for name in NESTED if isinstance(found.get(name), dict)), None)
    state = found[where] if where is not None else found
    odd = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd or not state:
        what = f"'{odd[0][:100]}', which is no tensor" if odd else "nothing"
        raise BackboneError(f"{file} holds {what}, and none of {', '.join(NESTED)}: save the state dict alone.")
    return state, where


def _check(model: nn.Module, source: Mapping[str, Any], names: Mapping[str, str], file: str) -> set[str]:
    """Names of the head that are left out.

    Raises:
        BackboneError: something else is missing, is there in addition, or has another shape or type.
    """
    wanted = model.state_dict()
    found = {ours: source[theirs] for theirs, ours in names.items()}
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
    if _shape(found) != tuple(wanted.shape):
        raise BackboneError(
            f"'{name}' in {file} has the shape {_shape(found)}, expected {tuple(wanted.shape)}: "
            "give the weights of this backbone."
        )
    if isinstance(found, Tensor) and not (found.layout == torch.strided and found.device.type == "cpu"):
        raise BackboneError(f"'{name}' in {file} is no plain tensor: save the state dict as plain tensors.")


def _copy_(model: nn.Module, found: Mapping[str, Any], file: str) -> None:
    """Read all, look at all, and only then change the model."""
    wanted = model.state_dict()
    values = {name: value if isinstance(value, Tensor) else value[...] for name, value in found.items()}
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
    return tuple(tensor.shape if isinstance(tensor, Tensor) else tensor.get_shape())


def _head_note(headless: set[str]) -> list[str]:
    return ["without its head"] if headless else []
