"""A step fails in one of two processes: no process goes on alone, and none waits for ever."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sealed import read_plain
from torch import nn
from training_helpers import PREPROCESSING, coloured_squares, run_fit, short_recipe

from attngraft.backbones import BackboneInfo, note_backbone_
from attngraft.errors import AttngraftError
from attngraft.training import FitResult, join_world
from attngraft.training.accumulation import Accumulator

Act = Callable[[Any, Any, Any], Any]


def plain_model() -> nn.Module:
    """Without BatchNorm, so that the result does not depend on how a batch is shared."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 3))
    return note_backbone_(nn.Sequential(*layers), BackboneInfo("plain", 3, PREPROCESSING))


def train(folder: Path, act: Act | None = None, **fields: Any) -> FitResult:
    """`act(batch, position, right)` may spoil the loss of a part of a step, or fail in it."""
    real, at = Accumulator._loss, []

    def accumulate(accumulator: Accumulator, batch: Any, position: Any, parts: int) -> Any:
        at[:] = [position]
        return real_accumulate(accumulator, batch, position, parts)

    def loss(accumulator: Accumulator, part: Any, *others: Any) -> Any:
        right, outputs = real(accumulator, part, *others)
        return right if act is None else act(part, at[0], right), outputs

    real_accumulate = Accumulator.accumulate
    Accumulator._loss, Accumulator.accumulate = loss, accumulate  # type: ignore[method-assign]
    try:
        return run_fit(plain_model(), coloured_squares(test=70), folder, recipe=short_recipe(2, **fields))
    finally:
        Accumulator._loss, Accumulator.accumulate = real, real_accumulate  # type: ignore[method-assign]


def two_forks(work: Callable[[], FitResult], folder: Path) -> list[dict[str, np.ndarray] | str]:
    """What two processes that train together end with: weights, or a sentence."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in (0, 1):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank))
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
                try:
                    found = {name: tensor.numpy() for name, tensor in work().model.state_dict().items()}
                    np.savez(folder / f"rank{rank}.npz", **found)
                except AttngraftError as error:
                    (folder / f"rank{rank}.txt").write_text(str(error))
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    return [ended(folder / f"rank{rank}") for rank in (0, 1)]


def ended(path: Path) -> dict[str, np.ndarray] | str:
    if path.with_suffix(".txt").exists():
        return path.with_suffix(".txt").read_text()
    with np.load(path.with_suffix(".npz")) as arrays:
        return dict(arrays)


def assert_like(alone: FitResult, together: list[dict[str, np.ndarray] | str]) -> None:
    first, second = together
    assert isinstance(first, dict), first
    assert isinstance(second, dict), second
    for name, tensor in alone.model.state_dict().items():
        assert np.array_equal(first[name], second[name]), name
        assert np.allclose(tensor.numpy(), first[name], atol=1e-5), name


def short_of_memory(part: Any, at: Any, right: Any) -> Any:
    """In the second process, at the third step."""
    if join_world().rank == 1 and at.global_step == 2:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return right


def short_in_the_backward_pass(part: Any, at: Any, right: Any) -> Any:
    def fail(gradient: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    if join_world().rank == 1 and at.global_step == 2:
        right.register_hook(fail)
    return right


@pytest.mark.parametrize("act", [short_of_memory, pytest.param(short_in_the_backward_pass, marks=pytest.mark.slow)])
def test_where_one_runs_out_of_memory_all_stop_and_it_says_what_to_do(tmp_path: Path, act: Act):
    first, second = two_forks(lambda: train(tmp_path / "together", act), tmp_path)
    assert first == (
        "another process of this training has ended: see its own message, and start the same command again."
    )
    assert second == (
        "memory does not suffice for 8 images at step 3 (epoch 1), and several processes do not split their shares: "
        "take a batch_size below 16, or more processes"
    )
    assert not list(tmp_path.glob("together/model.safetensors"))


def test_a_run_that_split_its_batches_goes_on_in_two_processes(tmp_path: Path):
    """Each computes its share whole."""

    def split_and_stop(part: Any, at: Any, right: Any) -> Any:
        if len(part.targets) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if at.global_step == 4:
            raise KeyboardInterrupt
        return right

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "together", split_and_stop)
    assert_like(train(tmp_path / "alone"), two_forks(lambda: train(tmp_path / "together"), tmp_path))


def not_a_number(part: Any, at: Any, right: Any) -> Any:
    """In the last process there is, at the fifth step, with the recipe's rates."""
    world = join_world()
    return right * float("nan") if world.rank == world.size - 1 and (at.global_step, at.lr_cut) == (4, 1.0) else right


def test_where_one_meets_what_is_no_number_both_go_back(tmp_path: Path):
    together = two_forks(lambda: train(tmp_path / "together", not_a_number, on_nonfinite="rollback"), tmp_path)
    alone = train(tmp_path / "alone", not_a_number, on_nonfinite="rollback")
    assert [row.get("lr_cut") for row in alone.history] == [None, 0.5]
    assert_like(alone, together)
    told = read_plain(tmp_path / "together" / "run.json")["events"]
    assert len(told) == 1
    assert "the loss is nan at step 5 (epoch 2)" in told[0]["text"]
