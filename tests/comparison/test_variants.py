from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngraft.comparison import parse_variant, parse_variants, split_variants
from attngraft.errors import AttngraftError, ConfigError


def test_a_variant_has_name_place_and_options():
    variant = parse_variant("cbam@layer3.*+stage:reduction=8,order=parallel")
    assert (variant.attention, variant.where) == ("cbam", "layer3.*+stage")
    assert dict(variant.options) == {"reduction": 8, "order": "parallel"}
    assert variant.role == "attention"


def test_controls_know_that_they_are_controls():
    assert parse_variant("static").role == parse_variant("capacity@stage").role == "control"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cbma", "did you mean 'cbam'"),
        ("cbam:reductoin=8", "did you mean 'reduction'"),
        ("cbam@", "names no place"),
        ("cbam:reduction", "key=value"),
        ("none@stage", "takes no place"),
        ("", "unknown attention"),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_valid_name(text, hint):
    with pytest.raises(ConfigError, match=hint):
        parse_variant(text)


@given(st.text(max_size=40))
def test_no_text_breaks_the_parser(text):
    try:
        variant = parse_variant(text)
    except AttngraftError:
        return
    assert variant.slug


@given(
    st.lists(st.sampled_from(["cbam", "se@stage", "cbam:reduction=8,kernel_size=3", "eca:kernel_size=5"]), min_size=1)
)
def test_a_list_of_variants_is_split_where_it_was_joined(variants):
    assert split_variants(",".join(variants)) == variants


def test_the_baseline_comes_first_and_doubles_are_refused():
    variants = parse_variants(["se", "none"], ["static"])
    assert [v.name for v in variants] == ["none", "se", "none (other seeds)", "static"]
    assert len({v.slug for v in variants}) == 4
    with pytest.raises(ConfigError, match="named twice"):
        parse_variants(["se", "se"], [])
    with pytest.raises(ConfigError, match="nothing to compare"):
        parse_variants([], [])


@pytest.mark.parametrize(("name", "words"), [("foo", "known: capacity, larger, longer, static"), ("lager", "'larger'")])
def test_an_unknown_control_names_controls(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown control '{name}': .*{words}"):
        parse_variants(["cbam"], [name])
