from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from training_helpers import AtStep, coloured_squares, run_fit, short_recipe, small_model

from attngraft.errors import RunError
from attngraft.training.disk_space import check_space, kept_bytes, working_bytes


def limited(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    limited(monkeypatch, 1_000_000)
    with pytest.raises(RunError, match=r"needs 1\.\d MB and has 1\.0 MB of free space"):
        run_fit(small_model(), coloured_squares(), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fields", [{}, {"optimizer": "adamw", "ema_decay": 0.5, "select": "best"}])
def test_what_is_said_to_be_needed_covers_what_is_used(tmp_path: Path, fields: dict):
    model, data, recipe, most = small_model(width=32), coloured_squares(val=12), short_recipe(2, **fields), 0

    def look() -> None:
        nonlocal most
        most = max(most, sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))

    for step in (2, 4, 6):
        run_fit(model, data, tmp_path / str(step), recipe=recipe, checkpoint_minutes=0.0, progress=AtStep(step, look))
        shutil.rmtree(tmp_path / str(step))
    needed = kept_bytes(model, data) + working_bytes(model, recipe)
    assert 0.3 * needed < most + 2**20 < needed  # of which one more checkpoint and a margin of a megabyte


def test_a_folder_that_does_not_exist_yet_and_files_that_will_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    limited(monkeypatch, 1000)
    check_space(tmp_path / "a" / "b", 1000)
    with pytest.raises(RunError):
        check_space(tmp_path / "a" / "b", 1001)
    (tmp_path / "old.safetensors").write_bytes(b"x" * 500)
    check_space(tmp_path, 1500)
