"""A few small things to train on."""

from __future__ import annotations

import pytest
from training_helpers import coloured_squares

from attngraft.data import Dataset


@pytest.fixture(scope="session")
def squares() -> Dataset:
    """48 training and 24 test images of 16 x 16 pixels in 3 colours, easy to learn; no validation images."""
    return coloured_squares()


@pytest.fixture(scope="session")
def squares_with_val() -> Dataset:
    """The same with 12 validation images."""
    return coloured_squares(val=12)
