"""attngraft cache: what commands share is shown, and cleared."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from attngraft.cli import app
from attngraft.data.pixel_store import decode_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("attngraft.data.pixel_cache.SHARED_FROM", 1)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for seed, file in enumerate(files):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(file)
    for memory in (10**9, 0):
        decode_files(
            files[: 2 if memory else 3], limit=32, pixel_cap=10**6, cache_dir=tmp_path / "c", memory_bytes=memory
        )
    return tmp_path / "c"


def cache(*words):
    found = CliRunner().invoke(app, ["cache", *map(str, words)])
    assert found.exit_code == 0, found.output
    return " ".join(found.output.split())


def test_entries_are_shown_and_cleared(folder):
    shown = cache("--folder", folder)
    assert "shared copy" in shown
    assert "larger than memory" in shown
    entries = json.loads(cache("--folder", folder, "--json"))["entries"]
    assert sorted(entry["images"] for entry in entries) == [2, 3]
    assert "removed 2 sets of images" in cache("--folder", folder, "--clear")
    assert list(folder.iterdir()) == []
    assert "0 sets of images" in cache("--folder", folder)


def test_a_cache_that_was_never_used_is_empty(tmp_path):
    assert "0 sets of images" in cache("--folder", tmp_path / "none")
