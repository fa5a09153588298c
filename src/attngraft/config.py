"""Frozen settings shared by several layers, and their way to and from JSON, TOML and CLI flags."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from .errors import ConfigError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its older name
    import tomli as tomllib

S = TypeVar("S")
MOST_SIDE = 1 << 14  # pixels of an input; what is read from a file may ask for any number


@dataclass(frozen=True)
class Preprocessing:
    """How a backbone wants its images.

    Attributes:
        image_size: side of the square input in pixels.
        mean: per-channel mean of the input, in units of a 0..1 image.
        std: per-channel standard deviation, same unit.
        interpolation: "bilinear" or "bicubic".
        crop_pct: part of the short side that the centre crop keeps at evaluation.
    """

    image_size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    crop_pct: float = 0.875

    def __post_init__(self) -> None:
        """Raise ConfigError for what no image can be brought to."""
        if not 1 <= self.image_size <= MOST_SIDE:
            raise ConfigError(f"image_size is {self.image_size}: expected 1 to {MOST_SIDE:,} pixels.")
        if not all(math.isfinite(value) for value in self.mean) or not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"mean is {self.mean} and std is {self.std}: expected finite numbers, and std above 0.")
        if not 0.05 <= self.crop_pct <= 1:
            raise ConfigError(f"crop_pct is {self.crop_pct}: expected 0.05 to 1.")


def setting(default: S, description: str, *, flag: bool = False, metavar: str | None = None) -> S:
    """Declare one field of a settings dataclass.

    Args:
        default: its default value.
        description: what it means, as `--help` shows it.
        flag: give it a command-line option of its own, `--some-field`; every field can be set with `--set`.
        metavar: placeholder of the value in `--help`; by default the type, or the choices of a Literal.
    """
    return dataclasses.field(default=default, metadata={"description": description, "flag": flag, "metavar": metavar})


def to_dict(settings: Any) -> dict[str, Any]:
    """A frozen dataclass as plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def from_dict(kind: type[S], values: Mapping[str, Any], *, where: str = "settings") -> S:
    """Build a settings dataclass from plain values; unknown keys and wrong types are errors.

    Raises:
        ConfigError: names the key and the nearest valid one, or the type that was expected.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}: expected a table of options.")
    hints = _hints(kind)  # type: ignore[arg-type]
    names = [f.name for f in dataclasses.fields(kind) if f.init]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise ConfigError(f"unknown option '{key}' in {where}: {nearest(key, names)}")
    converted = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    try:
        return kind(**converted)
    except TypeError as error:
        raise ConfigError(f"{where} is incomplete: {error}") from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: the file is missing or not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"no file {path}: give the path of a TOML file.") from None
    except (ValueError, RecursionError, OSError) as error:  # besides bad syntax: absurd numbers, absurd depth
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse a CLI flag ``key=value``; the value is JSON where it parses as such, else text.

    >>> parse_assignment("batch_size=64"), parse_assignment("name=x")
    (('batch_size', 64), ('name', 'x'))
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"got '{text}': expected key=value, for example batch_size=64.")
    return key.strip().replace("-", "_"), parse_value(value.strip())


def parse_value(text: str) -> Any:
    """JSON where it parses as such (numbers, true, [..]), else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check and convert one plain value to an annotated type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where} is {value!r}: {nearest(str(value), [str(a) for a in args])}")
        return value
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_dict(hint, value, where=where)
    if hint is Any:
        return value
    if origin is not None:
        return _convert_scalar(origin, value, where)
    return _convert_scalar(hint, value, where)


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    failures = []
    for option in args:
        if option is type(None):
            continue
        try:
            return _convert(option, value, where)
        except ConfigError as error:
            failures.append(error)
    raise failures[0]


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is {value!r}: expected a list.")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(args) != len(value):
        raise ConfigError(f"{where} has {len(value)} entries: expected {len(args)}.")
    return tuple(_convert(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(args, value, strict=True)))


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where} is too large: expected a number below 1.8e308.") from None
    if hint is int and isinstance(value, bool):
        raise ConfigError(f"{where} is {value!r}: expected a whole number.")
    if isinstance(hint, type) and not isinstance(value, hint):
        raise ConfigError(f"{where} is {value!r}: expected {_TYPE_WORDS.get(hint, hint.__name__)}.")
    return value


_TYPE_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Mapping: "a table"}
