"""Format numbers with their units."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from .read_folder import finite

MISSING = "n/a"
MINUS = "\u2212"
POINTS = "points"  # the unit of metrics that are fractions


def percent(fraction: Any, decimals: int = 1) -> str:
    """A fraction in percent.

    >>> percent(0.8963), percent(None)
    ('89.6 %', 'n/a')
    """
    value = finite(fraction)
    return MISSING if value is None else f"{100 * value:.{decimals}f} %"


def points(fraction: Any, decimals: int = 1) -> str:
    """A difference of fractions in points, with a sign.

    >>> points(0.018), points(-0.0001), points(-0.02)
    ('+1.8', '0.0', '\u22122.0')
    """
    value = finite(fraction)
    if value is None:
        return MISSING
    text = f"{100 * value:+.{decimals}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")


def scale_of(unit: str) -> float:
    """What a value of a metric is multiplied with to be shown: fractions are shown in percent."""
    return 100.0 if unit == POINTS else 1.0


def format_value(value: Any, unit: str) -> str:
    """The value of a metric.

    >>> format_value(0.8963, "points"), format_value(3.14159, "px"), format_value(None, "px")
    ('89.6 %', '3.142 px', 'n/a')
    """
    number = finite(value)
    if unit == POINTS or number is None:
        return percent(number)
    return f"{number:.4g} {unit}".rstrip().replace("-", MINUS)


def format_difference(value: Any, unit: str, decimals: int = 1) -> str:
    """A difference of two values of a metric, with a sign and without the unit; `decimals` are those of points.

    >>> format_difference(0.018, "points"), format_difference(-0.25, "px")
    ('+1.8', '\u22120.25')
    """
    number = finite(value)
    if unit == POINTS or number is None:
        return points(number, decimals)
    return f"{number:+.3g}".replace("-", MINUS) if number else "0"


def format_effect(entry: Any, unit: str, decimals: int = 1) -> str:
    """The mean of a difference, with the decimals of its interval; `decimals` are those of points.

    >>> from types import SimpleNamespace as Entry
    >>> format_effect(Entry(mean=0.00041, low=-0.006, high=0.007), ""), format_effect(Entry(mean=-0.04, low=-1, high=1), "px")
    ('0.000', '0.0')
    >>> format_effect(Entry(mean=0.018, low=0.01, high=0.02), "points")
    '+1.8'
    """
    ends = [finite(end) for end in (entry.low, entry.high)]
    if unit == POINTS or finite(entry.mean) is None or None in ends or ends[0] == ends[1]:
        return format_difference(entry.mean, unit, decimals)
    shown = f"{entry.mean:+.{significant_decimals(entry.high - entry.low)}f}"
    return (shown.lstrip("+-") if float(shown) == 0 else shown).replace("-", MINUS)


def format_interval(entry: Any, unit: str) -> str:
    """The interval of a difference: an object with `low` and `high`.

    >>> from types import SimpleNamespace as Entry
    >>> format_interval(Entry(low=-0.009, high=0.017), "points"), format_interval(Entry(low=-0.5, high=0.25), "px")
    ('\u22120.9 to +1.7', '\u22120.50 to +0.25')
    """
    low, high = finite(entry.low), finite(entry.high)
    if low is None or high is None:
        return MISSING
    nearly_zero = any(0 < abs(end) < 0.0005 for end in (low, high))  # on which side of zero is the end?
    decimals = 2 if high - low < 0.01 or nearly_zero else 1
    if unit == POINTS:
        return f"{points(low, decimals)} to {points(high, decimals)}"
    decimals = significant_decimals(high - low)
    return f"{low:+.{decimals}f} to {high:+.{decimals}f}".replace("-", MINUS)


def mean_and_spread(values: Sequence[float], unit: str = POINTS) -> str:
    """Mean and standard deviation of a metric; one value has no spread.

    >>> mean_and_spread([0.9, 0.92]), mean_and_spread([0.9]), mean_and_spread([]), mean_and_spread([2.0, 3.0], "px")
    ('91.0 ± 1.4 %', '90.0 %', 'n/a', '2.50 ± 0.71 px')
    """
    if len(values) < 2:
        return format_value(values[0], unit) if values else MISSING
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    if unit == POINTS:
        return f"{100 * mean:.1f} ± {100 * deviation:.1f} %"
    decimals = significant_decimals(deviation)
    return f"{mean:.{decimals}f} ± {deviation:.{decimals}f} {unit}".rstrip().replace("-", MINUS)


def significant_decimals(spread: float) -> int:
    """How many decimals show two digits of a spread, such as a standard deviation or the width of an interval.

    >>> significant_decimals(0.026), significant_decimals(4.2), significant_decimals(120.0)
    (3, 1, 0)
    """
    return min(max(1 - math.floor(math.log10(spread)), 0), 12) if spread > 0 else 3


def words_for(unit: str, before: str = "", after: str = "") -> str:
    """The unit between two texts; nothing for a metric without unit."""
    return f"{before}{unit}{after}" if unit else ""


def axis_label(label: str, unit: str, *, difference: bool = False) -> str:
    """The label of an axis of values, or of differences, of a metric.

    >>> axis_label("top-1", "points"), axis_label("MAE", "px"), axis_label("R²", "")
    ('top-1 (%)', 'MAE (px)', 'R²')
    """
    return label + words_for("%" if unit == POINTS and not difference else unit, " (", ")")


def count(number: Any) -> str:
    """A count with k, M or G.

    >>> count(11_689_512), count(850), count(1.82e9), count(-20_000)
    ('11.7 M', '850', '1.82 G', '\u221220.0 k')
    """
    value = finite(number)
    if value is None:
        return MISSING
    for size, unit, decimals in ((1e9, " G", 2), (1e6, " M", 1), (1e3, " k", 1)):
        if abs(value) >= size:
            return f"{value / size:.{decimals}f}{unit}".replace("-", "\u2212")
    return f"{value:.0f}".replace("-", "\u2212")


def share(added: Any, base: Any) -> str:
    """What was added, relative to the base.

    >>> share(20, 1000), share(1, 0), share(0, 5)
    ('+2.0 %', 'n/a', '0.0 %')
    """
    extra, whole = finite(added), finite(base)
    if extra is None or whole is None or whole <= 0:
        return MISSING
    return f"{points(extra / whole)} %"


def duration(seconds: Any) -> str:
    """Seconds as seconds, minutes or hours.

    >>> duration(8.2), duration(130), duration(7320), duration(None)
    ('8.2 s', '2 min 10 s', '2 h 2 min', 'n/a')
    """
    value = finite(seconds)
    if value is None:
        return MISSING
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def decimal(number: Any, decimals: int = 3) -> str:
    """A plain number.

    >>> decimal(0.12345), decimal(float("inf"))
    ('0.123', 'n/a')
    """
    value = finite(number)
    return MISSING if value is None else f"{value:.{decimals}f}"


def significant(number: Any) -> str:
    """Three digits.

    >>> significant(12.345), significant(0.6), significant(1234.5), significant(None)
    ('12.3', '0.600', '1,234', 'n/a')
    """
    value = finite(number)
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def times(number: Any) -> str:
    """A ratio.

    >>> times(3.456), times(0.0714), times(12.34), times(None)
    ('3.46x', '0.07x', '12.3x', 'n/a')
    """
    value = finite(number)
    return MISSING if value is None else f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}x"


def titled(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def shortened(text: Any, most: int = 28) -> str:
    """One line of at most `most` characters, for labels in a chart.

    >>> shortened("ants"), shortened("a very long class name of somebody", 12), shortened("two\\nlines")
    ('ants', 'a very long…', 'two lines')
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= most else line[: most - 1] + "…"
