"""The kernels use PyTorch's number of threads, give the same bits for any, and survive forks."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from fused_helpers import (
    arriving_at,
    awakened,
    feature_map,
    in_both_layouts,
    module_outcome,
    needs_numba,
    outcome,
    run_child,
    threads,
)
from torch import Tensor

from attngraft import kernels
from attngraft.kernels import numba_backend
from attngraft.kernels import threads as thread_start

pytestmark = needs_numba
can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="takes fork")


def everything(x: Tensor, channel: Tensor, spatial: Tensor) -> list[Tensor]:
    """Every primitive."""
    x = kernels.enter(x)
    return [
        *kernels.channel_pool(x),
        *kernels.channel_pool(x, spatial),
        *kernels.spatial_pool(x),
        *kernels.spatial_pool(x, channel),
        *kernels.channel_moments(x),
        kernels.channel_norm(x, 1e-5),
        *kernels.strip_pool(x),
        *kernels.strip_max(x),
        kernels.apply_gates(x, channel=channel, spatial=spatial),
    ]


def inputs(layout: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Large enough for several tasks and for sums that are split."""
    x = feature_map(2, 200, 13, 17, layout=layout, dtype=dtype)
    return x, feature_map(2, 200, seed=1), feature_map(2, 13, 17, seed=2)


@pytest.fixture(params=["openmp", "python"])
def starter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(thread_start, "_start_threads", lambda: thread_start._start_python_threads)
    elif thread_start._openmp() is None:
        pytest.skip("PyTorch was built without OpenMP")
    return request.param


@in_both_layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(starter: str, layout: str, dtype: torch.dtype) -> None:
    with threads(1):
        expected = outcome(everything, *inputs(layout, dtype))
    for count in (2, 3, 7):
        with threads(count):
            found = outcome(everything, *inputs(layout, dtype))
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_number_of_threads_is_pytorchs(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def start(address: int, arguments: int, threads: int) -> None:
        started.append(threads)
        thread_start._start_python_threads(address, arguments, threads)

    monkeypatch.setattr(thread_start, "_start_threads", lambda: start)
    with threads(count):
        kernels.channel_mean(feature_map(*(2, 200, 13, 17)))
    assert started == ([count] if count > 1 else [])


def test_several_threads_may_compute_at_once(starter: str) -> None:
    modules = [awakened(name) for name in ("cbam", "se", "srm", "coord", "gct", "light-cbam")]
    maps = [feature_map(2, 32, 9, 7, seed=seed) for seed in range(len(modules))]
    with threads(2), ThreadPoolExecutor(4) as pool:
        expected = [module_outcome(module, x) for module, x in zip(modules, maps, strict=True)]
        for _ in range(5):
            for found, wanted in zip(pool.map(module_outcome, modules, maps), expected, strict=True):
                assert all(map(torch.equal, found, wanted))


def test_several_threads_may_share_a_module_and_a_map() -> None:
    module, x = awakened("cbam").eval(), feature_map(2, 32, 9, 7).requires_grad_()

    def run(seed: int) -> tuple[Tensor, ...]:
        y = module(x)
        return torch.autograd.grad(y, [x, *module.parameters()], arriving_at(y, seed))

    expected = [run(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(run, [*range(4)] * 5), expected * 5, strict=True):
            assert all(map(torch.equal, found, wanted))


def test_threads_of_their_own_choice_do_not_leak() -> None:
    def reference_here(wait: threading.Barrier) -> bool:
        with kernels.using("reference"):
            wait.wait(20)
            y = kernels.channel_mean(feature_map(2, 3, 4, 5).requires_grad_())
            wait.wait(20)
            return "PoolUse" in type(y.grad_fn).__name__

    def automatic_here(wait: threading.Barrier) -> bool:
        wait.wait(20)
        y = kernels.channel_mean(feature_map(2, 3, 4, 5).requires_grad_())
        wait.wait(20)
        return "PoolUse" in type(y.grad_fn).__name__

    meeting = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        chosen = [pool.submit(function, meeting) for function in (reference_here, automatic_here)]
        assert [future.result() for future in chosen] == [False, True]


def test_compiled_kernels_do_not_wait_for_the_compiler() -> None:
    lock = pytest.importorskip("numba.core.compiler_lock").global_compiler_lock
    x, held, done = feature_map(2, 3, 4, 5), threading.Event(), threading.Event()
    expected = outcome(everything, x, torch.ones(2, 3), torch.ones(2, 4, 5))

    def hold() -> None:
        with lock:
            held.set()
            done.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20)
    started = time.monotonic()
    found = outcome(everything, x, torch.ones(2, 3), torch.ones(2, 4, 5))
    waited = time.monotonic() - started
    done.set()
    holder.join()
    assert waited < 15
    assert all(map(torch.equal, found, expected))


@pytest.fixture(scope="module")
def forks() -> dict[str, Any]:
    """How forked children ended."""
    return json.loads(run_child("forks", timeout_s=120).stdout)


@can_fork
@pytest.mark.parametrize("child", ["1 threads, 1 in the child", "2 threads, 1 in the child"])
def test_a_forked_child_with_one_thread_computes(forks: dict[str, Any], child: str) -> None:
    assert forks[child] == 0
    assert forks["parent"]


@can_fork
def test_a_forked_child_never_touches_its_parents_threads(forks: dict[str, Any]) -> None:
    assert forks["2 threads, 2 in the child"] == 0


@can_fork
def test_forked_workers_of_a_loader_compute(forks: dict[str, Any]) -> None:
    assert forks["loader"]


def test_every_loop_ends_where_there_are_more_threads_than_tasks(starter: str) -> None:
    x = feature_map(1, 1, 1, 1)
    with threads(8):
        assert torch.equal(kernels.channel_mean(x), x[..., 0, 0])
    assert numba_backend.unavailable() is None
