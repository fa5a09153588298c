from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from attngraft import interrupts as module
from attngraft.interrupts import (
    Interrupts,
    Stopped,
    exit_code,
    finishing,
    signals_heard_in_backward,
    stopping_at_once,
    undisturbed,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    monkeypatch.setattr(module, "AGAIN_S", 0.2)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_noted_and_known_by_its_number(number: int):
    with Interrupts() as interrupts:
        assert not interrupts.requested
        with interrupts.breakable():
            send(number)
        assert interrupts.requested
        assert interrupts.stopped().number == number
        assert exit_code(interrupts.stopped()) == 128 + number


def test_a_second_ctrl_c_breaks_off_what_may_be():
    with Interrupts() as interrupts:
        send(signal.SIGTERM)
        send(signal.SIGINT)  # not here
        assert interrupts.requested
        with pytest.raises(Stopped), interrupts.breakable():
            pytest.fail("it began")
    with Interrupts() as interrupts, interrupts.breakable():
        send(signal.SIGINT)
        with pytest.raises(Stopped):
            send(signal.SIGINT)


def test_a_second_termination_waits_for_the_step_too():
    with Interrupts() as interrupts, interrupts.breakable():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert interrupts.requested


def test_patience_ends_also_in_a_system_call_and_where_the_exception_was_lost(impatient: None):
    with Interrupts() as interrupts, interrupts.breakable():
        send(signal.SIGHUP)
        for _ in range(2):
            with pytest.raises(Stopped):
                time.sleep(3600)


def test_what_is_held_is_done_to_its_end(impatient: None):
    done = []
    with Interrupts() as interrupts:
        with interrupts.breakable():
            interrupts.hold()
            send(signal.SIGTERM)
            while not interrupts._is_late:
                time.sleep(0.001)
            done.append("held")
        with pytest.raises(Stopped), interrupts.breakable():
            done.append("more")
    assert done == ["held"]


def test_after_one_exception_there_is_time_to_put_things_back():
    with Interrupts() as interrupts, interrupts.breakable():
        send(signal.SIGINT)
        with pytest.raises(Stopped):
            send(signal.SIGINT)
        send(signal.SIGINT)


def test_finishing_ends_first_and_then_stops():
    done = []

    def work() -> None:
        with finishing():
            send(signal.SIGTERM)
            done.append(1)

    with pytest.raises(Stopped) as stopped:
        work()
    assert done
    assert stopped.value.number == signal.SIGTERM


def test_stopping_at_once_and_undisturbed():
    with stopping_at_once():
        for number in NUMBERS:
            with pytest.raises(Stopped) as stopped:
                send(number)
            assert stopped.value.number == number
        with undisturbed():
            for number in NUMBERS:
                send(number)


def test_a_signal_that_is_ignored_stays_ignored():
    """`nohup attngraft fit ...` goes on when the terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_at_once(), Interrupts() as interrupts:
            send(signal.SIGHUP)
            assert not interrupts.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="inside"), Interrupts():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_fork_can_be_terminated_and_leaves_ctrl_c_to_its_parent():
    with stopping_at_once():
        child = os.fork()
        if child == 0:
            send(signal.SIGINT)
            send(signal.SIGHUP)
            send(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_backward_pass_is_broken_off_where_a_gradient_is_complete(impatient: None):
    """It is one call for Python: without the hooks the signal would be heard after its end, however often it is tried.

    On a busy machine the thread that sends the signals can come too late for one backward pass.
    """
    torch.manual_seed(0)
    layers = [nn.Conv2d(3 if i == 0 else 32, 32, 3, padding=1) for i in range(12)]
    model = nn.Sequential(*layers)
    for _ in range(100):
        broken_off_(model)
        assert layers[-1].weight.grad is not None
        assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
        if layers[0].weight.grad is None:
            return
    pytest.fail("every backward pass came to its end")


def broken_off_(model: nn.Sequential) -> None:
    """Interrupt a backward pass twice from another thread, once its first gradient is there."""
    model.zero_grad()
    loss = model(torch.randn(8, 3, 96, 96)).sum()

    def interrupt() -> None:
        while model[-1].weight.grad is None:
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        while not interrupts.requested:
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def backward() -> None:
        loss.backward()
        while thread.is_alive():  # a signal that comes as `join` begins to wait would be heard when that ends
            time.sleep(0.001)

    thread = threading.Thread(target=interrupt)
    with Interrupts() as interrupts, signals_heard_in_backward(model):
        thread.start()
        with pytest.raises(Stopped), interrupts.breakable():
            backward()
        thread.join()
