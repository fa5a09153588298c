"""Variants of a comparison, written NAME[@WHERE][:option=value,...]."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import nn

from ..attention import ATTENTIONS, attention_options
from ..errors import ConfigError, nearest
from ..settings.recipe import Dynamic, with_epochs
from ..surgery import GraftPlan, graft_, plan_graft
from ..surgery.plan_text import parse_plan_text
from ..training import Recipe

BASELINE = "none"
DYNAMIC = "dynamic"  # an option of the training, not of the attention
AGAIN_OFFSET = 1000  # seeds of the baseline's second self in an A/A comparison
# controls without attention: what its cost buys otherwise
LARGER, LONGER = "larger", "longer"
PLAIN_CONTROLS = {LARGER: {"backbone", "like"}, LONGER: {"like"}}  # with their options

Role = Literal["baseline", "attention", "control"]


@dataclass(frozen=True)
class Variant:
    """One column of a comparison.

    Attributes:
        name: as written, for example "cbam@stage:reduction=8".
        attention: name of the attention; "none" for the plain backbone.
        where: placement, glob or path.
        options: of the attention; `init` among them where given.
        role: "baseline", "attention" or "control".
        seed_offset: added to every seed; not 0 only for an A/A comparison.
        dynamic: what of its grafts follows the trend of the loss; None for what the recipe says.
        backbone: another one than that of the comparison, for the control "larger".
        epochs: other than the recipe's, for the control "longer".
        lr_scale: factor on the recipe's learning rates that tuning has chosen.
    """

    name: str
    attention: str
    where: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    role: Role = "attention"
    seed_offset: int = 0
    dynamic: Dynamic | None = None
    backbone: str | None = None
    epochs: int | None = None
    lr_scale: float = 1.0

    @property
    def slug(self) -> str:
        """A folder name."""
        return re.sub(r"[^A-Za-z0-9=.-]+", "_", self.name).strip("._") or "variant"

    @property
    def is_again(self) -> bool:
        """The baseline's second self: it costs the same, and controls say nothing about it."""
        return self.seed_offset != 0

    @property
    def is_plain(self) -> bool:
        return self.attention == BASELINE or self.attention in PLAIN_CONTROLS

    @property
    def is_dynamic(self) -> bool:
        return self.dynamic not in (None, "off")

    def recipe(self, recipe: Recipe) -> Recipe:
        """How it is trained: as all others, but for what it says itself."""
        found = recipe if self.dynamic is None else replace(recipe, dynamic=self.dynamic)
        found = found if self.epochs is None else with_epochs(found, self.epochs)
        return found if self.lr_scale == 1 else replace(found, lr_scale=found.lr_scale * self.lr_scale)

    def is_twin_of(self, other: Variant) -> bool:
        """Whether both are the same attention at the same places, trained in whatever way."""
        return _build_of(self) == _build_of(other)

    def plan(self, backbone: nn.Module, input_size: tuple[int, int, int]) -> GraftPlan | None:
        """Where its attention goes on this backbone; None for the plain one."""
        if self.is_plain:
            return None
        return plan_graft(backbone, self.attention, where=self.where, input_size=input_size, **self.options)

    def grow(self, backbone: nn.Module, plan: GraftPlan | None, seed: int) -> nn.Module:
        """Graft the plan in place, its random weights a function of the seed alone."""
        if plan is None:
            return backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return graft_(backbone, plan)


def parse_variant(text: str, role: Role = "attention") -> Variant:
    """Read one variant.

    >>> parse_variant("cbam@stage:reduction=8").options
    {'reduction': 8}

    Raises:
        ConfigError: unknown attention or option; the nearest is named.
    """
    parsed = parse_plan_text(text)
    name, where, options = parsed.attention, parsed.where, parsed.options
    if name == BASELINE:
        if where or options:
            raise ConfigError(f"variant '{text}': the plain backbone takes no place and no options.")
        return again()
    if name in PLAIN_CONTROLS:
        return _plain_control(text.strip(), name, options, where is not None)
    dynamic = options.pop(DYNAMIC, None)
    if dynamic is not None and dynamic not in get_args(Dynamic):
        raise ConfigError(f"dynamic is {dynamic!r} in variant '{text}': {nearest(str(dynamic), get_args(Dynamic))}")
    if name not in ATTENTIONS:
        controls = [*PLAIN_CONTROLS, *(known for known in ATTENTIONS if ATTENTIONS[known].control)]
        raise ConfigError(
            f"unknown {role} '{name}': {nearest(name, controls if role == 'control' else [*ATTENTIONS, BASELINE])}"
        )
    known = {*attention_options(name), "init", DYNAMIC}
    for option in options:
        if option not in known:
            raise ConfigError(f"unknown option '{option}' in variant '{text}': {nearest(option, known)}")
    role = "control" if ATTENTIONS[name].control else role
    return Variant(text.strip(), name, where or "auto", options, role, dynamic=dynamic)


