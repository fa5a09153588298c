"""Settings: from plain values and back, with errors that name the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngraft.config import InputSpec, Preprocessing, from_dict, parse_assignment, parse_value, read_toml, to_dict
from attngraft.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float
    name: str = "inner"


@dataclass(frozen=True)
class Everything:
    count: int
    rate: float = 0.5
    label: str = "x"
    flag: bool = True
    mode: Literal["fast", "slow"] = "fast"
    maybe: int | None = None
    either: float | Literal["auto"] = "auto"
    pair: tuple[int, float] = (1, 2.0)
    many: tuple[Inner, ...] = ()
    inner: Inner = field(default_factory=lambda: Inner(1.0))
    extra: Mapping[str, Any] = field(default_factory=dict)
    anything: Any = None


numbers = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, numbers, st.text())
plain = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4)
everythings = st.builds(
    Everything,
    count=st.integers(),
    rate=numbers,
    label=st.text(),
    flag=st.booleans(),
    mode=st.sampled_from(["fast", "slow"]),
    maybe=st.none() | st.integers(),
    either=numbers | st.just("auto"),
    pair=st.tuples(st.integers(), numbers),
    many=st.lists(inners, max_size=3).map(tuple),
    inner=inners,
    extra=st.dictionaries(st.text(), plain, max_size=3),
    anything=plain,
)


@given(everythings)
def test_settings_survive_plain_values_and_json(everything):
    values = to_dict(everything)
    assert from_dict(Everything, values) == everything
    assert from_dict(Everything, json.loads(json.dumps(values))) == everything


@given(st.recursive(st.none() | st.booleans() | st.integers() | numbers | st.text(), st.lists, max_leaves=5))
def test_any_value_anywhere_is_taken_or_is_a_config_error(value):
    for name in Everything.__dataclass_fields__:
        refusal, taken = "", None
        try:
            taken = from_dict(Everything, {"count": 1, name: value})
        except ConfigError as error:
            refusal = str(error)
        assert name in refusal if taken is None else from_dict(Everything, to_dict(taken)) == taken


def test_defaults_are_kept():
    assert from_dict(Everything, {"count": 3}) == Everything(3)
    assert from_dict(Preprocessing, {}) == Preprocessing()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": "3"}, r"settings\.count is '3': expected a whole number"),
        ({"count": 3.0}, r"settings\.count is 3\.0: expected a whole number"),
        ({"count": True}, r"settings\.count is True: expected a whole number"),
        ({"count": None}, r"settings\.count is None: expected a whole number"),
        ({"rate": "fast"}, r"settings\.rate is 'fast': expected a number"),
        ({"rate": True}, r"settings\.rate is True: expected a number"),
        ({"rate": 10**400}, r"settings\.rate is too large"),
        ({"label": 3}, r"settings\.label is 3: expected text"),
        ({"flag": 1}, r"settings\.flag is 1: expected true or false"),
        ({"mode": "fsat"}, r"settings\.mode is 'fsat': did you mean 'fast'"),
        ({"mode": ["fast"]}, r"settings\.mode is \['fast'\]"),
        ({"maybe": "x"}, r"settings\.maybe is 'x': expected a whole number"),
        ({"either": "never"}, r"settings\.either is 'never'"),
        ({"pair": [1]}, r"settings\.pair has 1 entries: expected 2"),
        ({"pair": 3}, r"settings\.pair is 3: expected a list"),
        ({"pair": "ab"}, r"settings\.pair is 'ab': expected a list"),
        ({"pair": ["a", 1]}, r"settings\.pair\[0\] is 'a': expected a whole number"),
        ({"many": [{"rate": 1}, {"rate": "x"}]}, r"settings\.many\[1\]\.rate is 'x': expected a number"),
        ({"many": [3]}, r"settings\.many\[0\] is 3: expected a table"),
        ({"inner": "rate"}, r"settings\.inner is 'rate': expected a table"),
        ({"inner": {}}, r"settings\.inner is incomplete"),
        ({"inner": {"rate": 1, "nmae": "x"}}, r"unknown option 'nmae' in settings\.inner: did you mean 'name'"),
        ({"extra": [1]}, r"settings\.extra is \[1\]: expected a table"),
        ({"coutn": 3}, r"unknown option 'coutn' in settings: did you mean 'count'"),
    ],
)
def test_a_wrong_value_names_its_key_and_what_was_expected(values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(Everything, {"count": 1, **values})


def test_what_is_missing_and_what_is_no_table_at_all():
    with pytest.raises(ConfigError, match=r"recipe is incomplete: .*count"):
        from_dict(Everything, {}, where="recipe")
    with pytest.raises(ConfigError, match=r"recipe is \[\]: expected a table"):
        from_dict(Everything, [], where="recipe")


def test_whole_numbers_become_numbers_where_a_number_is_wanted():
    taken = from_dict(Everything, {"count": 1, "rate": 2, "either": 3})
    assert isinstance(taken.rate, float)
    assert isinstance(taken.either, float)


def test_dataclasses_may_be_given_as_they_are():
    inner = Inner(2.0)
    assert from_dict(Everything, {"count": 1, "inner": inner}).inner is inner


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch_size=64", ("batch_size", 64)),
        ("batch-size=64", ("batch_size", 64)),
        (" lr = 1e-3 ", ("lr", 1e-3)),
        ("flag=true", ("flag", True)),
        ("maybe=null", ("maybe", None)),
        ("sizes=[1, 2]", ("sizes", [1, 2])),
        ("name=cbam", ("name", "cbam")),
        ("name=", ("name", "")),
        ('name="64"', ("name", "64")),
        ("url=http://x/?a=b", ("url", "http://x/?a=b")),
    ],
)
def test_assignments(text, expected):
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["", "64", "=64", "  =64"])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(ConfigError, match="expected key=value, for example batch_size=64"):
        parse_assignment(text)


@given(st.text())
def test_any_text_is_a_value(text):
    value = parse_value(text)
    assert value == text or value != value or json.loads(text) == value


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000])
def test_what_json_gives_up_on_stays_text(text):
    assert parse_value(text) == text


def test_toml_is_read(tmp_path):
    (tmp_path / "recipe.toml").write_text('name = "x"\n[[phases]]\nepochs = 3\n', encoding="utf-8")
    assert read_toml(tmp_path / "recipe.toml") == {"name": "x", "phases": [{"epochs": 3}]}
    assert read_toml(str(tmp_path / "recipe.toml"))["name"] == "x"


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe\x00", b"a = 1\na = 2"])
def test_what_is_not_toml_is_refused(tmp_path, content):
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml cannot be read as TOML"):
        read_toml(tmp_path / "bad.toml")


def test_a_missing_toml_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no file .*none\.toml: give the path of a TOML file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        read_toml(tmp_path)


def test_new_fields_with_their_defaults_do_not_change_what_is_written():
    assert set(to_dict(Preprocessing())) == {"image_size", "mean", "std", "interpolation", "crop_pct"}
    other = Preprocessing(image_size=(256, 128), mean=(0.5,), std=(0.2,), channels=1, resize="pad")
    assert to_dict(other)["image_size"] == [256, 128]
    assert from_dict(Preprocessing, to_dict(other)) == other


def test_a_square_is_one_number_however_it_is_given():
    assert Preprocessing(image_size=(64, 64)) == from_dict(Preprocessing, {"image_size": [64, 64]})
    assert to_dict(Preprocessing(image_size=(64, 64)))["image_size"] == 64


def test_the_input_of_a_preprocessing():
    spec = Preprocessing(image_size=(256, 128)).input
    assert (spec, spec.shape, str(spec)) == (InputSpec(3, (256, 128)), (3, 256, 128), "256 x 128 pixels")
    assert str(InputSpec(4, (8, 8))) == "8 x 8 pixels and 4 channels"


def test_mean_and_deviation_follow_the_channels():
    rgb = Preprocessing(mean=(0.2, 0.4, 0.9), std=(0.1, 0.2, 0.3))
    assert rgb.with_channels(3) is rgb
    assert rgb.with_channels(1).mean == pytest.approx((0.5,))
    assert rgb.with_channels(5).std == (0.1, 0.2, 0.3, 0.1, 0.2)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"image_size": (0, 8)}, "image_size is"),
        ({"channels": 0}, "channels is 0"),
        ({"channels": 4}, "one for each of the 4 channels"),
        ({"mean": (0.5,)}, "mean has 1 and std 3 numbers"),
        ({"resize": "stretch"}, "resize is 'stretch'"),
    ],
)
def test_an_input_that_no_image_can_be_brought_to(values, told):
    with pytest.raises(ConfigError, match=told):
        Preprocessing(**values)


def test_a_size_that_is_none_is_told_both_ways_of_writing_one():
    with pytest.raises(
        ConfigError, match="image_size is '32x': expected a whole number, or HEIGHTxWIDTH such as 256x128"
    ):
        from_dict(Preprocessing, {"image_size": parse_value("32x")})
