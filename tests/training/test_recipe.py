"""Recipes as data: packaged, changed, stretched, read from a file, refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngraft.config import to_dict
from attngraft.errors import ConfigError
from attngraft.settings.recipe import parse_recipe, with_epochs
from attngraft.training import Phase, Recipe, load_recipe, recipes, resolve_settings


def test_the_packaged_recipes_are_the_documented_ones():
    assert recipes() == ("detect", "fast", "full", "one-cycle", "plateau", "probe", "scratch", "three-phase")


@pytest.mark.parametrize("name", recipes())
def test_every_packaged_recipe_loads_under_its_name(name: str):
    assert load_recipe(name).name == name


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_survives_json(name: str):
    recipe = load_recipe(name)
    assert parse_recipe(to_dict(recipe)) == recipe


def test_overrides_change_only_what_they_name():
    plain, changed = load_recipe("three-phase"), load_recipe("three-phase", batch_size=8, lr_scale=0.5)
    assert (changed.batch_size, changed.lr_scale) == (8, 0.5)
    assert changed.phases == plain.phases
    assert changed.weight_decay == plain.weight_decay


def test_a_recipe_object_is_taken_as_it_is():
    recipe = Recipe("mine", (Phase("all"),))
    assert load_recipe(recipe) is recipe


def test_phases_can_be_given_as_plain_tables():
    changed = load_recipe("scratch", phases=[{"name": "short", "epochs": 2, "lr": 1}])
    assert changed.phases == (Phase("short", epochs=2, lr=1.0),)


def test_a_user_recipe_is_read_from_toml(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\noptimizer = "sgd"\n[[phases]]\nname = "head"\ntrain = ["head"]\nepochs = 2\n')
    assert load_recipe(path) == Recipe("mine", (Phase("head", train=("head",), epochs=2),), optimizer="sgd")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\nbatchsize = 3\n[[phases]]\nname = "a"\n', "unknown option 'batchsize'.*'batch_size'"),
        ('name = "x"\n', "phases"),
        ('name = "x"\n[[phases]]\nname = "a"\nepoch = 3\n', "unknown option 'epoch'.*'epochs'"),
        ("name = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_toml_file_is_refused_with_the_reason(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_a_missing_toml_file_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no file"):
        load_recipe(tmp_path / "none.toml")


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'three-phase'"):
        load_recipe("three-phases")


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown option 'batchsize': did you mean 'batch_size'"):
        resolve_settings("scratch", {"batchsize": 3})


def test_options_are_sorted_into_recipe_data_and_machine():
    settings = resolve_settings("scratch", {"epochs": 6, "limit": 7, "device": "cpu", "mixup": 0.2})
    assert settings.recipe.epochs == 6
    assert settings.recipe.mixup == 0.2
    assert settings.data.limit == 7
    assert settings.machine.device == "cpu"


@pytest.mark.parametrize(
    "fields",
    [
        {"batch_size": 0},
        {"batch_size": True},
        {"batch_size": 1.5},
        {"lr_scale": 0.0},
        {"lr_scale": math.inf},
        {"lr_scale": math.nan},
        {"weight_decay": -1.0},
        {"weight_decay": math.nan},
        {"momentum": 1.0},
        {"label_smoothing": 1.0},
        {"ema_decay": 1.0},
        {"mixup": -0.1},
        {"clip_norm": -1.0},
        {"early_stopping": -1},
        {"select": "first"},
        {"optimizer": "sdg"},
        {"augment": "lihgt"},
        {"phases": []},
        {"phases": 3},
        {"epochs": 0},
        {"epochs": True},
        {"epochs": 2.5},
    ],
)
def test_values_out_of_range_are_one_sentence(fields: dict):
    with pytest.raises(ConfigError) as caught:
        load_recipe("scratch", **fields)
    assert "\n" not in str(caught.value)
    assert next(iter(fields)) in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0},
        {"lr": 0.0},
        {"lr": math.inf},
        {"lr_decay": 0.0},
        {"lr_decay": 1.1},
        {"warmup": 1.0},
        {"step_epochs": 0},
        {"gamma": 0.0},
        {"patience": 0},
        {"milestones": (0.5, 2.0)},
        {"train": ()},
        {"train": ("heads",)},
        {"train": ("upper:0",)},
        {"train": ("upper:x",)},
        {"train": ("upper:inf",)},
        {"train": ("upper:1.5",)},
    ],
)
def test_a_wrong_phase_says_which_and_why(fields: dict):
    with pytest.raises(ConfigError, match="phase 'odd'"):
        Phase("odd", **fields)


def test_a_misspelt_part_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'grafts'"):
        Phase("odd", train=("graft",))


def test_needs_validation_says_whether_decisions_are_taken():
    assert load_recipe("plateau").needs_validation
    assert load_recipe("scratch", early_stopping=3).needs_validation
    assert load_recipe("scratch", select="best").needs_validation
    assert not load_recipe("three-phase").needs_validation


@pytest.mark.parametrize("name", [name for name in recipes() if name != "probe"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_fewer_epochs_than_phases_train_the_last_phases(name: str, epochs: int):
    usual, short = load_recipe(name), load_recipe(name, epochs=epochs)
    assert short.epochs == epochs
    assert [phase.name for phase in short.phases] == [phase.name for phase in usual.phases][-epochs:]
    assert short.phases[-1].train == ("all",)


@pytest.mark.parametrize("epochs", [0, -1, True, 1.5, "2"])
def test_a_number_of_epochs_that_is_none_is_refused(epochs: object):
    with pytest.raises(ConfigError, match="expected a whole number of at least 1"):
        load_recipe("three-phase", epochs=epochs)


@pytest.mark.parametrize("name", [name for name in recipes() if name != "probe"])
def test_a_learning_rate_is_the_highest_and_keeps_the_proportions_of_the_phases(name: str):
    usual, scaled = load_recipe(name), load_recipe(name, lr=0.01, epochs=30)
    rates, usual_rates = ([phase.lr for phase in recipe.phases] for recipe in (scaled, usual))
    assert max(rates) == 0.01
    assert rates == pytest.approx([0.01 / max(usual_rates) * rate for rate in usual_rates])


@pytest.mark.parametrize("lr", [0, -1.0, float("inf"), float("nan"), "fast", True])
def test_a_learning_rate_that_is_none_is_refused(lr: object):
    with pytest.raises(ConfigError, match="expected a number above 0"):
        load_recipe("three-phase", lr=lr)


@pytest.mark.parametrize(("asked", "meant"), [("learning_rate", "lr"), ("bs", "batch_size"), ("imgsz", "image_size")])
def test_an_option_that_is_called_otherwise_elsewhere_is_answered_by_meaning(asked: str, meant: str):
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        resolve_settings("three-phase", {asked: 1})


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 300))
def test_stretching_sums_exactly_and_keeps_proportions(lengths: list[int], more: int):
    recipe = Recipe("r", tuple(Phase(f"p{i}", epochs=n) for i, n in enumerate(lengths)))
    epochs = len(lengths) + more
    stretched = with_epochs(recipe, epochs)
    found = [phase.epochs for phase in stretched.phases]
    shares = [n * epochs / sum(lengths) for n in lengths]
    assert sum(found) == epochs
    assert min(found) >= 1
    if min(shares) >= 1:
        assert all(abs(n - share) < 1 for n, share in zip(found, shares, strict=True))
    assert with_epochs(stretched, epochs) == stretched
