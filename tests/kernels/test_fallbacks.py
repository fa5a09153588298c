"""Where the fast kernels cannot run, or are not wanted, the reference does: no error, one sentence in the log."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forking import in_a_fork
from fused_children import two_uses
from fused_helpers import (
    assert_near,
    awakened,
    feature_map,
    in_both_layouts,
    module_outcome,
    needs_numba,
    observed_passes,
    run_child,
)
from pairs import over

import attngraft
from attngraft import kernels
from attngraft.errors import ConfigError
from attngraft.kernels import dispatch, numba_backend

SAID = "Attention runs in plain PyTorch, which is slower: "
VARIABLE = "ATTNGRAFT_KERNELS"


@pytest.fixture(autouse=True)
def _undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def result_of(child: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(child.stdout)


def assert_reference_ran(child: subprocess.CompletedProcess[str], reason: str) -> None:
    """Exactly the numbers of the reference, and one line about why."""
    found = result_of(child)
    assert found["distance"] == 0
    assert reason in found["unavailable"]
    assert child.stderr.count(SAID) == 1
    assert reason in child.stderr


# --- no Numba ----------------------------------------------------------------------------------------------------


def test_without_numba_the_reference_runs_and_says_how_to_get_faster() -> None:
    assert_reference_ran(run_child("without", "numba"), "Numba is not installed")


@pytest.mark.slow
def test_with_a_numba_that_does_not_import_the_reference_runs(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text('raise ImportError("Numba needs NumPy 0.1 or less")')
    child = run_child("plain", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert_reference_ran(child, "Numba needs NumPy 0.1 or less")


@pytest.fixture
def unavailable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(numba_backend, "unavailable", lambda: "There is no processor.")
    dispatch._is_available.cache_clear()
    yield
    dispatch._is_available.cache_clear()


@pytest.mark.usefixtures("unavailable")
def test_the_log_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), observed_passes() as seen:
        for name in ("cbam", "se"):
            module, x = awakened(name), feature_map(2, 32, 5, 6)
            assert_near(module_outcome(module, x), module_outcome(module, x, "reference"), 0)
    assert not seen
    assert [record.getMessage() for record in caplog.records] == [SAID + "There is no processor."]
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.usefixtures("unavailable")
def test_a_compiled_graph_computes_all_the_same() -> None:
    module, x = awakened("se").eval(), feature_map(2, 32, 5, 6)
    with observed_passes() as seen:
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)(x)
    assert not seen
    assert_near([compiled.detach()], [module(x).detach()])
    torch.compiler.reset()


# --- the cache ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a process has kept what it compiled, from several threads at once."""
    folder = tmp_path_factory.mktemp("cache")
    first = in_a_fork(partial(two_uses, folder))
    assert (first["right"], first["unavailable"]) == (True, None)
    return folder


def kept(folder: Path) -> dict[Path, int]:
    """The files of a cache, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb*")}


@needs_numba
def test_the_second_process_reads_what_the_first_compiled(cache: Path) -> None:
    before = kept(cache)
    assert any("scale" in path.name for path in before)
    assert any("pool_lanes" in path.name for path in before)
    second = in_a_fork(partial(two_uses, cache))
    assert second == {"right": True, "unavailable": None, "cache_hits": [1, 1]}
    assert kept(cache) == before


@needs_numba
@pytest.mark.slow
def test_a_damaged_cache_does_no_harm(cache: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "cache"
    shutil.copytree(cache, damaged)
    for path in kept(damaged):
        if "scale" not in path.name:
            path.write_bytes(b"not what it was")
    assert in_a_fork(partial(two_uses, damaged))["right"]


@needs_numba
def test_where_no_cache_can_be_written_the_numbers_are_right_all_the_same(tmp_path: Path) -> None:
    package = tmp_path / "attngraft"
    shutil.copytree(Path(attngraft.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "kernels" / "__pycache__").touch()  # a file: not even root writes a folder here
    nowhere = {name: os.path.join(os.devnull, name) for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    options = {"PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(tmp_path)}
    paths = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])  # its helpers are not in the copy
    child = run_child("plain", PYTHONPATH=paths, **options, **nowhere)
    found = result_of(child)
    assert found["distance"] <= (1e-2 if found["unavailable"] is None else 0)
    assert child.stderr.count(SAID) == (found["unavailable"] is not None)


# --- on request --------------------------------------------------------------------------------------------------


@in_both_layouts
def test_the_environment_asks_for_the_reference(
    layout: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module, x = awakened("cbam"), feature_map(2, 32, 5, 6, layout=layout)
    expected = module_outcome(module, x, "reference")
    monkeypatch.setenv(VARIABLE, "reference")
    with caplog.at_level(logging.DEBUG), observed_passes() as seen:
        y = module(x.requires_grad_())
        y.sum().backward()
    assert not seen
    assert not caplog.records
    assert torch.equal(y, expected[0])


@needs_numba
def test_a_block_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    with kernels.using("auto"), observed_passes() as seen:
        kernels.channel_mean(feature_map(2, 3, 4, 5))
    assert seen
    monkeypatch.setenv(VARIABLE, "auto")
    with kernels.using("auto"), kernels.using("reference"), observed_passes() as seen:
        kernels.channel_mean(feature_map(2, 3, 4, 5))
    assert not seen


@needs_numba
@pytest.mark.parametrize("value", ["", "auto"])
def test_nothing_asked_for_means_fast(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with observed_passes() as seen:
        kernels.channel_mean(feature_map(2, 3, 4, 5))
    assert seen


def test_an_unknown_choice_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ConfigError, match="kernels: 'refrence' is not a choice of kernels; did you mean 'reference'"),
        kernels.using("refrence"),  # type: ignore[arg-type]
    ):
        pass
    monkeypatch.setenv(VARIABLE, "refrence")
    with pytest.raises(ConfigError, match="did you mean 'reference'") as caught:
        kernels.channel_mean(feature_map(2, 3, 4, 5))
    assert "\n" not in str(caught.value)


# --- the user's defaults -----------------------------------------------------------------------------------------


@pytest.fixture
def _default_dtype_is_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def _default_device_is_meta() -> Iterator[None]:
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@needs_numba
@in_both_layouts
@over(default=["_default_dtype_is_float64", "_default_device_is_meta"], name=["cbam", "srm", "coord", "gct"])
def test_defaults_of_pytorch_change_nothing(
    name: str, layout: str, default: str, request: pytest.FixtureRequest
) -> None:
    module, x = awakened(name), feature_map(2, 32, 5, 6, layout=layout)
    expected, usual = x.clone().requires_grad_(), module(x)
    module(expected).sum().backward()
    request.getfixturevalue(default)
    actual = x.clone().requires_grad_()
    y = module.train(module.training)(actual)
    y.sum().backward()
    assert y.device == x.device
    assert y.dtype == x.dtype
    assert_near([y.detach(), actual.grad], [usual.detach(), expected.grad])
