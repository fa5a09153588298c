"""A plan is a value: it prints, it survives JSON, and junk is refused in a sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attngraft as ag
from attngraft.errors import AttngraftError, ConfigError
from attngraft.surgery import GraftPlan, Site
from attngraft.surgery.sites import resolve_input
from attngraft.surgery.trace import trace

SITE = Site("block1.2", 32, 32, 32, "named")
PLAN = GraftPlan(
    "cbam", (SITE,), {"reduction": 8, "order": "spatial-channel"}, "paper", "pool+block*", (3, 32, 32), ("a note",)
)


def test_json_round_trip():
    assert GraftPlan.from_json(PLAN.to_json()) == PLAN
    assert json.loads(PLAN.to_json())["format"] == 1


def test_a_planned_plan_survives_json():
    model = ag.create_backbone("small-cnn")
    plan = ag.plan_graft(model, "cbam", where=["pool", "block1.0"], reduction=4)
    assert plan.where == "pool+block1.0"
    again = GraftPlan.from_json(plan.to_json())
    assert again == plan
    assert list(ag.grafts(ag.graft(model, again))) == [site.path for site in plan.sites]


def test_a_model_that_was_traced_already_is_not_traced_again(monkeypatch):
    model = ag.create_backbone("small-cnn")
    expected, record = ag.plan_graft(model, "se"), trace(model, resolve_input(model, None, None))
    monkeypatch.setattr("attngraft.surgery.sites.trace", None)
    assert ag.plan_graft(model, "se", record=record) == expected


texts = st.text(max_size=8)
sites = st.builds(Site, texts, st.integers(), st.integers(), st.integers(), texts)
plans = st.builds(
    GraftPlan,
    texts,
    st.lists(sites, max_size=3).map(tuple),
    st.dictionaries(texts, st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts, max_size=3),
    st.sampled_from(["identity", "paper"]),
    texts,
    st.tuples(st.integers(), st.integers(), st.integers()),
    st.lists(texts, max_size=2).map(tuple),
)


@given(plans)
def test_every_plan_survives_json(plan):
    assert GraftPlan.from_json(plan.to_json()) == plan
    assert plan.attention in str(plan)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
FIELDS = [field.name for field in dataclasses.fields(GraftPlan)]
SITE_FIELDS = [field.name for field in dataclasses.fields(Site)]
# near misses reach further into the reader than plain junk does
near_plans = st.fixed_dictionaries(
    {"attention": st.just("se") | junk, "sites": st.lists(st.dictionaries(st.sampled_from(SITE_FIELDS), junk)) | junk},
    optional={name: junk for name in ("format", *FIELDS) if name not in ("attention", "sites")},
)


@given(junk | near_plans)
def test_junk_is_refused_with_a_config_error_and_nothing_else(value):
    for text in (json.dumps(value), json.dumps({**json.loads(PLAN.to_json()), "options": value})):
        with contextlib.suppress(ConfigError):
            plan = GraftPlan.from_json(text)
            # whatever is accepted is a plan in every respect
            assert isinstance(str(plan), str)
            assert GraftPlan.from_json(plan.to_json()).sites == plan.sites


@given(st.text(max_size=40))
def test_any_text_is_a_plan_or_a_config_error(text):
    with pytest.raises(ConfigError):
        GraftPlan.from_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "this is not a plan in JSON"),
        ("[" * 100_000, "this is not a plan in JSON"),
        ('{"format": ' + "1" * 5000 + "}", "this is not a plan in JSON"),
        ("[]", "a plan is an object with 'attention' and 'sites': got list"),
        ("{}", "plan is incomplete"),
        (
            '{"format": 4, "attention": "se", "sites": []}',
            "the plan has format 4: this version reads formats 1 to 3, u",
        ),
        ('{"attention": "se", "sites": [3]}', r"plan\.sites\[0\] is 3: expected a table"),
        ('{"attention": "se", "sites": ["layer1"]}', r"plan\.sites\[0\] is 'layer1': expected a table"),
        ('{"attention": "se", "sites": [{"path": "a"}]}', r"plan\.sites\[0\] is incomplete"),
        ('{"attention": "se", "sites": [], "options": [1]}', r"plan\.options is \[1\]: expected a table"),
        ('{"attention": "se", "sites": [], "init": "papr"}', "did you mean 'paper'"),
        ('{"attention": "se", "sites": [], "input_size": [3, 32]}', "has 2 entries: expected 3"),
        ('{"attention": "se", "sites": [], "optoins": {}}', "unknown option 'optoins' in plan: did you mean 'options'"),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        GraftPlan.from_json(text)


def test_printing_shows_sites_options_and_notes():
    assert str(PLAN).splitlines() == [
        "cbam (paper, reduction=8, order=spatial-channel) at 1 site, where=pool+block*",
        "  block1.2: 32 x 32 x 32, named",
        "  note: a note",
    ]


def test_a_plan_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAN.attention = "se"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "sse"}, "unknown attention 'sse': did you mean"),
        ({"reductio": 4}, "unknown option 'reductio' for attention 'se': did you mean 'reduction'"),
        ({"reduction": 0}, "reduction is 0"),
        ({"channels": 64}, "unknown option 'channels' for attention 'se'"),
        ({"name": "x"}, "unknown option 'name' for attention 'se'"),
        ({"init": "papr"}, "init is 'papr': did you mean 'paper'"),
        ({"where": "blok1"}, "did you mean 'block1'"),
        ({"input_size": (1, 32, 32)}, "cannot process an input"),
    ],
)
def test_planning_checks_everything_first(options, message):
    model = ag.create_backbone("small-cnn")
    with pytest.raises(AttngraftError, match=message):
        ag.plan_graft(model, **{"attention": "se", **options})
    assert not any(module._forward_hooks for module in model.modules())


def test_the_backbones_own_image_size_is_the_default():
    assert ag.plan_graft(ag.create_backbone("small-cnn"), "se").input_size == (3, 32, 32)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("cbam@stage:reduction=8", {"where": "stage", "reduction": 8}),
        ("cbam:reduction=8,init=paper", {"init": "paper", "reduction": 8}),
        ("se@layer1.*", {"where": "layer1.*"}),
        (" eca ", {}),
    ],
)
def test_text_and_arguments_say_the_same(text, given):
    model = ag.create_backbone("torchvision:resnet18", pretrained=False)
    name = text.strip().partition("@")[0].partition(":")[0]
    assert ag.plan_graft(model, text, input_size=64) == ag.plan_graft(model, name, input_size=64, **given)
    assert list(ag.grafts(ag.graft(model, text, input_size=64)))


@pytest.mark.parametrize(
    ("text", "given", "words"),
    [
        ("cbam@stage", {"where": "pool"}, "says where, which is given as 'pool' too"),
        ("cbam:reduction=8", {"reduction": 4}, "says reduction, which is given as 4 too"),
        ("cbam@", {}, "names no place after '@'"),
        ("cbam:kernel=3", {}, "unknown option 'kernel' .* did you mean 'kernel_size'"),
        ("CBAM@stage", {}, "did you mean 'cbam'"),
    ],
)
def test_text_that_does_not_fit_is_refused(text, given, words):
    with pytest.raises(ConfigError, match=words):
        ag.plan_graft(ag.create_backbone("small-cnn"), text, **given)
