"""One table for everything that is chosen by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngraft.errors import AttngraftError, ConfigError, nearest
from attngraft.registry import Registry


@pytest.fixture
def fruits():
    registry = Registry[int]("fruit")
    registry.register("pear", 2)
    registry.register("apple", 1)
    return registry


def test_entries_come_back_in_the_order_of_registration(fruits):
    assert list(fruits) == ["pear", "apple"]
    assert dict(fruits) == {"pear": 2, "apple": 1}
    assert len(fruits) == 2
    assert fruits["apple"] == 1


def test_registering_returns_the_entry(fruits):
    assert fruits.register("plum", 3) == 3


def test_a_name_is_registered_once(fruits):
    with pytest.raises(ConfigError, match="fruit 'apple' is registered already: choose another name"):
        fruits.register("apple", 9)
    assert fruits["apple"] == 1


def test_an_unknown_name_says_the_nearest(fruits):
    with pytest.raises(ConfigError, match="unknown fruit 'aple': did you mean 'apple'"):
        fruits["aple"]
    with pytest.raises(ConfigError, match="unknown fruit 'xyz': known: apple, pear"):
        fruits["xyz"]
    with pytest.raises(ConfigError, match="unknown fruit '3'"):
        fruits[3]


def test_asking_whether_a_name_is_known_never_raises(fruits):
    assert "apple" in fruits
    assert "aple" not in fruits
    assert 3 not in fruits


def test_entries_cannot_be_replaced_or_removed(fruits):
    with pytest.raises(TypeError):
        fruits["apple"] = 5
    with pytest.raises(TypeError):
        del fruits["apple"]


def test_an_empty_registry_says_so():
    with pytest.raises(ConfigError, match="unknown fruit 'apple': none are known"):
        Registry[int]("fruit")["apple"]


def test_long_lists_of_names_are_cut():
    message = nearest("zzzz", [f"name{i:03}" for i in range(100)])
    assert message.startswith("known: name000, ")
    assert message.endswith("name029, ...")


@given(st.text(), st.lists(st.text()))
def test_the_hint_is_a_clause_for_any_names(name, options):
    hint = nearest(name, options)
    assert hint.startswith(("did you mean '", "known: ", "none are known"))


def test_every_error_of_the_library_is_of_one_kind():
    import attngraft.errors as errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert AttngraftError in kinds
    assert len(kinds) > 5
    assert all(issubclass(kind, AttngraftError) and kind.__doc__ for kind in kinds)
