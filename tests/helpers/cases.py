"""Parameters of a test of which most runs need only a few."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def few_of(cases: Iterable[Any], kept: Container[Any]) -> list[Any]:
    """All cases; those that are not kept are marked as slow."""
    return [case if case in kept else slow(*(case if isinstance(case, tuple) else (case,))) for case in cases]


def slow(*values: Any) -> Any:
    """A case of the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)
