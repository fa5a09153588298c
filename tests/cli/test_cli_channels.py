"""Images of twelve channels in a rectangle, from a folder to predictions, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from attngraft.cli import app


def called(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_model_of_twelve_channels_is_trained_and_used(tmp_path: Path):
    rng = np.random.default_rng(0)
    for number in range(24):
        place = tmp_path / "scenes" / ("fields" if number % 2 else "lakes")
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{number}.npy", (rng.random((20, 30, 12)) * 30000 + 30000 * (number % 2)).astype(np.uint16))
    run = tmp_path / "run"
    options = ["--channels", 12, "--image-size", "16x24", "--resize", "pad", "--epochs", 1, "--batch-size", 8]
    fixed = ["--recipe", "scratch", "--device", "cpu", "--precision", "fp32", "--attention", "se", "--json"]
    said = called("fit", tmp_path / "scenes", "--backbone", "small-cnn", "--out", run, *options, *fixed)
    assert said["preprocessing"]["image_size"] == [16, 24]
    assert (said["preprocessing"]["channels"], said["preprocessing"]["resize"]) == (12, "pad")
    assert len(called("predict", run, tmp_path / "scenes" / "lakes", "--output", "json")) == 12


def test_images_that_do_not_fit_the_model_are_said_in_one_sentence(tmp_path: Path):
    result = CliRunner().invoke(
        app,
        [
            "fit",
            "cluttered-digits",
            "--backbone",
            "small-cnn",
            "--channels",
            "4",
            "--limit",
            "20",
            "--out",
            str(tmp_path / "r"),
        ],
    )
    assert result.exit_code != 0
    assert "are RGB or grey: expected 3 or 1 channels instead of 4" in result.output.replace("\n", " ")
