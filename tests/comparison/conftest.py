"""A comparison small enough for a test, with real components throughout."""

from __future__ import annotations

import pytest

from attngraft import load_data
from attngraft.comparison import compare
from attngraft.data import Dataset


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_data("cluttered-digits", image_size=16, limit=60)


@pytest.fixture(scope="session")
def settings() -> dict:
    return {
        "backbone": "small-cnn",
        "recipe": "one-cycle",
        "epochs": 1,
        "image_size": 16,
        "batch_size": 20,
        "precision": "fp32+contiguous",
        "device": "cpu",
    }


@pytest.fixture(scope="session")
def finished(tmp_path_factory, digits, settings):
    """One finished comparison that tests only read."""
    folder = tmp_path_factory.mktemp("finished")
    return compare(digits, attentions=["se", "none"], controls=["static"], seeds=2, run_dir=folder, **settings)
