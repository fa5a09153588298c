"""A plan in which some sites differ: written in a format of its own, while other plans are written as ever."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from grafting_helpers import image_batch, stir_grafts_
from hypothesis import given
from hypothesis import strategies as st

import attngraft as ag
from attngraft.errors import ConfigError, GraftError, RunError
from attngraft.surgery import GraftPlan, Override, check_live, graft_plan

SIZE = (3, 32, 32)


def planned(**overrides):
    plan = ag.plan_graft(ag.create_backbone("small-cnn"), "cbam", where="pool", reduction=8, init="paper")
    return replace(plan, overrides={path.replace("_", "."): value for path, value in overrides.items()})


MIXED = {"block1_2": Override("static"), "block3_2": Override("cbam-spatial", {"kernel_size": 3})}


def test_a_plan_without_overrides_is_written_as_before():
    plan = planned()
    written = json.loads(plan.to_json())
    assert written["format"] == 1
    assert "overrides" not in written
    assert "overrides" not in plan.to_dict()
    expected = asdict(plan)
    del expected["overrides"]
    for site in expected["sites"]:
        del site["channels_last"]
    assert plan.to_dict() == json.loads(json.dumps(expected))


def test_a_plan_with_overrides_is_readable_and_comes_back():
    plan = planned(**MIXED)
    written = json.loads(plan.to_json())
    assert written["format"] == 2
    assert written["overrides"]["block3.2"] == {"attention": "cbam-spatial", "options": {"kernel_size": 3}}
    assert GraftPlan.from_json(plan.to_json()) == plan
    assert "block1.2: 32 x 32 x 32, last output before a pooling, static here" in str(plan)
    assert str(plan).count(" here") == 2


names = st.text(max_size=6)
options = st.dictionaries(names, st.none() | st.booleans() | st.integers() | names, max_size=2)


@given(st.dictionaries(names, st.builds(Override, names, options), max_size=3))
def test_all_overrides_survive_json(overrides):
    plan = replace(planned_once, overrides=overrides)
    assert GraftPlan.from_json(plan.to_json()) == plan


planned_once = planned()


def test_each_site_gets_its_own_attention():
    plan = planned(**MIXED)
    model = ag.graft(ag.create_backbone("small-cnn"), plan)
    kinds = {path: type(attention).__name__ for path, attention in ag.grafts(model).items()}
    assert kinds == {"block1.2": "Static", "block2.2": "CBAM", "block3.2": "CBAMSpatial"}
    assert ag.grafts(model)["block3.2"].logits.conv.kernel_size == (3, 3)
    assert {attention.init for attention in ag.grafts(model).values()} == {"paper"}
    assert plan.at("block2.2") == Override("cbam", {"reduction": 8})
    check_live(model)


def test_a_model_with_overrides_is_saved_and_loaded(tmp_path):
    model = stir_grafts_(ag.graft(ag.create_backbone("small-cnn"), planned(**MIXED))).eval()
    loaded = ag.load(ag.save(model, tmp_path))
    assert graft_plan(loaded) == graft_plan(model)
    with torch.no_grad():
        assert torch.equal(loaded(image_batch(2, *SIZE)), model(image_batch(2, *SIZE)))


def test_an_override_with_an_unknown_attention_is_refused_on_loading(tmp_path):
    model = ag.graft(ag.create_backbone("small-cnn"), planned(**MIXED))
    object.__setattr__(graft_plan(model), "overrides", {"block1.2": Override("statik")})
    ag.save(model, tmp_path)
    with pytest.raises(RunError, match="unknown attention 'statik': did you mean 'static'"):
        ag.load(tmp_path)


def test_an_override_elsewhere_is_refused_and_the_model_stays_as_it_was():
    model = ag.create_backbone("small-cnn")
    with pytest.raises(GraftError, match=r"override for 'block1\.9', which is none of its sites: did you mean"):
        ag.graft(model, planned(block1_9=Override("se")))
    with pytest.raises(ConfigError, match="unknown option 'reductio' for attention 'se'"):
        ag.graft_(model, planned(block1_2=Override("se", {"reductio": 4})))
    assert ag.grafts(model) == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([1], r"plan\.overrides is \[1\]: expected a table of sites"),
        ({"a": 3}, r"plan\.overrides\[a\] is 3: expected a table"),
        ({"a": {}}, r"plan\.overrides\[a\] is incomplete"),
        ({"a": {"attention": 3}}, r"plan\.overrides\[a\]\.attention is 3: expected text"),
        ({"a": {"attention": "se", "options": 3}}, r"options is 3: expected a table"),
        ({"a": {"attention": "se", "init": "paper"}}, "unknown option 'init'"),
    ],
)
def test_what_is_wrong_with_an_override_is_named(overrides, message):
    values = {"format": 2, "attention": "se", "sites": [], "overrides": overrides}
    with pytest.raises(ConfigError, match=message):
        GraftPlan.from_json(json.dumps(values))