def _plain_control(text: str, name: str, options: Mapping[str, Any], has_place: bool) -> Variant:
    """The plain backbone, larger or trained for longer."""
    if has_place:
        raise ConfigError(f"variant '{text}': the plain backbone takes no place.")
    for option in options:
        if option not in PLAIN_CONTROLS[name]:
            raise ConfigError(f"unknown option '{option}' in variant '{text}': {nearest(option, PLAIN_CONTROLS[name])}")
    backbone = options.get("backbone")
    return Variant(text, name, options=options, role="control", backbone=None if backbone is None else str(backbone))


def first_family(variants: Sequence[Variant]) -> list[str]:
    """Names of the variants that a comparison is about: the attentions, or else the controls."""
    attentions = [variant.name for variant in variants if variant.role == "attention"]
    return attentions or [variant.name for variant in variants if variant.role == "control"]


def under(recipe: Recipe, variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The variants with what the recipe says where they say nothing."""
    return tuple(replace(variant, dynamic=variant.recipe(recipe).dynamic) for variant in variants)


def again() -> Variant:
    """The plain backbone once more with other seeds, for an A/A comparison."""
    return Variant(f"{BASELINE} (other seeds)", BASELINE, role="attention", seed_offset=AGAIN_OFFSET)


def baseline_of(variants: Sequence[Variant]) -> str:
    """The name of the variant that all others are compared with; trainings from elsewhere may call it anything."""
    return next((variant.name for variant in variants if variant.role == "baseline"), BASELINE)


def with_earlier(variants: Sequence[Variant], earlier: Sequence[Variant]) -> tuple[Variant, ...]:
    """The variants asked for and those that were there before, the baseline first."""
    known = {variant.slug for variant in variants}
    return (variants[0], *(v for v in earlier if v.slug not in known), *variants[1:])


def matched_controls(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Let a control that is like an attention be like the first one, where it does not say which."""
    first = next((v for v in variants if v.role == "attention" and not v.is_plain), None)

    def matched(variant: Variant) -> Variant:
        if first is None or "like" in variant.options:
            return variant
        if variant.attention == "capacity" and not variant.options:
            return replace(variant, options={"like": first.attention})
        if variant.attention in PLAIN_CONTROLS:
            return replace(variant, options={**variant.options, "like": first.name})
        return variant

    return tuple(map(matched, variants))


def parse_variants(attentions: Sequence[str], controls: Sequence[str]) -> tuple[Variant, ...]:
    """The columns of a comparison, the baseline first.

    "none" among the attentions asks for an A/A comparison: the plain backbone again, with other seeds.

    Raises:
        ConfigError: nothing to compare, or the same variant twice.
    """
    variants = [Variant(BASELINE, BASELINE, role="baseline")]
    variants += [parse_variant(text) for text in attentions]
    variants += [parse_variant(text, "control") for text in controls]
    if len(variants) == 1:
        raise ConfigError("there is nothing to compare: name at least one attention, for example cbam.")
    for variant in variants:
        if [v.slug for v in variants].count(variant.slug) > 1:
            raise ConfigError(f"variant '{variant.name}' is named twice: leave one out.")
    return tuple(variants)


def split_variants(text: str) -> list[str]:
    """Split a comma-separated list of variants, whose options have commas too.

    >>> split_variants("cbam:reduction=8,kernel_size=3,se@stage")
    ['cbam:reduction=8,kernel_size=3', 'se@stage']
    """
    variants: list[str] = []
    for piece in _pieces(text):
        if "=" in piece and ":" not in piece and variants and ":" in variants[-1]:
            variants[-1] += f",{piece}"
        else:
            variants.append(piece)
    return variants


def _build_of(variant: Variant) -> tuple[str, str, dict[str, Any], int]:
    return variant.attention, variant.where, dict(variant.options), variant.seed_offset


def _pieces(text: str) -> Iterable[str]:
    return (piece.strip() for piece in text.split(",") if piece.strip())
