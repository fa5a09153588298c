"""Frozen settings shared by several layers, to and from JSON, TOML and CLI options."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from .errors import ConfigError, counted, nearest
from .option_names import nearest_option

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its older name
    import tomli as tomllib

S = TypeVar("S")
MOST_SIDE = 1 << 14  # pixels of an input; what is read from a file may ask for any number
MOST_CHANNELS = 1 << 10
ADDED = {"added": True}  # metadata of fields that earlier formats lack: left out of files where they have their default

ImageSize = int | tuple[int, int]
"""The side of a square in pixels, or height and width."""
_SIZE = re.compile("[0-9]{1,9}(x[0-9]{1,9})+")
Resize = Literal["crop", "squash", "pad"]
RESIZES: tuple[str, ...] = typing.get_args(Resize)


def sides(image_size: ImageSize) -> tuple[int, int]:
    """Height and width."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


@dataclass(frozen=True)
class InputSpec:
    """Shape of one input of a model.

    Attributes:
        channels: 3 for RGB.
        size: height and width in pixels.
    """

    channels: int = 3
    size: tuple[int, int] = (224, 224)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return (self.channels, *self.size)

    def __str__(self) -> str:
        height, width = self.size
        return f"{height} x {width} pixels" + _beside_rgb(self.channels)


def _beside_rgb(channels: int) -> str:
    return "" if channels == 3 else f" and {counted(channels, 'channel')}"


