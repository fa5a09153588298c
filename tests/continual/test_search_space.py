"""The space of a search: what it holds on a backbone, and that proposals are a function of what was tried."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from attngraft.comparison.build_model import ModelSource
from attngraft.config import InputSpec
from attngraft.continual.search.search_space import ATTENTIONS, Space, build_space, importances, propose, require_optuna
from attngraft.errors import ConfigError, GraftError
from attngraft.training import Phase, Recipe, load_recipe

RECIPES = [load_recipe("one-cycle"), load_recipe("three-phase", epochs=10)]


@functools.cache
def small_space(attentions: tuple[str, ...] = ATTENTIONS, fixed: tuple[str, ...] = ()) -> Space:
    return build_space(attentions, RECIPES, fixed, ModelSource("small-cnn").template(), InputSpec(3, (32, 32)))


@functools.cache
def searched(count: int) -> list[tuple[dict, float]]:
    """So many trials whose score is best at twice the learning rate."""
    space, tried = small_space(), []
    for number in range(count):
        params = propose(space, tried, seed=3, number=number)
        assert params is not None
        tried.append((params, -abs(params["lr_scale"] - 2)))
    return tried


def test_the_first_two_trials_are_the_defaults() -> None:
    first, second = (propose(small_space(), [], seed=0, number=number) for number in (0, 1))
    assert first is not None
    assert second is not None
    space = small_space()
    assert (space.variant(first).name, space.variant(second).name) == ("none", "cbam@auto")
    assert space.recipe(first) == space.recipe(second) == RECIPES[0]


def test_a_proposal_depends_on_what_was_tried_and_on_nothing_else() -> None:
    space, tried = small_space(), searched(10)
    again = [propose(space, tried[:number], seed=3, number=number) for number in range(10)]
    assert again == [params for params, _ in tried]
    assert propose(space, tried[:5], seed=4, number=5) != tried[5][0]


def test_every_proposal_can_be_trained_and_none_comes_twice() -> None:
    space, model = small_space(), ModelSource("small-cnn").template()
    tried = [params for params, _ in searched(14)]
    assert all(a != b for i, a in enumerate(tried) for b in tried[:i])
    for params in tried:
        recipe = space.recipe(params)
        assert recipe.epochs == 10
        assert recipe.lr_scale == params["lr_scale"]
        assert recipe.augment == params["augment"]
        assert ("graft_lr_scale" in params) == (params["attention"] != "none")
        plan = space.variant(params).plan(model, (3, 32, 32))
        assert (plan is None) == (params["attention"] == "none")


def test_the_search_learns() -> None:
    scores = [score for _, score in searched(30)]
    assert sum(scores[20:]) / 10 > sum(scores[2:12]) / 10


def test_what_matters_is_named() -> None:
    space, tried = small_space(), searched(25)
    found = importances(space, tried)
    assert max(found, key=lambda name: found[name]) == "lr_scale"
    assert "graft_lr_scale" not in found
    assert importances(space, tried[:5]) == {}


def test_weight_decay_is_a_factor_on_the_recipes_own() -> None:
    space = small_space()
    params = {**space.defaults()[0], "weight_decay_scale": 3.0}
    assert space.recipe(params).weight_decay == pytest.approx(3 * RECIPES[0].weight_decay)


def test_what_the_user_has_set_is_not_searched() -> None:
    space = small_space(fixed=("augment", "weight_decay", "lr_scale", "dynamic"))
    names = set().union(*(params for params, _ in [(h, 0) for h in space.defaults()]))
    assert not names & {"augment", "weight_decay_scale", "lr_scale", "dynamic"}
    assert "graft_lr_scale" in names


def test_values_of_an_own_recipe_are_among_the_choices() -> None:
    own = replace(RECIPES[0], name="own", label_smoothing=0.37)
    space = build_space(["none"], [own], (), ModelSource("small-cnn").template(), InputSpec(3, (32, 32)))
    assert space.defaults()[0]["label_smoothing"] == 0.37
    assert propose(space, [(space.defaults()[0], 0.5)], seed=0, number=1) is not None


def test_an_attention_that_names_its_place_or_dynamics_keeps_them() -> None:
    space = small_space(("cbam@block2.2:reduction=8", "se:dynamic=rate"))
    cbam, se = (propose(space, [], seed=seed, number=9) for seed in (0, 1))
    for seed in range(20):
        params = propose(space, [], seed=seed, number=9)
        assert params is not None
        variant = space.variant(params)
        if params["attention"].startswith("cbam"):
            cbam = params
            assert (variant.where, variant.options) == ("block2.2", {"reduction": 8})
        else:
            se = params
            assert variant.where in ("auto", "stage")
            assert space.recipe(params).dynamic == "rate"
    assert cbam is not None
    assert se is not None
    assert "placement" not in cbam
    assert "dynamic" in cbam
    assert "placement" in se
    assert "dynamic" not in se


def test_barred_variants_are_not_proposed_and_an_empty_rest_ends_the_search() -> None:
    space = small_space(("none", "se"))
    for number in range(4, 12):
        params = propose(space, [], seed=0, number=number, barred={"none", "se@auto"})
        assert params is not None
        assert space.variant(params).name == "se@stage"
    assert propose(space, [], seed=0, number=4, barred={"none", "se@auto", "se@stage"}) is None


@pytest.mark.parametrize(
    ("attentions", "recipes", "error", "message"),
    [
        (["cbam", "cbam"], RECIPES, ConfigError, "attention 'cbam' is named twice"),
        (["cbam"], [RECIPES[0], RECIPES[0]], ConfigError, "recipe 'one-cycle' is named twice"),
        ([], RECIPES, ConfigError, "no attention to search among"),
        (["cbma"], RECIPES, ConfigError, "did you mean 'cbam'"),
        (["cbam@nowhere"], RECIPES, GraftError, "nowhere"),
        (["none"], [Recipe("own", (Phase("grafts", ("grafts",)),))], ConfigError, "has nothing"),
        (["none", "se"], [Recipe("probe", (), head="solve")], ConfigError, "the grafts would stay as they are"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_trial(attentions, recipes, error, message) -> None:
    with pytest.raises(error, match=message):
        build_space(attentions, recipes, (), ModelSource("small-cnn").template(), InputSpec(3, (32, 32)))


def test_a_missing_optuna_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attngraft.continual.search.search_space.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install attngraft\[search\]"):
        require_optuna()


def test_the_level_of_optunas_log_is_left_as_it_was() -> None:
    import optuna

    level = optuna.logging.get_verbosity()
    propose(small_space(), [], seed=0, number=5)
    assert optuna.logging.get_verbosity() == level
