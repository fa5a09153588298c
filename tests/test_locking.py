"""A lock that one process holds, that says who holds it, and that ends with its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from attngraft.errors import RunError
from attngraft.locking import only_one

HOLDER = """
import os, sys, time
from attngraft.locking import only_one
with only_one(sys.argv[1]):
    leaves = os.fork()
    if leaves == 0:
        sys.exit()  # through the end of the block
    os.waitpid(leaves, 0)
    stays = os.fork()
    if stays == 0:
        time.sleep(600)
        os._exit(0)
    print(stays, flush=True)
    time.sleep(600)
"""


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
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        fork = int(process.stdout.readline())  # one fork has left the block by now, the other lives on
        try:
            with (
                pytest.raises(RunError, match=rf"is in use by process {process.pid} on"),
                only_one(tmp_path / "lock"),
            ):
                raise AssertionError("had twice")
            process.send_signal(signal.SIGKILL)
            process.wait()
            with only_one(tmp_path / "lock"):
                os.kill(fork, 0)  # it is alive
        finally:
            process.kill()
            os.kill(fork, signal.SIGKILL)
