"""The numbers of a bench as people read them, and how its rows group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .number_format import MISSING, points
from .page_parts import plain
from .read_folder import finite

OURS = "attngraft"
LIMIT = "traffic limit"
COMPETITORS = ("timm", "torch.compile", "reference")
NETWORKS = ("plain", OURS, "timm")
Row = Mapping[str, Any]


def significant(number: Any) -> str:
    """Three digits.

    >>> significant(12.345), significant(0.6), significant(1234.5), significant(None)
    ('12.3', '0.600', '1,234', 'n/a')
    """
    value = finite(number)
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def median(spread: Any, unit: str = "") -> str:
    """The middle of a spread.

    >>> median({"median": 2.5}, " ms"), median(None)
    ('2.50 ms', 'n/a')
    """
    return significant(spread["median"]) + unit if spread else MISSING


def middle(spread: Any) -> Any:
    """The median as a number; None where there is no spread.

    >>> middle({"median": 2.5}), middle(None)
    (2.5, None)
    """
    return spread["median"] if spread else None


def quartiles(spread: Any) -> str:
    """The lower and the upper quartile.

    >>> quartiles({"q1": 1, "q3": 2.25}), quartiles(None)
    ('1.00 to 2.25', '')
    """
    return f"{significant(spread['q1'])} to {significant(spread['q3'])}" if spread else ""


def times(number: Any) -> str:
    """A ratio.

    >>> times(3.456), times(0.0714), times(12.34), times(None)
    ('3.46x', '0.07x', '12.3x', 'n/a')
    """
    value = finite(number)
    return MISSING if value is None else f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}x"


def ratio(spread: Any) -> str:
    """A ratio with its quartiles.

    >>> ratio({"median": 1.5, "q1": 1.4, "q3": 1.62}), ratio(None)
    ('1.50x (1.40 to 1.62)', 'n/a')
    """
    if not spread:
        return MISSING
    low, high = (times(spread[key]).removesuffix("x") for key in ("q1", "q3"))
    return f"{times(spread['median'])} ({low} to {high})"


def mebibytes(number: Any) -> str:
    """Bytes in MiB.

    >>> mebibytes(3 * 2**20), mebibytes(None)
    ('3.00 MiB', 'n/a')
    """
    value = finite(number)
    return MISSING if value is None else f"{significant(value / 2**20)} MiB"


def extra(fraction: Any) -> str:
    """What is added, in percent.

    >>> extra(0.085), extra(None)
    ('+8.5 %', 'n/a')
    """
    text = points(fraction)
    return text if text == MISSING else f"{text} %"


def held(found: Row, what: str) -> str:
    """Memory of an entry, "peak" or "saved", and how much more that is than the plain network's.

    >>> held({"saved_bytes": 2**21, "extra_saved": 0.5}, "saved")
    '2.00 MiB (+50.0 %)'
    """
    size, added = found.get(f"{what}_bytes"), found.get(f"extra_{what}")
    text = mebibytes(size["median"] if isinstance(size, Mapping) else size)
    return text if added is None else f"{text} ({extra(added)})"


def feature_map(row: Row) -> str:
    """Channels, height and width of a feature map.

    >>> feature_map({"shape": [32, 64, 56, 56]})
    '64 x 56 x 56'
    """
    return " x ".join(f"{int(size)}" for size in row["shape"][1:])


def setting(row: Row) -> str:
    """Number format and memory layout.

    >>> setting({"dtype": "fp32", "layout": "channels_last"})
    'fp32 channels_last'
    """
    return f"{row['dtype']} {row['layout']}"


def batch(row: Row) -> str:
    """Images of a batch and their size.

    >>> batch({"batch_size": 32, "image_size": 224})
    '32 x 224 px'
    """
    return f"{plain(row['batch_size'])} x {plain(row['image_size'])} px"


def network(row: Row) -> str:
    """A backbone without the prefix that most of them have.

    >>> network({"backbone": "timm:resnet18"})
    'resnet18'
    """
    return str(row["backbone"]).removeprefix("timm:")


def competitors(rows: Iterable[Row]) -> tuple[str, ...]:
    """Those that were measured or tried."""
    found = {found["name"] for row in rows for found in row["entries"]}
    return tuple(name for name in COMPETITORS if name in found)


def entry(row: Row, name: str) -> Row:
    """One competitor of a row; empty where the row has none of that name."""
    return next((found for found in row["entries"] if found["name"] == name), {})


def grouped(rows: Iterable[Row], keys: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
    """Rows by the values of some keys, in the order in which they come."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    return groups


def rounds(rows: Iterable[Row], field: str) -> str:
    """How often everything was measured.

    >>> rounds([{"entries": [{"name": "timm", "time_ms": {"n": 15}}]}], "time_ms")
    'n = 15'
    """
    found = {int(e[field]["n"]) for row in rows for e in row["entries"] if e.get(field)}
    return f"n = {' or '.join(map(str, sorted(found)))}" if found else "n unknown"


def bench_notes(document: Row) -> list[str]:
    """What could not be measured and why, each reason once with where it holds."""
    places: dict[str, list[str]] = {}
    for part, words in (("modules", ("attention", "dtype", "layout")), ("models", ("backbone", "attention"))):
        for row in document[part]:
            _note(places, row, words, (str(row["direction"]),) if part == "modules" else ())
    for row in document["memory"]:
        _note(places, row, ("backbone", "attention"), ("memory",))
    return [f"{reason}: {_listed(found)}" for reason, found in places.items()]


def _note(places: dict[str, list[str]], row: Row, words: Sequence[str], more: Sequence[str]) -> None:
    for found in row["entries"]:
        if found.get("reason"):
            place = " ".join([*(str(row[word]) for word in words), *more])
            known = places.setdefault(f"{found['name']}: {found['reason']}", [])
            if place not in known:
                known.append(place)


def _listed(items: Sequence[str], most: int = 4) -> str:
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")
