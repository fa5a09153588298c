"""Variants whose grafts follow the trend of the loss."""

from __future__ import annotations

import pytest
from sealed import read_plain, rewrite
from typer.testing import CliRunner

from attngraft.attention import attention_options, attentions
from attngraft.cli import app
from attngraft.comparison import compare, parse_variant, parse_variants, split_variants
from attngraft.comparison.contrasts import fixed_twins
from attngraft.comparison.factorial import squares
from attngraft.comparison.variants import under
from attngraft.config import to_dict
from attngraft.errors import ConfigError, RunError
from attngraft.reporting import write_report
from attngraft.training import RunFolder, load_recipe

NAMES = ["se", "se:dynamic=both"]


def test_dynamic_is_an_option_of_the_training_and_not_of_the_attention():
    variant = parse_variant("cbam@stage:reduction=8,dynamic=rate")
    assert (variant.name, variant.dynamic, variant.is_dynamic) == ("cbam@stage:reduction=8,dynamic=rate", "rate", True)
    assert dict(variant.options) == {"reduction": 8}
    recipe = load_recipe("one-cycle")
    assert variant.recipe(recipe).dynamic == "rate"
    assert parse_variant("cbam").recipe(recipe) is recipe
    assert parse_variant("cbam:dynamic=off").recipe(load_recipe("one-cycle", dynamic="both")).dynamic == "off"


def test_no_attention_has_an_option_of_that_name():
    assert not [name for name in attentions() if "dynamic" in attention_options(name)]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cbam:dynamic=bth", "did you mean 'both'"),
        ("cbam:dynamic=1", "known: both, off, rate, strength"),
        ("cbam:dynamc=both", "did you mean 'dynamic'"),
        ("none:dynamic=both", "takes no place and no options"),
    ],
)
def test_what_is_wrong_is_said(text: str, hint: str):
    with pytest.raises(ConfigError, match=hint):
        parse_variant(text)


def test_a_list_is_split_with_it():
    assert split_variants("cbam,cbam:dynamic=both,reduction=8,se") == ["cbam", "cbam:dynamic=both,reduction=8", "se"]


def test_twins_differ_in_the_pace_alone():
    names = ["cbam:reduction=8,dynamic=rate", "cbam:reduction=8", "cbam", "cbam@stage:reduction=8", "se:dynamic=both"]
    variants = parse_variants(names, ["static", "static:dynamic=rate"])
    assert fixed_twins(variants) == [
        ("cbam:reduction=8,dynamic=rate", "cbam:reduction=8"),
        ("static:dynamic=rate", "static"),
    ]


def test_under_a_dynamic_recipe_the_fixed_twin_says_so():
    variants = under(load_recipe("one-cycle", dynamic="both"), parse_variants(["cbam", "cbam:dynamic=off"], []))
    assert fixed_twins(variants) == [("cbam", "cbam:dynamic=off")]


def test_a_square_of_halves_has_one_pace():
    variants = parse_variants(["cbam:dynamic=rate", "cbam-channel", "cbam-spatial"], [])
    assert not list(squares(variants))
    dynamic = [f"{name}:dynamic=rate" for name in ("cbam", "cbam-channel", "cbam-spatial")]
    assert len(list(squares(parse_variants(dynamic, [])))) == 1


@pytest.fixture(scope="module")
def paced(tmp_path_factory, digits, settings):
    folder = tmp_path_factory.mktemp("paced")
    return compare(digits, attentions=NAMES, seeds=1, run_dir=folder, **{**settings, "epochs": 4})


def test_it_is_trained_with_the_same_budget_and_another_pace(paced):
    runs = {name: RunFolder(paced.run_dir / "runs" / slug / "seed-0") for name, slug in slugs(paced).items()}
    recipes = {name: to_dict(run.read().recipe) for name, run in runs.items()}
    assert {name: recipe.pop("dynamic") for name, recipe in recipes.items()} == {
        "none": "off",
        "se": "off",
        "se:dynamic=both": "both",
    }
    assert recipes["se"] == recipes["se:dynamic=both"] == recipes["none"]
    rows = {name: run.read_metrics() for name, run in runs.items()}
    assert ["dynamic" in rows[name][0] for name in runs] == [False, False, True]
    assert len({len(found) for found in rows.values()}) == 1
    assert rows["se"][0]["train_loss"] == rows["se:dynamic=both"][0]["train_loss"]


def slugs(comparison) -> dict[str, str]:
    return {row["name"]: row["slug"] for row in comparison.document["variants"]}


def test_its_effect_is_told_against_the_plain_backbone_and_against_the_fixed_twin(paced):
    pairs = [(e["variant"], e["against"]) for e in paced.effects]
    assert pairs == [("se", "none"), ("se:dynamic=both", "none"), ("se:dynamic=both", "se")]
    assert set(paced.verdicts) == {"se", "se:dynamic=both"}
    effect = paced.effects[-1]
    assert effect["p_adjusted"] == effect["p_value"]  # a family of its own
    assert "against 'se'" in str(paced)


def test_the_report_has_its_name(paced):
    assert "se:dynamic=both" in write_report(paced.run_dir).read_text()


def test_another_pace_of_the_recipe_is_another_comparison(paced, digits, settings):
    with pytest.raises(RunError, match="another recipe"):
        compare(
            digits,
            attentions=NAMES,
            seeds=1,
            run_dir=paced.run_dir,
            **{**settings, "epochs": 4, "dynamic": "rate"},
        )


def test_a_comparison_from_before_there_were_paces_goes_on(paced, digits, settings):
    rewrite(paced.run_dir / "comparison.json", lambda document: document["recipe"].pop("dynamic"))
    again = compare(digits, attentions=NAMES, seeds=1, run_dir=paced.run_dir, **{**settings, "epochs": 4})
    assert again.verdicts == paced.verdicts


def test_on_the_command_line_of_fit(tmp_path):
    options = ["--backbone", "small-cnn", "--image-size", "16", "--limit", "60", "--epochs", "1", "--device", "cpu"]
    options += [
        "--recipe",
        "one-cycle",
        "--precision",
        "fp32+contiguous",
        "--out",
        str(tmp_path / "run"),
        "--attention",
        "se:dynamic=rate",
    ]
    result = CliRunner().invoke(app, ["fit", "cluttered-digits", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert read_plain(tmp_path / "run" / "run.json")["recipe"]["dynamic"] == "rate"
