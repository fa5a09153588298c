"""Options that are made from the fields of the settings."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_type_hints

import pytest
import typer

from attngraft import comparison
from attngraft.cli import VERBS, options
from attngraft.cli.options import takes
from attngraft.config import setting
from attngraft.continual import AdaptOptions, GuardPolicy, WatchOptions
from attngraft.continual.adaptation.adapt import Classes
from attngraft.continual.search.search_space import ATTENTIONS
from attngraft.errors import ConfigError
from attngraft.settings import DataSettings, MachineSettings, Recipe
from attngraft.training import Resume

TRAINING_VERBS = ("fit", "compare", "iterate")
FLAGS = [
    field.name
    for kind in (Recipe, DataSettings, MachineSettings)
    for field in fields(kind)
    if field.metadata.get("flag")
]


@pytest.fixture
def columns() -> int:
    return 80


@pytest.fixture
def compare_settings(attngraft, monkeypatch):
    """What `attngraft compare` hands to `compare` besides its own arguments."""

    def call(*arguments: object) -> dict[str, object]:
        given: dict[str, object] = {}

        def caught(data: str, **options: object) -> None:
            given.update(options)
            raise ConfigError("caught.")

        monkeypatch.setattr(comparison, "compare", caught)
        code, _, err = attngraft("compare", "data", "--backbone", "small-cnn", *arguments)
        assert (code, err) == (2, "error: caught.\n"), err
        own = set(inspect.signature(VERBS["compare"]).parameters) - set(options.TRAINING) | {"command", "attentions"}
        return {name: value for name, value in given.items() if name not in own}

    return call


@pytest.mark.parametrize("verb", TRAINING_VERBS)
@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_of_the_settings_is_an_option_of_every_training(attngraft, verb, name):
    out = attngraft(verb, "--help")[1]
    assert f"--{name.replace('_', '-')}" in out


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_in_80_columns_and_cuts_nothing_off(attngraft, verb):
    out = attngraft(verb, "--help")[1]
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


def test_the_options_of_adapt_and_watch_show_the_defaults_of_the_library():
    for verb, kind in (("adapt", AdaptOptions), ("watch", WatchOptions)):
        flagged = {field.name: field.default for field in fields(kind) if field.metadata["flag"]}
        assert {name: default(verb, name) for name in flagged} == flagged


def test_what_is_not_given_is_not_set(compare_settings):
    assert compare_settings() == {}


def test_options_arrive_as_the_settings_that_they_are_named_after(compare_settings):
    given = compare_settings("--epochs", 3, "--skip-broken", "--root", "here", "--augment", "none", "--workers", 0)
    assert given == {"epochs": 3, "skip_broken": True, "root": "here", "augment": "none", "workers": 0}


def test_a_size_is_one_number_or_height_and_width(compare_settings):
    assert compare_settings("--image-size", 64) == {"image_size": 64}
    assert compare_settings("--image-size", "64x32") == {"image_size": [64, 32]}
    assert compare_settings("--set", "image_size=64x32") == {"image_size": [64, 32]}


def test_an_assignment_reaches_every_field_and_wins_over_an_option(compare_settings):
    given = compare_settings("--batch-size", 8, "--set", "batch-size=16", "--set", "clip_norm=1")
    assert given == {"batch_size": 16, "clip_norm": 1}


def test_every_setting_has_a_description():
    for kind in (Recipe, DataSettings, MachineSettings, AdaptOptions, WatchOptions):
        for field in fields(kind):
            if field.name not in ("name", "phases"):
                assert field.metadata["description"].endswith("."), field.name


def test_a_new_setting_becomes_an_option(attngraft, monkeypatch):
    @dataclass(frozen=True)
    class More:
        colour: Literal["red", "blue"] = setting("red", "Colour.", flag=True)
        pieces: int | tuple[int, int] | None = setting(None, "Pieces.", flag=True)
        careful: bool = setting(True, "Take care.", flag=True)

    hints = {"colour": Literal["red", "blue"], "pieces": int | tuple[int, int] | None, "careful": bool}
    made = {field.name: options._flag(field, hints[field.name]) for field in fields(More)}
    monkeypatch.setattr(options, "_FLAGS", made)
    seen = {}

    @takes("colour", "pieces", "careful", assignments=options.SETTINGS)
    def verb(settings: dict[str, object], as_json: options.Json = False) -> None:
        seen.update(settings)

    app = typer.Typer(rich_markup_mode=None)
    app.command()(verb)
    app(["--colour", "blue", "--pieces", "3x4", "--no-careful", "--set", "more=1"], standalone_mode=False)
    assert seen == {"colour": "blue", "pieces": [3, 4], "careful": False, "more": 1}


@pytest.mark.parametrize("verb", VERBS)
def test_the_folder_of_results_is_called_out_everywhere(attngraft, verb):
    out = attngraft(verb, "--help")[1]
    assert ("--run-dir" in out) <= ("--out, --run-dir" in out)


ELSEWHERE = [
    ("fit", "--learning-rate", "--lr"),
    ("fit", "--bs", "--batch-size"),
    ("fit", "-b", "--batch-size"),
    ("fit", "--model", "--backbone"),
    ("fit", "--arch", "--backbone"),
    ("fit", "--output", "--out"),
    ("compare", "--img-size", "--image-size"),
    ("compare", "--imgsz", "--image-size"),
    ("compare", "--num_epochs", "--epochs"),
    ("compare", "--batch_size", "--batch-size"),
    ("iterate", "--gpu", "--device"),
    ("iterate", "--output-dir", "--out"),
    ("fit", "--wd", "--set weight_decay=VALUE"),
    ("fit", "--clip-norm", "--set clip_norm=VALUE"),
    ("adapt", "--bs", "--set batch_size=VALUE"),
    ("predict", "--bs", "--batch-size"),
    ("explain", "--save-dir", "--out"),
]


@pytest.mark.parametrize(("verb", "asked", "meant"), ELSEWHERE)
def test_an_option_that_is_called_otherwise_elsewhere_is_answered_by_meaning(attngraft, verb, asked, meant):
    code, _, err = attngraft(verb, "x", asked, 3)
    assert code == 2
    assert f"No such option: {asked}. Did you mean {meant}?" in err


def test_an_option_without_a_value_is_still_said_to_lack_one(attngraft):
    assert "requires an argument" in attngraft("fit", "x", "--lr")[2]


def test_a_verb_that_is_called_otherwise_elsewhere_is_answered_by_meaning(attngraft):
    assert "Did you mean 'fit'?" in attngraft("train", "x")[2]
    assert "Did you mean 'compare'?" in attngraft("comprae", "x")[2]


@pytest.mark.parametrize(
    ("verb", "kinds"),
    [(verb, options.SETTINGS) for verb in (*TRAINING_VERBS, "power")]
    + [("adapt", (AdaptOptions,)), ("watch", (WatchOptions, AdaptOptions))],
)
def test_a_question_mark_lists_every_key_with_its_meaning(attngraft, verb, kinds):
    code, out, _ = attngraft(verb, "--set", "?")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    told = " ".join(out.split())
    for kind in kinds:
        for field in fields(kind):
            if field.name != "name":
                assert f"\n{field.name}=" in f"\n{out}"
                assert field.metadata["description"] in told


def test_a_question_mark_shows_types_and_defaults(attngraft):
    out = attngraft("fit", "--set", "?")[1]
    assert "weight_decay=number  [default: 0.01]" in out
    assert "lr=number  [default: 0.001]" in out
    assert "optimizer=sgd|adam|adamw  [default: adamw]" in out
    assert "batch_size=whole number  [default: 32]" in out


def default(verb: str, name: str) -> object:
    return inspect.signature(VERBS[verb]).parameters[name].default


def choices(verb: str, name: str) -> tuple[str, ...]:
    return get_args(get_type_hints(VERBS[verb])[name])


def test_defaults_that_are_written_again_for_the_help_are_those_of_the_library():
    assert default("iterate", "attention") == ",".join(ATTENTIONS)
    assert choices("adapt", "classes") == get_args(Classes)
    assert choices("fit", "resume") == get_args(Resume)


def test_the_help_of_store_says_the_defaults_of_the_guard(attngraft):
    out = " ".join(attngraft("store", "--help")[1].split())
    policy = GuardPolicy()
    for value in (policy.alpha, policy.delta, policy.class_delta):
        assert f"({value:g})" in out
