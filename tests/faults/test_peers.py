"""One of two processes that train together dies, hangs or fails: the other ends soon and says why."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from signal_children import LONG_S, Announcer, Child, before, evaluation, replaced
from torch import nn
from training_helpers import PREPROCESSING, coloured_squares, metrics, run_fit, short_recipe

from attngraft import interrupts
from attngraft.backbones import BackboneInfo, note_backbone_
from attngraft.training import connections, join_world, peers
from attngraft.training.checkpoint import read_newest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="what the system knows of processes")
RECIPE = short_recipe(4, ema_decay=0.5)  # 12 steps, 3 per epoch
LIMIT_S = 60.0
Prepare = Callable[[int, nn.Module, Announcer], object]


def network() -> nn.Module:
    """Without BatchNorm and dropout, so that the result does not depend on how a batch is shared."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 3))
    return note_backbone_(nn.Sequential(*layers), BackboneInfo("plain", 3, PREPROCESSING))


def train(folder: Path, model: nn.Module | None = None) -> None:
    run_fit(model or network(), coloured_squares(test=130), folder, recipe=RECIPE, image_size=16)


def nothing(rank: int, model: nn.Module, announce: Announcer) -> None:
    """Train as ever."""


def in_step(stays: int, step: int = 5) -> Prepare:
    """One process stays in a step, which it announces."""

    def prepare(rank: int, model: nn.Module, announce: Announcer) -> None:
        if rank == stays:
            announce.at = step
            model.register_forward_hook(lambda module, images, logits: announce() if module.training else None)

    return prepare


