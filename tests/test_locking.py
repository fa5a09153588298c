"""A lock that one process holds, that says who holds it, and that ends with its process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from attngraft.errors import RunError
from attngraft.locking import only_one


def test_it_is_had_and_given_back(tmp_path):
    for _ in range(2):
        with only_one(tmp_path / "deep" / "lock"):
            assert json.loads((tmp_path / "deep" / "lock.holder").read_text())["pid"] == os.getpid()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["lock"]


def test_the_same_process_does_not_get_it_twice(tmp_path):
    with only_one(tmp_path / "lock"):
        with (
            pytest.raises(
                RunError, match=rf"{tmp_path} is in use by process {os.getpid()} \(this one\) on .* since 20"
            ),
            only_one(str(tmp_path / "lock")),
        ):
            raise AssertionError("had twice")
        assert (tmp_path / "lock.holder").is_file()  # a refusal does not sign off for the holder


def test_it_is_given_back_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), only_one(tmp_path / "lock"):
        raise KeyboardInterrupt
    with only_one(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"pid": "x"}', "3"])
def test_a_holder_that_cannot_be_read_is_another_process(tmp_path, text):
    with only_one(tmp_path / "lock"):
        (tmp_path / "lock.holder").unlink()
        if text is not None:
            (tmp_path / "lock.holder").write_text(text)
        with (
            pytest.raises(RunError, match=r"is in use by another process: wait until it is done, or stop it\.$"),
            only_one(tmp_path / "lock"),
        ):
            raise AssertionError("had twice")


def test_what_stands_in_the_way_is_a_sentence(tmp_path):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "lock").mkdir()
    for path in (tmp_path / "taken" / "lock", tmp_path / "lock"):
        with pytest.raises(RunError, match="cannot be locked"), only_one(path):
            raise AssertionError("locked")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_it_ends_with_its_process_and_forks_do_not_hold_it(tmp_path):
    reader, writer = os.pipe()
    holder = os.fork()
    if holder == 0:
        hold(tmp_path / "lock", writer)
    fork = int(os.read(reader, 99))  # one fork has left the block by now, the other lives on
    try:
        with pytest.raises(RunError, match=rf"is in use by process {holder} on"), only_one(tmp_path / "lock"):
            raise AssertionError("had twice")
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        with only_one(tmp_path / "lock"):
            os.kill(fork, 0)  # it is alive
    finally:
        os.kill(fork, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


def hold(path: Path, told: int) -> None:
    """For a fork: hold the lock until it is killed, with a fork that has left the block and another that stays in it."""
    with only_one(path):
        leaves = os.fork()
        if leaves:
            os.waitpid(leaves, 0)
            stays = os.fork()
            if stays:
                os.write(told, str(stays).encode())
            signal.pause()
    os._exit(0)
