"""Propose the next trial (Optuna's TPE sampler).

The record of the search holds what was tried; Optuna only proposes, in memory, what to try next. A proposal is a
function of the seed, the number of the trial and the trials before it, so that an interrupted search proposes the same as
an uninterrupted one. Optuna's own journal file would not do: after a sudden death within a line it
cannot be read any more, and its lock file makes the next process wait for 30 s.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ...data import hash64
from ...errors import ConfigError
from .search_space import Params, Space

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

STARTUP_TRIALS = 8  # drawn at random, before the trials say where to look
REDRAWS = 100
LEAST_FOR_IMPORTANCE = 10  # trials

Tried = Sequence[tuple[Mapping[str, Any], float]]


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
