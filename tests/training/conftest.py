"""One thread, and a few small things to train on."""

from __future__ import annotations

import pytest
import torch
from training_helpers import coloured_squares

from attngraft.data import Dataset


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Maps this small lose more to waking threads than they gain, and sums keep one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def squares() -> Dataset:
    """48 training and 24 test images of 16 x 16 pixels in 3 colours, easy to learn; no validation images."""
    return coloured_squares()


@pytest.fixture(scope="session")
def squares_with_val() -> Dataset:
    """The same with 12 validation images."""
    return coloured_squares(val=12)
