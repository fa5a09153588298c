"""Images of more than 8 bits: which values are black and white in a data set, and values brought to 8 or 16 bits by that."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..config import DEFAULT_DEPTH, Depth
from ..errors import ConfigError, counted

DepthOption: TypeAlias = "str | int | tuple[float, float] | Depth"
"""What `parse_depth` reads."""
Kind = Literal["integers", "floats"]
_ENDS: dict[Kind, tuple[float, ...]] = {
    "integers": (255, 1023, 4095, 16383, 65535),
    "floats": (1, 255, 1023, 4095, 16383, 65535),
}
_WIDEST: dict[Kind, float] = {"integers": 65535, "floats": 1}  # white, where nothing is chosen
_ENOUGH = 4  # a range that is filled to a quarter is taken whole
_FEW = 500  # one value in so many may be a hot or a dead pixel
_CRUSHED = 16  # outliers count as such where they would take all but a sixteenth of the range
_RANGE = re.compile(r"\s*([-+0-9.eE]+)\s*:\s*([-+0-9.eE]+)\s*")
_EXPECTED = "expected auto, bits from 1 to 16 such as 8 or 12, or LOW:HIGH such as 0:4095"


@dataclass(frozen=True)
class Levels:
    """The values of one image of more than 8 bits.

    Attributes:
        kind: of its values.
        low, high: the extreme values.
        bulk_low, bulk_high: these without outliers: few values, beyond a gap that is wider than all others together span.
        digest: of its values before they are scaled; empty where they are scaled as usual.
    """

    kind: Kind
    low: float
    high: float
    bulk_low: float
    bulk_high: float
    digest: str = ""


def parse_depth(depth: DepthOption | None) -> Depth | None:
    """What is chosen as black and white; None for "auto".

    >>> parse_depth("12"), parse_depth("-1024:3071").floats
    (Depth(integers=(0.0, 4095.0), floats=None), (-1024.0, 3071.0))

    Raises:
        ConfigError: something else than "auto", a number of bits, or a range.
    """
    if isinstance(depth, Depth):
        return depth
    is_pair = isinstance(depth, (tuple, list)) and len(depth) == 2
    text = f"{depth[0]}:{depth[1]}" if is_pair else str(depth).strip()  # type: ignore[index]
    if text in ("auto", "None"):
        return None
    if text.isdigit() and len(text) < 3 and 1 <= int(text) <= 16:
        return DEFAULT_DEPTH if int(text) == 16 else Depth(integers=(0.0, 2.0 ** int(text) - 1))
    found = _RANGE.fullmatch(text)
    try:
        low, high = map(float, found.groups()) if found else (math.nan, math.nan)
    except ValueError:
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf:
        raise ConfigError(f"depth is {depth!r}: {_EXPECTED}.")
    return Depth(integers=(low, high), floats=(low, high))


def levels_of(values: NDArray[Any], digest: str = "") -> Levels | None:
    """The levels of an image; None where it has no values, or some that are not finite."""
    flat = np.asarray(values).reshape(-1)
    kind: Kind = "floats" if flat.dtype.kind == "f" else "integers"
    if not flat.size or (kind == "floats" and not np.isfinite(flat).all()):
        return None
    few = min(max(4, flat.size // _FEW), flat.size // 50)
    parted = np.partition(flat, sorted({few, flat.size - 1 - few}))
    lowest, highest = (np.sort(end).astype(np.float64) for end in (parted[: few + 1], parted[flat.size - 1 - few :]))
    core = highest[0] - lowest[-1]
    low, high = -_within(-lowest[::-1], core), _within(highest, core)
    if not low < high:
        low, high = lowest[0], highest[-1]
    return Levels(kind, float(lowest[0]), float(highest[-1]), float(low), float(high), digest)


def _within(ascending: NDArray[np.float64], core: float) -> float:
    """The last value before the first gap that is wider than the core."""
    gaps = np.flatnonzero(np.diff(ascending) > max(core, 1e-12))
    return float(ascending[gaps[0]] if len(gaps) else ascending[-1])


def choose_depth(levels: Iterable[Levels]) -> tuple[Depth, tuple[str, ...]]:
    """Black and white for images with these levels, and sentences on them.

    The values of all images together count. Where they fill at least a quarter of what their highest value has bits for,
    these bits are the range, else it goes from the lowest to the highest.
    """
    found = list(levels)
    ranges, notes = {}, []
    for kind in _ENDS:
        those = [one for one in found if one.kind == kind]
        if those:
            ranges[kind], note = _range_of(kind, those)
            notes.append(note)
    return Depth(integers=ranges.get("integers"), floats=ranges.get("floats")), tuple(notes)


def _range_of(kind: Kind, levels: Sequence[Levels]) -> tuple[tuple[float, float] | None, str]:
    whole = min(one.low for one in levels), max(one.high for one in levels)
    low, high = min(one.bulk_low for one in levels), max(one.bulk_high for one in levels)
    outliers = low < high and (high - low) * _CRUSHED <= whole[1] - whole[0]
    low, high = (low, high) if outliers else whole
    end = next((end for end in _ENDS[kind] if high <= end), math.inf)
    chosen = (0.0, float(end)) if low >= 0 and (high - low) * _ENOUGH > end else (low, high)
    if low == high:
        chosen = (0.0, _WIDEST[kind]) if 0 <= low <= _WIDEST[kind] else (low - 1, high)
    words = "values" if kind == "integers" else "floats"
    said = (
        f"{counted(len(levels), 'image', 'have')} {words} of {whole[0]:,.6g} to {whole[1]:,.6g}: {chosen[0]:,.6g} becomes black and "
        f"{chosen[1]:,.6g} white{' (a few values beyond are taken for outliers)' if outliers and chosen != whole else ''}; "
        "--depth (depth=...) chooses another range."
    )
    return (None if chosen == (0.0, _WIDEST[kind]) else chosen), said


def scaled(values: NDArray[Any], limits: tuple[float, float], white: int, *, inverted: bool = False) -> NDArray[Any]:
    """Values as whole numbers from 0 for the first limit to `white` for the second; what is beyond is clipped."""
    if (values.dtype.kind, values.dtype.itemsize) == ("u", 2) and values.size > 1 << 16:
        table = scaled(np.arange(1 << 16).reshape(1, -1), limits, white, inverted=inverted)
        return np.take(table[0], values)
    made = np.empty(values.shape, dtype=np.uint8 if white <= 255 else np.uint16)
    for row, found in zip(values, made, strict=True):  # as copies of large images in double precision take memory
        whole = np.rint((row.astype(np.float64) - limits[0]) * (white / (limits[1] - limits[0]))).clip(0, white)
        found[...] = white - whole if inverted else whole
    return made


class DeepValues:
    """The values of one image of more than 8 bits: what they are, and what becomes of them.

    Args:
        depth: which of them are black and white.
    """

    def __init__(self, depth: Depth = DEFAULT_DEPTH) -> None:
        self.depth = depth
        self.levels: Levels | None = None

    def limits(self, values: NDArray[Any]) -> tuple[float, float] | None:
        """Black and white of these values; None for the usual."""
        return self.depth.floats if values.dtype.kind == "f" else self.depth.integers

    def note(self, values: NDArray[Any]) -> None:
        """Keep the levels of (H, W) or (H, W, C)."""
        is_usual = self.limits(values) is None
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        self.levels = levels_of(native, "" if is_usual else pixel_hash(np.atleast_3d(native)))

    @property
    def is_clipped(self) -> bool:
        """Whether some values lie beyond black and white that were chosen."""
        if self.levels is None:
            return False
        limits = self.depth.floats if self.levels.kind == "floats" else self.depth.integers
        return limits is not None and (self.levels.low < limits[0] or self.levels.high > limits[1])

    def grey(self, values: NDArray[Any], *, inverted: bool = False) -> NDArray[np.uint8]:
        """Values (H, W) as grey of 8 bits.

        Raises:
            ValueError: they have no meaning without a range, or are not finite.
        """
        self.note(values)
        limits, is_float = self.limits(values), values.dtype.kind == "f"
        if is_float and not np.isfinite(values).all():
            raise ValueError("it has float values that are not finite")
        if limits is not None:
            return scaled(values, limits, 255, inverted=inverted)
        self._check_usual(values)
        if is_float:
            return np.rint((1 - values if inverted else values) * 255).astype(np.uint8)
        whole = values.astype(np.uint32)
        return (((65535 - whole if inverted else whole) + 128) // 257).astype(np.uint8)

    def bands(self, values: NDArray[Any], *, inverted: bool = False) -> NDArray[Any]:
        """Values (H, W, C) as uint8, uint16 or float32, of which 255, 65535 and 1 are white; floats as they are where
        nothing else is chosen.

        Raises:
            ValueError: whole numbers of more than 16 bits without a range, or values that are not finite.
        """
        is_float, limits = values.dtype.kind == "f", self.limits(values)
        if is_float:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32)
            if not np.isfinite(values).all():
                raise ValueError("it has values that are not finite")
            if limits is None:
                return np.ascontiguousarray(1 - values if inverted else values)
            self.note(values)
            part = ((values - np.float32(limits[0])) / np.float32(limits[1] - limits[0])).clip(0, 1)
            return np.ascontiguousarray(1 - part if inverted else part)
        if values.dtype == np.uint8:
            return np.ascontiguousarray(255 - values if inverted else values)
        self.note(values)
        if limits is not None:
            return np.ascontiguousarray(scaled(values, limits, 255 if limits == (0, 255) else 65535, inverted=inverted))
        self._check_usual(values)
        if (values.dtype.kind, values.dtype.itemsize) != ("u", 2):
            raise ValueError(
                f"its values are {values.dtype}, expected uint8, uint16 or floats, or a range (--depth 0:255)"
            )
        whole = values.astype(np.uint16)
        return np.ascontiguousarray(65535 - whole if inverted else whole)

    def _check_usual(self, values: NDArray[Any]) -> None:
        """Raise ValueError for values beyond what is usually black and white."""
        is_float = values.dtype.kind == "f"
        low, high = (values.min(), values.max()) if values.size else (0, 0)
        if low < 0 or high > (1 if is_float else 65535):
            what = (
                f"its float values run from {low:g} to {high:g}" if is_float else f"its values run from {low} to {high}"
            )
            raise ValueError(f"{what}, expected 0 to {1 if is_float else 65535} (--depth {_bound(low)}:{_bound(high)})")


def _bound(value: Any) -> str:
    return f"{float(value):.6g}"


def pixel_hash(pixels: NDArray[Any]) -> str:
    """Hash of shape, type and bytes of an (H, W, C) image."""
    form = "x".join(map(str, pixels.shape)) + f" {pixels.dtype.name}"
    if pixels.shape[2:] == (3,) and pixels.dtype == np.uint8:  # at first there were no others
        form = f"{pixels.shape[0]}x{pixels.shape[1]}"
    digest = blake2b(f"{form}:".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
