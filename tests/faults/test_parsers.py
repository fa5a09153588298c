"""Whatever is read gives a value or one sentence; and what was written is read back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from attngraft.attention import attentions
from attngraft.comparison import parse_variant, parse_variants, split_variants
from attngraft.comparison.paired_predictions import pair_predictions
from attngraft.config import Preprocessing, from_dict, parse_assignment, to_dict
from attngraft.continual.search.budget import parse_budget
from attngraft.continual.search.requirement import parse_requirement, quantities_of
from attngraft.data.image_table import read_labels
from attngraft.errors import AttngraftError, ConfigError
from attngraft.reporting import write_report
from attngraft.reporting.read_folder import read_metrics
from attngraft.settings.recipe import parse_recipe
from attngraft.surgery import GraftPlan
from attngraft.surgery.plan import Override
from attngraft.surgery.site import Site
from attngraft.tasks import Classification
from attngraft.training import Phase, Recipe, RunFolder, load_recipe, recipes
from attngraft.training.run_record import RunRecord

NUMBERS = st.integers() | st.floats() | st.sampled_from([2**70, -(2**70), 1e308, -0.0])
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["", "cbam", "\x1b[2J", "a\nb", "../../x", "__class__", "\ud800", "x" * 5000]
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)


def value_or_sentence(work: Callable[[], Any]) -> Any:
    """The value; None where it was refused in one line. Anything else that is raised ends the test."""
    try:
        return work()
    except AttngraftError as error:
        said = str(error)
        assert said, "an error without words"
        assert said.isprintable(), said
        assert len(said) < 10 * 2100
        return None


def changed(document: dict[str, Any], draw: st.DataObject) -> dict[str, Any]:
    """The document with one entry, at any depth, replaced, removed or added."""
    found = json.loads(json.dumps(document))
    at: Any = found
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = draw.draw(st.sampled_from(keys))
        if isinstance(at[key], (dict, list)) and at[key] and draw.draw(st.booleans()):
            at = at[key]
            continue
        action = draw.draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "remove":
            del at[key]
        elif action == "add" and isinstance(at, dict):
            at[draw.draw(TEXTS)] = draw.draw(JSON)
        else:
            at[key] = draw.draw(JSON)
        return found


# --- plans -----------------------------------------------------------------------------------------------------------
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.[0-9]{1,2})?", fullmatch=True)
SIZES = st.integers(1, 4096)
SITES = st.builds(
    Site, path=NAMES, channels=SIZES, height=SIZES, width=SIZES, reason=TEXTS.filter(lambda t: "\ud800" not in t)
)
OPTIONS = st.dictionaries(NAMES, st.integers(-9, 9) | st.booleans() | st.floats(-9, 9), max_size=2)
PLANS = st.builds(
    GraftPlan,
    attention=st.sampled_from(attentions()),
    sites=st.lists(SITES, max_size=3, unique_by=lambda site: site.path).map(tuple),
    options=OPTIONS,
    init=st.sampled_from(["identity", "paper"]),
    input_size=st.tuples(SIZES, SIZES, SIZES),
    notes=st.lists(st.text(max_size=9), max_size=2).map(tuple),
    overrides=st.dictionaries(
        NAMES, st.builds(Override, attention=st.sampled_from(attentions()), options=OPTIONS), max_size=2
    ),
)


@given(PLANS)
def test_a_plan_comes_back_from_its_text(plan):
    again = GraftPlan.from_json(plan.to_json())
    assert again == plan
    assert GraftPlan.from_dict(plan.to_dict()) == plan
    assert str(again) == str(plan)


@given(PLANS, st.data())
def test_a_plan_with_any_change_is_a_plan_or_a_sentence(plan, data):
    values = changed(json.loads(plan.to_json()), data)
    found = value_or_sentence(lambda: GraftPlan.from_dict(values))
    if found is not None:
        again = GraftPlan.from_json(found.to_json())
        assert again.to_json() == found.to_json()


@given(JSON)
def test_any_value_is_a_plan_or_a_sentence(value):
    value_or_sentence(lambda: GraftPlan.from_dict(value))


@given(st.text(max_size=200) | JSON.map(lambda value: json.dumps(value)))
def test_any_text_is_a_plan_or_a_sentence(text):
    value_or_sentence(lambda: GraftPlan.from_json(text))


# --- recipes ---------------------------------------------------------------------------------------------------------
PHASES = st.builds(
    Phase,
    name=st.text(max_size=9).filter(lambda text: "\ud800" not in text),
    train=st.lists(
        st.sampled_from(["head", "grafts", "bn", "all", "upper:2", "upper:0.5"]), min_size=1, max_size=2
    ).map(tuple),
    epochs=st.integers(1, 99),
    lr=st.floats(1e-6, 1),
    schedule=st.sampled_from(["constant", "step", "cosine", "one-cycle", "plateau"]),
    warmup=st.floats(0, 0.9),
)
RECIPES = st.builds(
    Recipe,
    name=NAMES,
    phases=st.lists(PHASES, min_size=1, max_size=3).map(tuple),
    batch_size=st.integers(1, 999),
    weight_decay=st.floats(0, 1),
    dynamic=st.sampled_from(["off", "rate", "strength", "both"]),
)


@given(RECIPES)
def test_a_recipe_comes_back_from_its_values(recipe):
    assert parse_recipe(json.loads(json.dumps(to_dict(recipe)))) == recipe


@given(RECIPES, st.data())
def test_a_recipe_with_any_change_is_a_recipe_or_a_sentence(recipe, data):
    value_or_sentence(lambda: parse_recipe(changed(to_dict(recipe), data)))


@given(JSON)
def test_any_value_is_a_recipe_or_a_sentence(value):
    value_or_sentence(lambda: parse_recipe(value))


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_file_is_a_recipe_or_a_sentence(tmp_path, content):
    (tmp_path / "x.toml").write_bytes(content)
    value_or_sentence(lambda: load_recipe(tmp_path / "x.toml"))


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a" * 100_000, "x." * 5000 + "y = 1", "a = " + "9" * 100_000])
def test_a_deep_or_long_toml_is_a_sentence(tmp_path, text):
    (tmp_path / "x.toml").write_text(text)
    assert value_or_sentence(lambda: load_recipe(tmp_path / "x.toml")) is None


@given(st.sampled_from(recipes()), NAMES | st.sampled_from([*to_dict(load_recipe("scratch")), "epochs"]), JSON)
def test_any_override_is_taken_or_a_sentence(name, field, value):
    value_or_sentence(lambda: load_recipe(name, **{field: value}))


@given(st.text(max_size=60))
def test_any_flag_is_an_assignment_or_a_sentence(text):
    value_or_sentence(lambda: parse_assignment(text))


# --- run.json --------------------------------------------------------------------------------------------------------
RUN = {
    "format": 1, "kind": "run", "status": "finished", "variant": "cbam", "seed": 0, "backbone": "small-cnn",
    "weights": "random initialisation", "plan": None, "recipe": to_dict(load_recipe("one-cycle")),
    "data": {"name": "x", "fingerprint": "f", "classes": ["a", "b"], "notes": [], "skipped": [], "leaks": []},
    "classes": ["a", "b"], "preprocessing": to_dict(Preprocessing()), "precision": None,
    "results": {"test": {"top1": 0.5}, "train_time_s": 1.0}, "hardware": {}, "versions": {"attngraft": "0.1"},
}  # fmt: skip


@given(st.data())
def test_a_run_with_any_change_is_read_or_a_sentence(tmp_path, data):
    folder = RunFolder(tmp_path)
    folder.record_file.write_text(json.dumps(changed(RUN, data)))
    value_or_sentence(folder.read)
    value_or_sentence(lambda: folder.open(RunRecord.from_json(RUN), "auto", claim=lambda: None, needed_bytes=0))
    value_or_sentence(lambda: write_report(tmp_path))


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=99))
def test_any_file_named_run_is_read_or_a_sentence(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    value_or_sentence(RunFolder(tmp_path).read)


@given(st.binary(max_size=99) | st.lists(JSON.map(json.dumps), max_size=4).map(lambda lines: "\n".join(lines).encode()))
def test_any_metrics_are_rows_or_a_sentence(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    value_or_sentence(RunFolder(tmp_path).read_metrics)
    assert isinstance(read_metrics(tmp_path), list)


@given(JSON)
def test_any_value_is_a_preprocessing_or_a_sentence(value):
    value_or_sentence(lambda: from_dict(Preprocessing, value))


# --- requirements, variants, budgets ---------------------------------------------------------------------------------
KNOWN = quantities_of(Classification(("a", "b")))
PIECES = st.sampled_from(
    [*KNOWN, ">=", "<=", ">", "<", "93%", "0.9", "and", " ", "1e999", "9" * 400, "-1", "%", "top1"]
)


@given(st.text(max_size=60) | st.lists(PIECES | st.text(max_size=3), max_size=9).map("".join))
def test_any_text_is_a_requirement_or_a_sentence(text):
    found = value_or_sentence(lambda: parse_requirement(text, KNOWN))
    if found is not None:
        assert parse_requirement(str(found), KNOWN) == found
        assert all(math.isfinite(clause.number) for clause in found.clauses)


WORDS = st.sampled_from(
    [*attentions(), "none", "@", ":", ",", "=", "stage", "reduction", "8", "[", "{", "dynamic", "both"]
)


@given(st.text(max_size=60) | st.lists(WORDS | st.text(max_size=3), max_size=9).map("".join))
def test_any_text_is_a_variant_or_a_sentence(text):
    found = value_or_sentence(lambda: parse_variant(text))
    if found is not None and not found.is_again:
        assert parse_variant(found.name) == found
        assert found.slug not in ("", ".", "..")
        assert "/" not in found.slug
    value_or_sentence(lambda: parse_variants(split_variants(text), []))


@given(st.sampled_from(attentions()), st.sampled_from(["auto", "stage", "layer4.*"]), st.integers(1, 99))
def test_a_variant_comes_back_from_its_name(attention, where, reduction):
    text = f"{attention}@{where}"
    with suppress(ConfigError):
        text = parse_variant(f"{text}:reduction={reduction}").name
    found = parse_variant(text)
    assert parse_variant(found.name) == found
    assert split_variants(f"{text},se") == [text, "se"]
    assert replace(found) == found


@given(
    st.text(max_size=20)
    | st.from_regex(r"[0-9]{0,400}(\.[0-9]{1,3})?[hms]?([0-9]{1,2}m)?", fullmatch=True)
    | st.floats()
)
def test_any_budget_is_seconds_or_a_sentence(text):
    found = value_or_sentence(lambda: parse_budget(text))
    assert found is None or 0 < found < math.inf


# --- tables of labels ------------------------------------------------------------------------------------------------
CELLS = st.text(max_size=9) | st.sampled_from(
    ['"', ",", "\n", "\r\n", "path", "label", "a.png", "\x00", "\ufeff", "x" * 200_000]
)


@given(
    st.binary(max_size=120)
    | st.lists(CELLS, max_size=9).map(lambda cells: ",".join(cells).encode("utf-8", "surrogatepass"))
)
def test_any_file_is_a_table_or_a_sentence(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    value_or_sentence(lambda: read_labels(tmp_path / "t.csv"))
    value_or_sentence(lambda: read_labels(tmp_path / "t.csv", partly=True))


NICE = st.text(min_size=1, max_size=12).filter(
    lambda t: "\0" not in t and not any("\ud800" <= c <= "\udfff" for c in t)
)


@given(st.dictionaries(NICE, NICE, min_size=1, max_size=5))
def test_a_table_comes_back(tmp_path, labels):
    import csv

    path = Path(tmp_path / "t.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *labels.items()])
    assert dict(zip(*read_labels(path)[:2], strict=True)) == labels


# --- predictions of other trainers -----------------------------------------------------------------------------------
PAIRED = ["image,seed,variant,label,prediction", "a,0,none,x,x", "b,0,none,y,x", "a,0,se,x,x", "b,0,se,y,y"]
ODD = CELLS | NUMBERS.map(str) | st.sampled_from(["seed", "p_x", "nan", "none", "0", "-1", "1e400", "x"])


def paired(file: Path) -> Any:
    return value_or_sentence(lambda: pair_predictions([file], columns={}, task=None, group_by=None))


@given(st.data())
def test_predictions_with_any_change_are_paired_or_a_sentence(tmp_path, data):
    cells = [line.split(",") for line in PAIRED]
    for _ in range(data.draw(st.integers(1, 3))):
        row = data.draw(st.sampled_from(cells))
        row[data.draw(st.integers(0, len(row) - 1))] = data.draw(ODD)
    text = "\n".join(map(",".join, cells))
    (tmp_path / "p.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    found = paired(tmp_path / "p.csv")
    if found is not None:
        assert {len(run.ids) for runs in found.evaluations.values() for run in runs.values()} == {len(found.ids)}


@given(st.binary(max_size=200), st.sampled_from(["p.csv", "p.npz", "p.parquet", "p"]))
def test_any_file_is_predictions_or_a_sentence(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    paired(tmp_path / name)


@given(
    st.dictionaries(
        st.sampled_from(["image", "seed", "variant", "label", "prediction", "probs", "classes", "x"]),
        arrays(st.sampled_from(["f4", "i8", "U3", "?", "S2"]), array_shapes(min_dims=0, max_dims=3, max_side=3)),
    ),
    st.integers(0, 400),
    st.integers(0, 255),
)
def test_any_npz_is_predictions_or_a_sentence(tmp_path, found, place, byte):
    np.savez(tmp_path / "p.npz", **found)
    paired(tmp_path / "p.npz")
    content = bytearray((tmp_path / "p.npz").read_bytes())
    content[place % len(content)] = byte
    (tmp_path / "p.npz").write_bytes(content)
    paired(tmp_path / "p.npz")


EFFECT = {"data": "a", "mean": 0.1, "low": 0.0, "high": 0.2, "standard_error": 0.1, "seeds": 3, "outcome": "tie",
          "verdict": "no evidence", "weight": 0.5}  # fmt: skip
POOLED = {"mean": 0.1, "low": 0.0, "high": 0.2, "standard_error": 0.1, "degrees_of_freedom": 2, "p_value": 0.1,
          "between_sd": 0.1, "weights": [1.0], "confidence": 0.95, "prediction_low": -1.0, "prediction_high": 1.0,
          "p_adjusted": 0.1}  # fmt: skip
COMBINED = {
    "kind": "combined", "format": 1, "baseline": "none", "backbone": None, "recipe": None, "notes": ["x"],
    "metric": {"name": "top1", "label": "top-1", "unit": "points", "higher_is_better": True},
    "sets": [{"name": "a", "folder": "a", "fingerprint": "f", "seeds": 3, "test_images": 9, "groups": None}],
    "effects": [{"variant": "se", "role": "attention", "effects": [EFFECT], "wins": 0, "ties": 1, "losses": 0,
                 "verdict": "no evidence", "sentence": "x", "missing": [], "pooled": POOLED}],
}  # fmt: skip


@given(st.data())
def test_a_combination_with_any_change_is_a_page_or_a_sentence(tmp_path, data):
    (tmp_path / "combined.json").write_text(json.dumps(changed(COMBINED, data)))
    value_or_sentence(lambda: write_report(tmp_path))
