"""The search space: attentions, sites and recipe values."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from torch import nn

from ...comparison.variants import BASELINE, Variant, parse_variant
from ...config import InputSpec, to_dict
from ...errors import AttngraftError, ConfigError
from ...settings.recipe import Dynamic
from ...training import Recipe
from ...training.preflight import check_phases

ATTENTIONS = (BASELINE, "cbam", "se", "eca", "coord")
PLACEMENTS = ("auto", "stage")
SCALES = {"lr_scale": (0.25, 4.0), "graft_lr_scale": (0.3, 10.0), "weight_decay_scale": (0.1, 10.0)}
CHOICES: dict[str, tuple[Any, ...]] = {
    "augment": ("none", "light", "strong"),
    "label_smoothing": (0.0, 0.05, 0.1, 0.2),
    "mixup": (0.0, 0.1, 0.2, 0.4),
    "dynamic": get_args(Dynamic),
}
OF_GRAFTS = ("placement", "graft_lr_scale", "dynamic")

Params = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """The choices of a search.

    Attributes:
        attentions: variants; those that name a place keep it.
        placements: for the others.
        recipes: by name, all of equal length; the first is the default.
        choices: parameter -> its values, for categorical ones.
        scales: parameter -> lowest and highest factor on the recipe's value.
    """

    attentions: tuple[str, ...]
    placements: tuple[str, ...]
    recipes: Mapping[str, Recipe]
    choices: Mapping[str, tuple[Any, ...]]
    scales: Mapping[str, tuple[float, float]]

    def describe(self) -> dict[str, Any]:
        """Plain values, for the record."""
        return {
            "attentions": list(self.attentions),
            "placements": list(self.placements),
            "recipes": {name: to_dict(recipe) for name, recipe in self.recipes.items()},
            "choices": {name: list(values) for name, values in self.choices.items()},
            "scales": {name: list(ends) for name, ends in self.scales.items()},
        }

    @property
    def listed(self) -> dict[str, tuple[Any, ...]]:
        """Parameter -> its values, for all categorical ones."""
        places = {"placement": self.placements} if self.placements else {}
        return {"attention": self.attentions, **places, "recipe": tuple(self.recipes), **self.choices}

    def defaults(self) -> list[Params]:
        """The trials that come first: the plain backbone, then CBAM, each with the first recipe unchanged."""
        recipe = next(iter(self.recipes))
        grafted = sorted((a for a in self.attentions if a != BASELINE), key=lambda a: not a.startswith("cbam"))
        first = [BASELINE] if BASELINE in self.attentions else []
        return [self._unchanged(attention, recipe) for attention in [*first, *grafted[:1]]]

    def _unchanged(self, attention: str, recipe: str) -> Params:
        values = {name: getattr(self.recipes[recipe], name, None) for name in self.choices}
        params = {**self.placed(attention), "recipe": recipe, **dict.fromkeys(self.scales, 1.0), **values}
        return {name: params[name] for name in self.names(attention)}

    def without(self, unsupported: Collection[str]) -> Space:
        """The space without these choices."""
        return replace(self, choices={name: values for name, values in self.choices.items() if name not in unsupported})

    def variant(self, params: Mapping[str, Any]) -> Variant:
        """The grafts of a trial."""
        name = params["attention"]
        if name == BASELINE:
            return Variant(BASELINE, BASELINE)
        head, separator, options = name.partition(":")
        return parse_variant(f"{head}@{params['placement']}{separator}{options}" if "placement" in params else name)

    def recipe(self, params: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial, with some of its values changed."""
        base = self.recipes[params["recipe"]]
        changes = {name: params[name] for name in self.choices if name in params}
        for name in self.scales:
            field = name if name != "weight_decay_scale" else "weight_decay"
            if name in params:
                changes[field] = getattr(base, field) * params[name]
        return self.variant(params).recipe(replace(base, **changes))

    def names(self, attention: str) -> list[str]:
        """The parameters of a trial with this attention."""
        names = [*self.placed(attention), "recipe", *self.choices, *self.scales]
        if attention == BASELINE:
            return [name for name in names if name not in OF_GRAFTS]
        is_fixed = self.variant(self.placed(attention)).dynamic is not None
        return [name for name in names if not (is_fixed and name == "dynamic")]

    def placed(self, attention: str, placement: str | None = None) -> Params:
        """The attention with a placement, the first where none is given, unless it names its own."""
        if attention == BASELINE or "@" in attention.partition(":")[0]:
            return {"attention": attention}
        return {"attention": attention, "placement": placement or self.placements[0]}


def build_space(
    attentions: Sequence[str],
    recipes: Sequence[Recipe],
    fixed: Collection[str],
    template: nn.Module,
    spec: InputSpec,
) -> Space:
    """Build the search space that this backbone allows.

    Args:
        attentions: variants, "none" among them.
        recipes: of which the first is the default.
        fixed: fields of the recipe that the user has set: these are not searched.
        template: the backbone.
        spec: of its input.

    Raises:
        ConfigError, GraftError: an attention or a recipe does not fit the backbone, or one is named twice.
    """
    _check_names("attention", list(attentions))
    _check_names("recipe", [recipe.name for recipe in recipes])
    choices = {name: _with_own(values, name, recipes) for name, values in CHOICES.items() if name not in fixed}
    scales = {name: ends for name, ends in SCALES.items() if not {name, name.removesuffix("_scale")} & set(fixed)}
    space = Space(tuple(attentions), PLACEMENTS, {recipe.name: recipe for recipe in recipes}, choices, scales)
    _check_recipes(space, template, spec)
    return replace(space, placements=_placements(space, template, spec))


def _check_names(kind: str, names: list[str]) -> None:
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise ConfigError(f"{kind} '{doubled}' is named twice: leave one out.")
    if not names:
        raise ConfigError(f"there is no {kind} to search among: name at least one.")


def _with_own(values: tuple[Any, ...], name: str, recipes: Sequence[Recipe]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys([*values, *(getattr(recipe, name) for recipe in recipes)]))


def _check_recipes(space: Space, template: nn.Module, spec: InputSpec) -> None:
    """Raise before the first trial where an attention does not fit, or a phase of a recipe would train nothing."""
    plans = {name: space.variant(space.placed(name)).plan(template, spec.shape) for name in space.attentions}
    grafted = [name for name, plan in plans.items() if plan]
    for name in [name for name in plans if name == BASELINE] + grafted[:1]:  # which attention it is does not matter
        grown = space.variant(space.placed(name)).grow(copy.deepcopy(template), plans[name], 0)
        for recipe in space.recipes.values():
            check_phases(grown, recipe, spec)


def _placements(space: Space, template: nn.Module, spec: InputSpec) -> tuple[str, ...]:
    """The placements that all attentions can have and that differ from each other."""
    free = [attention for attention in space.attentions if "placement" in space.placed(attention)]
    found: dict[Any, str] = {}
    for placement in PLACEMENTS:
        variants = [space.variant(space.placed(attention, placement)) for attention in free]
        try:
            plans = [variant.plan(template, spec.shape) for variant in variants]
        except AttngraftError:  # "auto" was planned before, so it is only this place that the backbone does not have
            continue
        found.setdefault(tuple(tuple(site.path for site in plan.sites) for plan in plans if plan), placement)
    return tuple(found.values())
