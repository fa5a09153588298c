"""Say, and choose, what a training loop of one's own trains of a grafted model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..backbones import backbone_info
from ..errors import ConfigError, nearest
from .compiled import uncompiled
from .copying import check_module
from .graft import graft_plan, grafts
from .graft_paths import is_inside_graft
from .heads import find_head

PARTS = ("grafts", "head", "norms")


@dataclass(frozen=True)
class ModelDescription:
    """What a model is and what of it is trained; its text is for people.

    Attributes:
        backbone: the spec that it was created from, else the name of its class.
        parameters: how many it has; shared ones count once.
        trainable: how many of these require gradients.
        graft_parameters: how many of these belong to grafts.
        grafts: site path -> attention.
    """

    backbone: str
    parameters: int
    trainable: int
    graft_parameters: int
    grafts: dict[str, str]

    def __str__(self) -> str:
        share = 100 * self.trainable / max(1, self.parameters)
        lines = [
            f"{self.backbone}: {self.parameters:,} parameters, {self.trainable:,} trainable ({share:.2f} %)",
            f"{len(self.grafts)} grafts with {self.graft_parameters:,} parameters",
        ]
        return "\n".join([*lines, *(f"  {path}: {name}" for path, name in self.grafts.items())])


def describe(model: nn.Module) -> ModelDescription:
    """Parameters of a model in all, of its grafts, and those that require gradients.

    Raises:
        GraftError: not a module.
    """
    check_module(model)
    model = uncompiled(model)
    live, plan, info = grafts(model), graft_plan(model), backbone_info(model)
    names = {path: plan.at(path).attention if plan else type(graft).__name__.lower() for path, graft in live.items()}
    parameters = list(model.parameters())
    return ModelDescription(
        info.spec if info else type(model).__name__,
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        sum(parameter.numel() for graft in live.values() for parameter in graft.parameters()),
        names,
    )


def freeze_(model: nn.Module, *, except_: str | Sequence[str] = "grafts") -> nn.Module:
    """Let no parameter require gradients but those of some parts, and return the model.

    Statistics of BatchNorm still move in train mode; `model.eval()` keeps them.

    Args:
        model: grafted or not.
        except_: "grafts", "head", "norms" (weights and biases of normalisation), or several, joined with "+".

    Raises:
        ConfigError: an unknown part, or one that the model does not have.
        GraftError: the head is asked for, and the model cannot be traced.
    """
    check_module(model)
    model_parts = _parts(uncompiled(model), except_.split("+") if isinstance(except_, str) else list(except_))
    for name, parameter in uncompiled(model).named_parameters():
        parameter.requires_grad_(name in model_parts)
    return model


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    graft_lr: float | None = None,
    head_lr: float | None = None,
    weight_decay: float = 0.0,
    graft_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Groups for any optimiser of PyTorch: grafts and head at rates of their own; biases and norms do not decay.

    Args:
        model: its parameters say by `requires_grad` what is trained; the others are left out.
        lr: of everything else.
        graft_lr: of the grafts; `lr` where not given.
        head_lr: of the head; `lr` where not given.
        weight_decay: of weights with two or more axes.
        graft_weight_decay: the same of grafts; `weight_decay` where not given.

    Returns:
        dicts of "params", "lr", "weight_decay" and "name", none of them empty.

    Raises:
        ConfigError: nothing is trained.
        GraftError: head_lr is given, and the model cannot be traced.
    """
    check_module(model)
    inner = uncompiled(model)
    of_grafts = _parts(inner, ["grafts"]) if grafts(inner) else set()
    of_head = _parts(inner, ["head"]) if head_lr is not None else set()
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in inner.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "grafts" if name in of_grafts else "head" if name in of_head else "backbone"
        rate = {"grafts": graft_lr, "head": head_lr}.get(part)
        decay = graft_weight_decay if part == "grafts" and graft_weight_decay is not None else weight_decay
        decay = decay if parameter.ndim > 1 else 0.0
        group = {"params": [], "lr": lr if rate is None else rate, "weight_decay": decay, "name": part}
        groups.setdefault((part, decay), group)["params"].append(parameter)
    if not groups:
        raise ConfigError("no parameter of the model requires gradients: release some, for example with freeze_.")
    return list(groups.values())


def _parts(model: nn.Module, parts: Sequence[str]) -> set[str]:
    """Names of the parameters of some parts."""
    found: set[str] = set()
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"'{part}' is no part of a model: {nearest(part, PARTS)}")
        names = _names_of(model, part)
        if not names:
            raise ConfigError(f"the model has no {part} with parameters: choose another part, or graft first.")
        found |= names
    return found


def _names_of(model: nn.Module, part: str) -> set[str]:
    names = {name for name, _ in model.named_parameters()}
    in_grafts = set(filter(is_inside_graft, names))
    if part == "grafts":
        return in_grafts
    if part == "norms":
        norms = {path for path, module in model.named_modules() if isinstance(module, NORMS)}
        return {name for name in names - in_grafts if name.rpartition(".")[0] in norms}
    head = find_head(model)
    return {name for name in names - in_grafts if head.contains(name)}


NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
