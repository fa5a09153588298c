"""The choices of a search, and the proposal of the next trial (Optuna's TPE sampler).

The record of the search holds what was tried; Optuna only proposes, in memory, what to try next. A proposal is a
function of the seed, the number of the trial and the trials before it, so that an interrupted search proposes the same as
an uninterrupted one. Optuna's own journal file would not do: after a sudden death within a line it
cannot be read any more, and its lock file makes the next process wait for 30 s.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

from torch import nn

from ...comparison.variants import BASELINE, Variant, parse_variant
from ...config import InputSpec, to_dict
from ...data import hash64
from ...errors import AttngraftError, ConfigError
from ...settings.recipe import Dynamic
from ...training import Recipe
from ...training.preflight import check_grafts_learn, check_phases

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

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
STARTUP_TRIALS = 8  # drawn at random, before the trials say where to look
REDRAWS = 100
LEAST_FOR_IMPORTANCE = 10  # trials

Tried = Sequence[tuple[Mapping[str, Any], float]]


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
    choices = {
        name: tuple(dict.fromkeys([*values, *(getattr(recipe, name) for recipe in recipes)]))
        for name, values in CHOICES.items()
        if name not in fixed
    }
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


def _check_recipes(space: Space, template: nn.Module, spec: InputSpec) -> None:
    """Raise before the first trial where an attention does not fit, or a phase of a recipe would train nothing."""
    plans = {name: space.variant(space.placed(name)).plan(template, spec.shape) for name in space.attentions}
    grafted = [name for name, plan in plans.items() if plan]
    for name in [name for name in plans if name == BASELINE] + grafted[:1]:  # which attention it is does not matter
        grown = space.variant(space.placed(name)).grow(copy.deepcopy(template), plans[name], 0)
        for recipe in space.recipes.values():
            check_grafts_learn(recipe, has_grafts=bool(plans[name]))
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


def require_optuna() -> None:
    """Raise ConfigError where Optuna is not installed."""
    if find_spec("optuna") is None:
        raise ConfigError("optuna is not installed, which the search needs: pip install attngraft[search].")


def propose(space: Space, tried: Tried, *, seed: int, number: int, barred: Collection[str] = ()) -> Params | None:
    """Propose trial `number`: the defaults first, then what a tree-structured Parzen estimator proposes.

    Args:
        space: the choices.
        tried: parameters and score of the trials that ended; higher is better.
        seed: of the search.
        number: of the trial, from 0.
        barred: names of variants that are not tried again, because they cost too much.

    Returns:
        The parameters, numbers rounded to three digits; None where everything has been tried.

    Source: Bergstra et al., NeurIPS 2011, as in Optuna (Akiba et al., arXiv:1907.10902).
    """
    defaults = space.defaults()
    if number < len(defaults):
        return defaults[number]
    for redraw in range(REDRAWS):  # each from its own seed: the same study asked twice would count the first answer
        params = _draw(_study(space, tried, hash64("trial", seed, number, redraw) % 2**32), space)
        if space.variant(params).name not in barred and all(params != earlier for earlier, _ in tried):
            return params
    return None


def importances(space: Space, tried: Tried) -> dict[str, float]:
    """Share of the scores' variation that each parameter explains (PED-ANOVA, arXiv:2304.10255); empty for few trials.

    Parameters that only grafts have are left out, as are those that were the same in all trials.
    """
    if len(tried) < LEAST_FOR_IMPORTANCE:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    shared = [n for n in tried[0][0] if all(n in params for params, _ in tried)]
    shared = [n for n in shared if len({params[n] for params, _ in tried}) > 1]
    with _quiet():
        study = _study(space, [({n: params[n] for n in shared}, score) for params, score in tried], 0)
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), params=shared)
    return {name: float(value) for name, value in found.items()}


def _study(space: Space, tried: Tried, seed: int) -> optuna.Study:
    import optuna

    with _quiet():
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(
            [
                optuna.trial.create_trial(params=dict(p), distributions=_distributions(space, p), value=score)
                for p, score in tried
            ]
        )
    return study


def _distributions(space: Space, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, BaseDistribution] = {n: CategoricalDistribution(v) for n, v in space.listed.items()}
    found |= {n: FloatDistribution(low, high, log=True) for n, (low, high) in space.scales.items()}
    return {name: found[name] for name in params}


def _draw(study: optuna.Study, space: Space) -> Params:
    with _quiet():
        trial = study.ask()
        params: Params = {"attention": trial.suggest_categorical("attention", space.attentions)}
        for name in space.names(params["attention"])[1:]:
            if name in space.scales:
                low, high = space.scales[name]
                params[name] = min(max(float(f"{trial.suggest_float(name, low, high, log=True):.3g}"), low), high)
            else:
                params[name] = trial.suggest_categorical(name, space.listed[name])
    return params


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's log and its warnings about experimental parts; the level of the log is restored."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
