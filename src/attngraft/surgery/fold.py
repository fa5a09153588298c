"""Fold constant gates into the weights of the host, or into a smaller attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import Attention, Gates, Reduction
from ..errors import GraftError, nearest
from .channel_scaling import Passage, merge_, observe
from .compiled import uncompiled
from .copying import copy_model
from .graft import check_live, detach_, graft_plan, grafts, like_host, set_plan_
from .graft_paths import CHILD
from .plan import GraftPlan, Override
from .site import Site
from .symbolic_tracing import plan_in_graph

STATIC = "static"
NEUTRAL = 1e-6  # a gate that differs from doing nothing by less is taken as doing nothing

REMOVED, SCALE, KEPT = "removed", "left as a scale", "kept"
Constants = Mapping[str, Tensor]


@dataclass(frozen=True)
class PartFold:
    """What became of one part of one graft.

    Attributes:
        path: the site.
        part: a field of `Gates`.
        action: "removed", "folded into LAYER", "left as a scale", "reduced to ATTENTION" or "kept".
        reason: why, for people.
    """

    path: str
    part: str
    action: str
    reason: str


@torch.no_grad()
def fold_grafts(
    model: nn.Module, constants: Mapping[str, Constants], example: Any
) -> tuple[nn.Module, tuple[PartFold, ...]]:
    """A copy of the model in which some parts of some grafts are constants, as cheap as that can be had.

    Args:
        model: with live grafts; it stays as it is.
        constants: site path -> part -> one number or (C,). An offset can only be 0.
        example: a batch of images on the model's device, or the tuple of arguments; every change of weights is
            checked on it and undone where the layer does not put out what it should, to 1e-5 of its largest output.

    Returns:
        The copy in eval mode, and what became of every part of every graft.

    Raises:
        GraftError: no grafts, an unknown site or part, a constant of another shape, or the example does not fit.
    """
    model = copy_model(uncompiled(model)).eval()
    check_live(model)
    plan, live = graft_plan(model), grafts(model)
    if not live:
        raise GraftError("the model has no grafts: nothing to fold.")
    if plan is None or plan_in_graph(model) is not None:
        raise GraftError(
            "the model has grafts but is not what they were put into, as a tool rebuilt it: fold it before."
        )
    _check(constants, live)
    passage = observe(model, example, list(live))
    outcomes = [
        _Site(model, passage, plan, site, live[site.path]).fold(constants.get(site.path, {})) for site in plan.sites
    ]
    remaining = grafts(model)
    overrides = {site.path: plan.at(site.path) for site in plan.sites if site.path in plan.overrides}
    overrides |= {outcome.path: outcome.override for outcome in outcomes if outcome.override}
    _note_plan_(model, plan, {path: chosen for path, chosen in overrides.items() if path in remaining}, set(remaining))
    return model, tuple(part for outcome in outcomes for part in outcome.parts)


@dataclass(frozen=True)
class _Outcome:
    path: str
    parts: tuple[PartFold, ...]
    override: Override | None = None


@dataclass(frozen=True)
class _Site:
    """One graft of the copy that is being folded."""

    model: nn.Module
    passage: Passage
    plan: GraftPlan
    site: Site
    attention: Attention

    @property
    def path(self) -> str:
        return self.site.path

    @property
    def host(self) -> nn.Module:
        return self.model.get_submodule(self.path)

    def fold(self, given: Constants) -> _Outcome:
        """Change the copy; every part that is not constant stays what it is."""
        if not given:
            return self._kept({}, "")
        constant = {part: _snapped(value.detach(), self.attention.neutral) for part, value in given.items()}
        if set(constant) == set(self.attention.parts):
            return self._fold_all(constant)
        reduction = self.attention.reduced(constant)
        if reduction is None:
            return self._kept(constant, f"no smaller attention does what remains without a constant {_names(constant)}")
        return self._reduce(constant, reduction)

    def _fold_all(self, constant: Constants) -> _Outcome:
        scale = effective_scale(self.attention, constant)
        if scale is None:
            return self._kept(constant, "what it adds is not 0, and no layer takes that over")
        layer = None if _is_neutral(scale) else self._merge(scale)
        if layer is not None or _is_neutral(scale):
            detach_(self.host)
            return self._all(*_said(layer))
        reason = "no layer that makes the output could take the gate over"
        if self.plan.at(self.path).attention == STATIC:
            return self._all(KEPT, f"{reason}, and it is a mere scale already")
        override = Override(STATIC)
        self._replace(override, {"scale": scale})
        return self._all(SCALE, reason, override)

    def _reduce(self, constant: Constants, reduction: Reduction) -> _Outcome:
        scale = reduction.scale.reshape(-1).expand(self.site.channels)
        layer = None
        if not _is_neutral(scale):
            layer = self._merge(scale)
            if layer is None:
                return self._kept(
                    constant, f"no layer that makes the output could take a constant {_names(constant)} over"
                )
        override = Override(reduction.attention, dict(reduction.options))
        self._replace(override, reduction.state)
        rest = f"reduced to {reduction.attention}"
        action, reason = _said(layer)
        parts = [
            PartFold(self.path, part, action, reason)
            if part in constant
            else PartFold(self.path, part, rest, "it depends on the image, and computes what it did")
            for part in self.attention.parts
        ]
        return _Outcome(self.path, tuple(parts), override)

    def _merge(self, scale: Tensor) -> str | None:
        return merge_(self.passage, self.path, scale, channels_last=self.site.channels_last)

    def _replace(self, override: Override, state: Mapping[str, Tensor]) -> None:
        plan = replace(self.plan, overrides={self.path: override})
        with torch.random.fork_rng(devices=[]):  # the random weights are replaced in a moment
            attention = like_host(self.host, self.model, plan.build(self.site))
        attention.load_state_dict(dict(state))
        setattr(self.host, CHILD, attention)

    def _all(self, action: str, reason: str, override: Override | None = None) -> _Outcome:
        parts = tuple(PartFold(self.path, part, action, reason) for part in self.attention.parts)
        return _Outcome(self.path, parts, override)

    def _kept(self, constant: Constants, reason: str) -> _Outcome:
        parts = [
            PartFold(self.path, part, KEPT, reason if part in constant else "it depends on the image")
            for part in self.attention.parts
        ]
        return _Outcome(self.path, tuple(parts))


def effective_scale(attention: Attention, constant: Constants) -> Tensor | None:
    """What an attention with these gates multiplies each channel by, (C,); None where it also adds something.

    However it combines its parts, one position tells, as constants are the same everywhere.
    """
    one = torch.ones(1, attention.channels, 1, 1, device=next(iter(constant.values())).device)
    gates = constant_gates(constant, one)
    if attention.apply_gates(torch.zeros_like(one), gates).any():
        return None
    return attention.apply_gates(one, gates).reshape(-1)


def constant_gates(constant: Constants, x: Tensor) -> Gates:
    """Gates for x (B, C, *) that hold these constants, one number or (C,) each; parts have batch size 1."""
    channels, positions = x.shape[1], x.shape[2:]
    shapes = {
        "channel": (channels,),
        "spatial": positions,
        "rows": (channels, *positions[:1]),
        "columns": (channels, *positions[1:]),
        "full": (channels, *positions),
        "offset": (channels, *[1] * len(positions)),
    }
    values = {}
    for part, value in constant.items():
        column = value.to(x.device, torch.float32).reshape(1, -1, *[1] * (len(shapes[part]) - 1))
        values[part] = column.expand(1, *shapes[part])
    return Gates(**values)


def _check(constants: Mapping[str, Constants], live: Mapping[str, Attention]) -> None:
    for path, given in constants.items():
        if path not in live:
            raise GraftError(f"no graft is live at '{path}': {nearest(path, live)}")
        for part, value in given.items():
            if part not in live[path].parts:
                raise GraftError(f"the attention at '{path}' has no part '{part}': {nearest(part, live[path].parts)}")
            sizes = (1,) if part == "spatial" else (1, live[path].channels)
            if value.numel() not in sizes:
                raise GraftError(
                    f"the constant for {part} at '{path}' has {value.numel()} numbers: "
                    f"expected {' or '.join(map(str, sizes))}."
                )


def _note_plan_(model: nn.Module, plan: GraftPlan, overrides: Mapping[str, Override], remaining: set[str]) -> None:
    """The plan of what is left; a model without grafts has none."""
    sites = tuple(site for site in plan.sites if site.path in remaining)
    set_plan_(model, replace(plan, sites=sites, overrides=dict(overrides)) if sites else None)


def _said(layer: str | None) -> tuple[str, str]:
    if layer is None:
        return REMOVED, "it changes nothing"
    return f"folded into {layer}", "its weights are multiplied by the gate"


def _snapped(value: Tensor, neutral: float) -> Tensor:
    return torch.full_like(value, neutral) if bool(((value - neutral).abs() <= NEUTRAL).all()) else value


def _is_neutral(scale: Tensor) -> bool:
    return bool(((scale - 1).abs() <= NEUTRAL).all())


def _names(constant: Constants) -> str:
    return " and ".join(constant)