@contextmanager
def pair(folder: Path, prepare: Prepare = nothing, *, stay_s: float = LONG_S) -> Iterator[list[Child]]:
    """Two processes that train together; if one is to announce something, it has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    reader, writer = os.pipe()

    def work(rank: int) -> Callable[[], None]:
        def run() -> None:
            os.close(reader)
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
            if stay_s == LONG_S:
                interrupts.PATIENCE_S = 0.5
            model = network()
            prepare(rank, model, Announcer(writer, stay_s))
            signal.signal(signal.SIGTERM, lambda number, frame: None)  # outside of `fit`, as on the command line
            train(folder, model)

        return run

    children = [Child(work(rank), folder.with_name(f"{folder.name}-rank{rank}.errors")) for rank in (0, 1)]
    os.close(writer)
    try:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            if prepare is not nothing and pipe.read(1) != b"!":
                raise AssertionError(f"never announced: {[child.said for child in children]}")
            yield children
    finally:
        for child in children:
            child.kill()


def finish_together(folder: Path) -> None:
    with pair(folder) as children:
        for child in children:
            assert child.ends_within(LIMIT_S)
            assert child.status == 0, child.said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder / "alone")  # what forks need is imported then
    finish_together(folder / "run")
    return folder / "run"


def assert_goes_on(folder: Path, whole: Path) -> None:
    """With two processes to the same bits, with one to the same result."""
    alone = folder.with_name("alone")
    shutil.copytree(folder, alone)
    finish_together(folder)
    assert metrics(folder) == metrics(whole)
    for name in ("model.safetensors", "predictions.safetensors"):
        found, expected = load_file(folder / name), load_file(whole / name)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in expected), name
    train(alone)
    found, expected = load_file(alone / "model.safetensors"), load_file(whole / "model.safetensors")
    for key in expected:
        assert np.allclose(found[key], expected[key], atol=1e-5), key
    for one, other in zip(metrics(alone), metrics(whole), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)


def newest_step(folder: Path) -> int | None:
    found = read_newest(folder / "checkpoints")
    return None if found is None else found.position.global_step


@pytest.mark.parametrize(("dies", "kept"), [(0, 3), (1, 4)])
@pytest.mark.parametrize("is_terminated_too", [False, True], ids=["alone", "torchrun ends it too"])
def test_a_process_is_killed(tmp_path: Path, whole: Path, dies: int, kept: int, is_terminated_too: bool):
    """The main process saves what it has; without it, the newest checkpoint counts."""
    folder = tmp_path / "run"
    with pair(folder, in_step(dies)) as children:
        survivor = children[1 - dies]
        os.kill(children[dies].pid, signal.SIGKILL)
        if is_terminated_too:
            assert children[dies].ends_within(LIMIT_S)
            os.kill(survivor.pid, signal.SIGTERM)
        assert survivor.ends_within(LIMIT_S)
    assert survivor.said == (
        f"PeerError: the process of rank {dies} (of 2) has ended; everything up to step {kept} is saved: "
        "start the same command again."
    )
    assert survivor.status == 2
    assert newest_step(folder) == kept
    if is_terminated_too:
        return
    assert_goes_on(folder, whole)


def test_the_other_is_told_while_it_computes_on_alone(tmp_path: Path, whole: Path):
    """In a batch of an evaluation that would last for minutes."""

    def prepare(rank: int, model: nn.Module, announce: Announcer) -> None:
        if rank == 0:
            replaced(evaluation, "_predict", before(announce))

    folder = tmp_path / "run"
    with pair(folder, prepare) as (main, other):
        os.kill(other.pid, signal.SIGKILL)
        assert main.ends_within(LIMIT_S)
        assert main.status == 2
        assert "rank 1 (of 2) has ended; everything up to step 3 is saved" in main.said
    assert_goes_on(folder, whole)


def halt_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, ticks in (("HALTED_TICKS", 2), ("SILENT_TICKS", 4)):
        monkeypatch.setattr(peers, name, ticks)


@pytest.mark.parametrize(
    ("halted", "is_near"),
    [(0, True), (1, False), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, True), (0, False)))],
)
def test_a_process_is_halted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, halted: int, is_near: bool):
    """Its connections stay open, so that torch.distributed would wait for half an hour."""
    halt_soon(monkeypatch)
    if not is_near:
        monkeypatch.setattr(peers, "_machine", lambda: "")
    with pair(tmp_path / "run", in_step(halted)) as children:
        os.kill(children[halted].pid, signal.SIGSTOP)
        survivor = children[1 - halted]
        assert survivor.ends_within(LIMIT_S)
        assert survivor.status == 2
        reason = "has been halted for 1 s" if is_near else "has not been heard of for 2 s"
        assert f"rank {halted} (of 2) {reason}" in survivor.said


@pytest.mark.slow
def test_a_process_is_halted_and_the_other_has_the_patience_of_the_library(tmp_path: Path):
    with pair(tmp_path / "run", in_step(1)) as (main, other):
        os.kill(other.pid, signal.SIGSTOP)
        assert main.ends_within(LIMIT_S)
        assert main.status == 2
        assert "rank 1 (of 2) has been halted for 20 s" in main.said
    assert newest_step(tmp_path / "run") == 4


def test_who_hangs_where_nothing_reaches_it_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any):
    """In a collective of which the connections are not known, as those of a group that somebody else has made."""
    halt_soon(monkeypatch)
    monkeypatch.setattr(peers, "END_S", 1.0)
    monkeypatch.setattr(peers, "cut", lambda connections: None)
    with pair(tmp_path / "run", in_step(1)) as (main, other):
        os.kill(other.pid, signal.SIGSTOP)
        assert main.ends_within(LIMIT_S)
        assert main.status == 2
    assert "rank 1 (of 2) has been halted for 1 s, and this one cannot go on: start" in capfd.readouterr().err


def test_a_process_that_takes_its_time_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path):
    """In one long call, in which its thread that says so is silent too."""
    halt_soon(monkeypatch)
    folder = tmp_path / "run"

    def prepare(rank: int, model: nn.Module, announce: Announcer) -> None:
        def be_silent(module: nn.Module, images: torch.Tensor) -> None:
            monkeypatch.setattr(peers.Peers, "_tell", lambda self: None)
            announce()

        if rank == 1:
            model.register_forward_pre_hook(be_silent)

    with pair(folder, prepare, stay_s=2.5) as children:
        for child in children:
            assert child.ends_within(LIMIT_S)
            assert child.status == 0, child.said
    assert metrics(folder) == metrics(whole)


def test_the_error_of_one_is_known_to_the_other(tmp_path: Path):
    def prepare(rank: int, model: nn.Module, announce: Announcer) -> None:
        def fail(module: nn.Module, images: torch.Tensor) -> None:
            if rank == 1 and module.training:
                announce()
                raise LookupError("no such thing")

        model.register_forward_pre_hook(fail)

    with pair(tmp_path / "run", prepare, stay_s=0.0) as (main, other):
        assert main.ends_within(LIMIT_S)
        assert main.status == 2
        assert "the process of rank 1 (of 2) has failed (LookupError: no such thing); everything up to" in main.said
        assert other.ends_within(LIMIT_S)


@pytest.mark.parametrize("asked", [(0, 1), (0,), (1,)], ids=["both", "first", "second"])
@pytest.mark.parametrize("stay_s", [0.3, LONG_S], ids=["short step", "long step"])
def test_asked_to_stop_both_stop(tmp_path: Path, whole: Path, asked: tuple[int, ...], stay_s: float):
    """Also where only one is asked, and where it cannot wait for the end of the step."""
    folder, stays = tmp_path / "run", asked[-1]
    with pair(folder, in_step(stays), stay_s=stay_s) as children:
        for rank in asked:
            os.kill(children[rank].pid, signal.SIGTERM)
        for child in children:
            assert child.ends_within(10.0)
            assert child.status == 143, child.said
    assert newest_step(folder) == (5 if stay_s < LONG_S else 4)
    if asked == (0, 1):
        assert_goes_on(folder, whole)


def test_strangers_are_not_listened_to(tmp_path: Path):
    """Datagrams come from anywhere; without the secret they are nothing."""

    def prepare(rank: int, model: nn.Module, announce: Announcer) -> None:
        def disturb(module: nn.Module, images: torch.Tensor) -> None:
            announce()
            if announce.calls == 1:
                address = join_world().peers._seen[0].card.address  # type: ignore[union-attr]
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                    for _ in range(40):
                        for said in (b"", b"\xff" * 2000, b'{"rank": 0, "fit": 1, "state": "stopped", "why": ""}'):
                            stranger.sendto(said, address)
                        time.sleep(0.05)

        if rank == 0:
            model.register_forward_pre_hook(disturb)

    with pair(tmp_path / "run", prepare, stay_s=0.0) as children:
        for child in children:
            assert child.ends_within(LIMIT_S)
            assert child.status == 0, child.said


def test_connections_are_cut_and_others_are_not():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        known = connections.open_connections()
        with (
            socket.create_connection(server.getsockname()) as one,
            socket.create_connection(server.getsockname()) as two,
        ):
            new = connections.open_connections() - known
            mine = [c for c in new if c.descriptor == one.fileno()]
            assert {c.descriptor for c in new} == {one.fileno(), two.fileno()}
            connections.cut([*mine, connections.Connection(two.fileno(), "socket:[1]")])
            assert one.recv(1) == b""
            two.sendall(b"still there")
            assert not connections.to_peers(new, server.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_under_torchrun(tmp_path: Path, dies: int):
    """The launcher sends SIGTERM to the survivor, whose reason and exit code are still those of the loss."""
    from signal_children import images

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "attngraft", "fit", str(images(tmp_path / "photos")), "--backbone", "small-cnn"]
    command += ["--recipe", "scratch", "--run-dir", str(tmp_path / "run"), "--image-size", "16", "--epochs", "5000"]
    command += ["--workers", "0", "--batch-size", "10", "--precision", "fp32"]
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
            assert launcher.poll() is None
            time.sleep(0.02)
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        of_rank = {rank_of(int(pid)): int(pid) for pid in children}
        os.kill(of_rank[dies], signal.SIGKILL)
        _, said = launcher.communicate(timeout=LIMIT_S)
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    assert f"error: the process of rank {dies} (of 2) has ended; everything up to step" in said
    assert "interrupted" not in said
    assert newest_step(tmp_path / "run")


def rank_of(pid: int) -> int | None:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(one.split(b"=")[1]) for one in variables if one.startswith(b"RANK=")), None)
