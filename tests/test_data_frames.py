"""Results as data frames: a stand-in records what pandas is given, and pandas itself takes it where it is installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import attngraft as ag
from attngraft.comparison import Comparison
from attngraft.data_frames import data_frame
from attngraft.errors import ConfigError


@pytest.fixture
def pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))


def test_without_pandas_a_frame_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        data_frame([{"a": 1}])


@pytest.mark.usefixtures("pandas")
def test_predictions_and_effects_are_rows(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    found = ag.predict(ag.create_backbone("small-cnn", num_classes=3), tmp_path).to_frame(2)
    assert list(found[0]) == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    assert isinstance(found[0]["probability_1"], float)
    effects = [{"variant": "se", "mean": 0.1}]
    assert Comparison(tmp_path, {"effects": effects}).to_frame() == effects


@pytest.mark.usefixtures("pandas")
def test_a_fit_has_its_epochs_and_an_explanation_its_tables(tmp_path):
    rng = np.random.default_rng(0)
    data = [(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), number % 2) for number in range(12)]
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=2), "se")
    result = ag.fit(
        model, data, run_dir=tmp_path / "run", recipe="one-cycle", epochs=2, image_size=16, precision="fp32"
    )
    assert [row["epoch"] for row in result.to_frame()] == [row["epoch"] for row in result.history]
    found = ag.explain(result, ag.load_data(data, image_size=16).test, out=tmp_path / "e", examples=0)
    assert {"site", "part", "mean", "swing"} <= set(found.to_frame()[0])
    assert {"where", "change", "effect_mean"} <= set(found.to_frame("changes")[0])
    with pytest.raises(ConfigError, match="did you mean 'gates'"):
        found.to_frame("gate")


def test_pandas_makes_columns_of_numbers_and_words(tmp_path):
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    data = [(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), number % 2) for number in range(12)]
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=2), "se")
    result = ag.fit(model, data, run_dir=tmp_path / "r", recipe="one-cycle", epochs=2, image_size=16, precision="fp32")
    images = ag.load_data(data, image_size=16).test
    history, gates = result.to_frame(), ag.explain(result, images, out=tmp_path / "e", examples=0).to_frame()
    assert isinstance(history, pandas.DataFrame)
    assert history["epoch"].tolist() == [1, 2]
    assert history["train_loss"].dtype == float
    assert gates["swing"].dtype == float
    effects = Comparison(tmp_path, {"effects": [{"variant": "se", "mean": 0.1, "p_adjusted": None}]}).to_frame()
    assert effects.loc[0, "mean"] == 0.1
    assert pandas.isna(effects.loc[0, "p_adjusted"])
    predicted = ag.predict(result.model, images).to_frame(2)
    assert predicted["probability_1"].between(0.5, 1).all()
