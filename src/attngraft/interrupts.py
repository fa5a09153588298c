"""Ctrl-C, termination and a closed terminal: an end where the state is whole, and soon.

Outside of training a signal ends what is done at once. Within it, a signal is a flag that the loop looks at between two
steps; where a step takes too long, it is broken off, and the state from before it is what is kept.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
PATIENCE_S = 5.0  # for the step, or the batch of an evaluation, in which a signal comes
AGAIN_S = 2.0  # an exception that a signal raises can be lost, in a finaliser for example: it is raised again


class Stopped(KeyboardInterrupt):
    """A signal asked for the end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What a shell expects of a process that ends by a signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (interrupt.number if isinstance(interrupt, Stopped) else signal.SIGINT)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Within the block every signal raises `Stopped`; ignored signals stay ignored, as under nohup."""

    def stop(number: int) -> None:
        raise Stopped(number)

    with _heard_by(stop):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within the block signals do nothing: for the last words of a process that ends."""
    with _heard_by(lambda number: None):
        yield


@contextmanager
def finishing() -> Iterator[None]:
    """What is done within the block is done to its end; a signal that came meanwhile raises `Stopped` then."""
    with Interrupts() as interrupts:
        yield
    if interrupts.requested:
        raise interrupts.stopped()


class Interrupts:
    """While this context is open, a first signal sets `requested`.

    Within `breakable()` a second Ctrl-C, or `PATIENCE_S` after the first signal, raises `Stopped`.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._is_late = False
        self._is_breakable = False
        self._is_over = False
        self._raised_at = -AGAIN_S
        self._waking = _thread.allocate_lock()
        self._heard = _heard_by(self._note)

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._number is not None

    def stopped(self) -> Stopped:
        """What is raised where all processes stop, also in one that got no signal itself."""
        return Stopped(self._number or signal.SIGTERM)

    def __enter__(self) -> Interrupts:
        self._heard.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._waking:
            self._is_over = True
        self._heard.__exit__(None, None, None)

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """What is done within the block may be broken off by `Stopped`, until `hold` is called."""
        try:
            self._is_breakable = True
            if self._is_late:
                raise self.stopped()
            yield
        finally:
            self._is_breakable = False

    def hold(self) -> None:
        """From here on the present block is done to its end."""
        self._is_breakable = False

    def _note(self, number: int) -> None:
        if self._number is None:
            self._number = number
            _thread.start_new_thread(self._remind, (number,))  # threading.Thread takes locks that we may be holding
        elif number == signal.SIGINT:
            self._is_late = True
        if self._is_late and self._is_breakable and time.monotonic() - self._raised_at > 0.9 * AGAIN_S:
            self._raised_at = time.monotonic()  # not a second time while what was begun is being put back
            raise self.stopped()

    def _remind(self, number: int) -> None:
        """In a thread: let the main thread hear the signal again until it has left."""
        time.sleep(PATIENCE_S)
        self._is_late = True
        while True:
            with self._waking:  # the handlers stay until the signal has come: without them it would end the process
                if self._is_over:
                    return
                wake_main_thread(number)
            time.sleep(AGAIN_S)


@contextmanager
def signals_heard_in_backward(model: nn.Module) -> Iterator[None]:
    """Let signals be heard during a backward pass on the CPU, which is one long call as Python sees it.

    A hook of each parameter gives Python a moment whenever a gradient is complete.
    """

    def moment(parameter: Any) -> None:
        return

    handles = [p.register_post_accumulate_grad_hook(moment) for p in model.parameters() if p.device.type == "cpu"]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def wake_main_thread(number: int) -> None:
    """Send this process's main thread a signal from another thread, so that it leaves a system call too."""
    if hasattr(signal, "pthread_kill") and threading.main_thread().is_alive():
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


@contextmanager
def _heard_by(note: Callable[[int], None]) -> Iterator[None]:
    """Let a function hear all signals that are not ignored; afterwards it is as before.

    Python allows handlers in its main thread only: elsewhere nothing is changed.
    """
    owner = os.getpid()

    def hear(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            note(number)
        elif number == signal.SIGTERM:  # a fork, such as a worker that prepares images; of Ctrl-C its parent takes care
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, hear) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by a library in C