@dataclass(frozen=True)
class Depth:
    """What is black and what is white in images of more than 8 bits.

    Attributes:
        integers: lowest and highest value of whole numbers; 0 and 65535 where None.
        floats: of floats; 0 and 1 where None.
    """

    integers: tuple[float, float] | None = None
    floats: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for a range without an extent."""
        for name, limits in (("integers", self.integers), ("floats", self.floats)):
            if limits is not None and not -math.inf < limits[0] < limits[1] < math.inf:
                raise ConfigError(f"the range of {name} is {limits}: expected a finite low and a higher high.")


DEFAULT_DEPTH = Depth()


@dataclass(frozen=True)
class Preprocessing:
    """How a backbone wants its images.

    Attributes:
        image_size: side of a square input in pixels, or height and width of another.
        mean: per-channel mean of the input, in units of a 0..1 image.
        std: per-channel standard deviation, same unit.
        interpolation: "bilinear" or "bicubic".
        crop_pct: part of the short side that the centre crop keeps at evaluation.
        channels: of the input.
        resize: how an image of another shape is brought to the input: "crop" cuts off what is too long, "squash" changes
            the aspect ratio, "pad" adds borders in the mean colour.
        stored_for: image size that images are shrunk for before anything else; `image_size` where None. It differs where a
            data set was loaded for larger inputs than it was used for.
        depth: black and white of images of more than 8 bits, as they were in the training images.
    """

    image_size: ImageSize = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    crop_pct: float = 0.875
    channels: int = field(default=3, metadata=ADDED)
    resize: Resize = field(default="crop", metadata=ADDED)
    stored_for: ImageSize | None = field(default=None, metadata=ADDED)
    depth: Depth = field(default=DEFAULT_DEPTH, metadata=ADDED)

    def __post_init__(self) -> None:
        """Raise ConfigError for what no image can be brought to."""
        height, width = self.size
        if height == width or not isinstance(self.image_size, tuple):
            object.__setattr__(self, "image_size", height if height == width else (height, width))
        if not all(1 <= side <= MOST_SIDE for side in self.size):
            raise ConfigError(f"image_size is {self.image_size}: expected 1 to {MOST_SIDE:,} pixels.")
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise ConfigError(f"channels is {self.channels}: expected 1 to {MOST_CHANNELS:,}.")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ConfigError(
                f"mean has {len(self.mean)} and std {len(self.std)} numbers: expected one for each of the "
                f"{self.channels} channels."
            )
        stored = (1,) if self.stored_for is None else sides(self.stored_for)
        if not all(1 <= side <= MOST_SIDE for side in stored):
            raise ConfigError(f"stored_for is {self.stored_for}: expected 1 to {MOST_SIDE:,} pixels.")
        if self.resize not in RESIZES:
            raise ConfigError(f"resize is {self.resize!r}: {nearest(str(self.resize), RESIZES)}")
        if not all(math.isfinite(value) for value in self.mean) or not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"mean is {self.mean} and std is {self.std}: expected finite numbers, and std above 0.")
        if not 0.05 <= self.crop_pct <= 1:
            raise ConfigError(f"crop_pct is {self.crop_pct}: expected 0.05 to 1.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return sides(self.image_size)

    @property
    def input(self) -> InputSpec:
        """Channels and size of the input."""
        return InputSpec(self.channels, self.size)

    @property
    def read_options(self) -> dict[str, Any]:
        """What the loaders of images are told, so that they store them as those of the training were."""
        return {"image_size": self.stored_for or self.image_size, "channels": self.channels, "depth": self.depth}

    def check_scale(self) -> Preprocessing:
        """The same; for what somebody says, as mean and deviation of pixels of 0 to 255 are said by mistake.

        Raises:
            ConfigError: a mean or deviation above 1.
        """
        if max(*self.mean, *self.std) > 1:
            mean, std = (", ".join(dict.fromkeys(f"{v:g}" for v in values)) for values in (self.mean, self.std))
            raise ConfigError(
                f"mean is {mean} and std is {std}: pixels are 0 to 1, so expected at most 1; divide those of pixels of 0 to 255 "
                "by 255."
            )
        return self

    def with_channels(self, channels: int) -> Preprocessing:
        """The same for inputs of another number of channels.

        Mean and standard deviation are repeated for further channels, as timm repeats the weights of the first
        convolution; for a single channel they are averaged.
        """
        if channels == self.channels:
            return self

        def spread(values: tuple[float, ...]) -> tuple[float, ...]:
            if channels == 1:
                return (sum(values) / len(values),)
            return tuple(values[i % len(values)] for i in range(channels))

        return dataclasses.replace(self, channels=channels, mean=spread(self.mean), std=spread(self.std))


def setting(default: S, description: str, *, flag: bool = False, metavar: str | None = None, added: bool = False) -> S:
    """Declare one field of a settings dataclass.

    Args:
        default: its default value.
        description: what it means, as `--help` shows it.
        flag: give it a command-line option of its own, `--some-field`; every field can be set with `--set`.
        metavar: placeholder of the value in `--help`; by default the type, or the choices of a Literal.
        added: leave it out of files where it has its default; see `ADDED`.
    """
    told = {"description": description, "flag": flag, "metavar": metavar}
    return dataclasses.field(default=default, metadata=told | (ADDED if added else {}))


def to_dict(settings: Any) -> dict[str, Any]:
    """A frozen dataclass as plain JSON values (tuples become lists), without added fields that have their default."""
    return json.loads(json.dumps(_plain(settings)))


def _plain(value: Any) -> Any:
    """The dataclasses in it as dictionaries."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {f.name.rstrip("_"): _plain(v) for f, v in fields if not ("added" in f.metadata and v == f.default)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def from_dict(kind: type[S], values: Mapping[str, Any], *, where: str = "settings") -> S:
    """Build a settings dataclass from plain values; unknown keys and wrong types are errors.

    A field whose name is a keyword of Python ends with an underscore, which its key does not have: `class_`.

    Raises:
        ConfigError: names the key and the nearest valid one, or the type that was expected.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}: expected a table of options.")
    hints = _hints(kind)  # type: ignore[arg-type]
    fields = {f.name.rstrip("_"): f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ConfigError(f"unknown option '{key}' in {where}: {nearest_option(key, fields)}")
    for key, entry in fields.items():
        if key not in values and entry.default is entry.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where} is incomplete: it has no '{key}'")
    converted = {
        fields[key].name: _convert(hints[fields[key].name], value, f"{where}.{key}") for key, value in values.items()
    }
    return kind(**converted)


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


def parse_named(text: str) -> tuple[str, dict[str, Any]]:
    """Take NAME[:option=value,...] apart; values are read as in `parse_assignment`.

    >>> parse_named("cluttered-digits:test=2000")
    ('cluttered-digits', {'test': 2000})

    Raises:
        ConfigError: an option without a value.
    """
    name, _, tail = text.strip().partition(":")
    return name, dict(parse_assignment(part) for part in tail.split(",")) if tail else {}


def parse_value(text: str) -> Any:
    """JSON where it parses as such (numbers, true, [..]), a size such as 256x128 as a list, else the text itself.

    >>> parse_value("0.5"), parse_value("256x128"), parse_value("cosine")
    (0.5, [256, 128], 'cosine')
    """
    if _SIZE.fullmatch(text):
        return [int(side) for side in text.split("x")]
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
        found = _convert_scalar(origin, value, where)
        if origin is Mapping and args[1] is not Any:
            return {key: _convert(args[1], item, f"{where}[{str(key)[:40]}]") for key, item in found.items()}
        return found
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
    if int in args and tuple[int, int] in args and isinstance(value, str):
        raise ConfigError(f"{where} is {value!r}: expected a whole number, or HEIGHTxWIDTH such as 256x128.")
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
