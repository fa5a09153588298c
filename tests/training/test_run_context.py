"""How many images a step takes, for any number of images and processes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_helpers import classes_run_context, coloured_squares

from attngraft.errors import ConfigError, DataError
from attngraft.settings import DataSettings, MachineSettings, Phase, Recipe, Settings
from attngraft.training import World
from attngraft.training.run_context import RunContext

DATA = coloured_squares(train=200)


def context_of(batch_size: int, images: int, processes: int) -> RunContext:
    settings = Settings(Recipe("r", (Phase("all"),), batch_size=batch_size), DataSettings(), MachineSettings())
    data = replace(DATA, train=DATA.train.select(range(images)))
    return classes_run_context(data, settings=settings, world=World(0, processes))


@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 190))
def test_the_batch_is_shared_evenly_and_never_larger_than_the_data(processes: int, share: int, more: int) -> None:
    images = processes + more
    found = context_of(processes * share, images, processes).batch_size
    assert found % processes == 0
    assert processes <= found <= min(images, processes * share)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is 33 for 2 processes: take a multiple of 2"):
        _ = context_of(33, 100, 2).batch_size


def test_fewer_images_than_processes_are_refused() -> None:
    with pytest.raises(DataError, match="2 training images for 3 processes"):
        _ = context_of(9, 2, 3).batch_size
