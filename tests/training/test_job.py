"""How many images a step takes, for any number of images and processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngraft.errors import ConfigError, DataError
from attngraft.training import Phase, Recipe, World
from attngraft.training.run_context import batch_size


def recipe_of(images: int) -> Recipe:
    return Recipe("r", (Phase("all"),), batch_size=images)


@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 200))
def test_the_batch_is_shared_evenly_and_never_larger_than_the_data(processes: int, share: int, more: int):
    images = processes + more
    found = batch_size(recipe_of(processes * share), images, World(0, processes))
    assert found % processes == 0
    assert processes <= found <= min(images, processes * share)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ConfigError, match="batch_size is 33 for 2 processes: take a multiple of 2"):
        batch_size(recipe_of(33), 100, World(0, 2))


def test_more_processes_than_images_are_refused():
    with pytest.raises(DataError, match="3 training images for 4 processes"):
        batch_size(recipe_of(32), 3, World(0, 4))
