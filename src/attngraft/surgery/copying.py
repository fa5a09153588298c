"""Copy models, also those that keep what Python cannot copy: locks, open files, writers, features of a pass."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import GraftError, first_line

log = logging.getLogger(__name__)
_OF_MODULES = {"_parameters", "_buffers", "_modules"}  # attributes that every module copies by itself


def copy_model(model: nn.Module, replaced: Mapping[int, Any] | None = None) -> nn.Module:
    """A deep copy of the model.

    What cannot be copied is shared with the original (a lock, an open file, a writer) or detached (a tensor that was
    computed in a pass, as pruned and weight-normed layers keep one).

    Args:
        model: any module.
        replaced: id of an object in the model -> what the copy has instead.

    Raises:
        GraftError: a layer has no weights yet, several processes share the model, or something in it refuses to be copied.
    """
    check_module(model)
    check_initialised(model)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise GraftError("the model is wrapped in DistributedDataParallel: graft its .module, before it is wrapped.")
    replaced = dict(replaced or {})
    try:
        return _deepcopy(model, replaced)
    except Exception:  # whatever an attribute raises: it is looked for below
        replaced.update(_kept(model, replaced))
    try:
        return _deepcopy(model, replaced)
    except Exception as error:
        raise GraftError(
            f"the model cannot be copied ({_where(model, replaced)}{first_line(error)}): "
            "take out what it keeps there before it is grafted, and put it back afterwards."
        ) from error


def _deepcopy(model: nn.Module, replaced: Mapping[int, Any]) -> nn.Module:
    with torch.no_grad():  # TorchScript would make the parameters of the copy results of an operation
        copied = copy.deepcopy(model, dict(replaced))
    for original, parameter in zip(model.parameters(), copied.parameters(), strict=True):
        parameter.requires_grad_(original.requires_grad)
    return copied


def check_module(model: nn.Module) -> None:
    """Raise GraftError for what is no module, such as the name of one."""
    if not isinstance(model, nn.Module):
        hint = f", which create_backbone({model!r}) makes of a name" if isinstance(model, str) else ""
        if callable(model):
            name = getattr(model, "__name__", type(model).__name__)
            hint = f", as {name}(num_classes=...) may make one: call it"
        raise GraftError(f"got {type(model).__name__} as the model: expected a torch.nn.Module{hint}.")


def check_initialised(model: nn.Module) -> None:
    """Raise GraftError where a lazy layer has no weights yet."""
    for path, module in model.named_modules():
        if any(is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise GraftError(
                f"'{path}' ({type(module).__name__}) has no weights before the model has run: "
                "run the model on one batch first."
            )


def _kept(model: nn.Module, replaced: Mapping[int, Any]) -> dict[int, Any]:
    """id -> what stands in for it in a copy, of everything that the modules keep and that cannot be copied."""
    inside = {id(module): module for module in model.modules()}  # a reference to the model is no reason to share
    found: dict[int, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            for kept in _leaves(value, inside) if name not in _OF_MODULES else ():
                if isinstance(kept, Tensor):
                    found[id(kept)] = kept.detach().clone()
                elif id(kept) not in found and not _can_be_copied(kept, {**inside, **replaced, **found}):
                    found[id(kept)] = kept
                    log.info("the copy shares %s.%s with the original (%s)", path, name, type(kept).__name__)
    return found


def _leaves(value: Any, inside: Mapping[int, nn.Module]) -> Iterator[Any]:
    """Computed tensors and other objects in plain containers, and in modules that are kept in these."""
    if isinstance(value, Tensor):
        if not value.is_leaf:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item, inside)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _leaves(item, inside)
    elif isinstance(value, nn.Module):
        if id(value) not in inside:
            for module in value.modules():
                for name, item in vars(module).items():
                    yield from _leaves(item, {**inside, id(module): module}) if name not in _OF_MODULES else ()
    else:
        yield value


def _can_be_copied(value: Any, memo: Mapping[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:  # any, as classes raise what they like
        return False
    return True


def _where(model: nn.Module, replaced: Mapping[int, Any]) -> str:
    """Path and class of the innermost module that cannot be copied."""
    for path, module in reversed(list(model.named_modules())):
        if not _can_be_copied(module, replaced):
            return f"'{path}' is a {type(module).__name__}: " if path else f"{type(module).__name__}: "
    return ""
