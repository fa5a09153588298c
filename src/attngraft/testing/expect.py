"""Assertions of the contract checks."""

from __future__ import annotations

import numpy as np


def expect(holds: bool | np.bool_, sentence: str) -> None:
    """Raise AssertionError where a clause does not hold; unlike `assert` also under `python -O`."""
    if not holds:
        raise AssertionError(sentence)
