"""Results as data frames, where pandas is installed; attngraft itself does not need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import ConfigError


def data_frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    """A pandas.DataFrame with a row for each mapping.

    Raises:
        ConfigError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ConfigError("to_frame needs pandas, which is not installed: pip install pandas.") from None
    return pandas.DataFrame([dict(row) for row in rows])


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without tables inside: their cells get joined names.

    >>> flat({"site": "layer1", "effect": {"mean": 0.1, "low": 0.0}})
    {'site': 'layer1', 'effect_mean': 0.1, 'effect_low': 0.0}
    """
    found: dict[str, Any] = {}
    for key, value in row.items():
        inner = flat(value) if isinstance(value, Mapping) else None
        found |= {key: value} if inner is None else {f"{key}_{name}": cell for name, cell in inner.items()}
    return found
