"""Handle SIGINT, SIGTERM and SIGHUP: stop soon, in a state that can be saved.

Outside the training loop a signal raises `Stopped` at once. Inside it, a signal sets a flag that the loop checks between
two steps; a step that takes too long is interrupted, and the state from before it is saved.
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
PATIENCE_S = 5.0  # before the present step, or batch of an evaluation, is interrupted
AGAIN_S = 2.0  # until it is raised again: an exception from a signal handler can be lost, for example in a finaliser


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """The exit code by which shells know the signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (interrupt.number if isinstance(interrupt, Stopped) else signal.SIGINT)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Raise `Stopped` at every signal within the block; ignored signals stay ignored, as under nohup."""

    def stop(number: int) -> None:
        raise Stopped(number)

    with _heard_by(stop):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore signals within the block, while the process prints its last message and exits."""
    with _heard_by(lambda number: None):
        yield


@contextmanager
def finishing() -> Iterator[None]:
    """Finish the block whatever signals come, then raise `Stopped` if one came."""
    with Interrupts() as interrupts:
        yield
    if interrupts.requested:
        raise interrupts.stopped()


class Interrupts:
    """Context manager in which the first signal sets `requested`.

    A second Ctrl-C, or `PATIENCE_S` after the first signal, raises `Stopped` inside `breakable()`.
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
        """The exception with which every process stops, even one that got no signal itself."""
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
        """Allow `Stopped` to interrupt the block, until `hold` is called."""
        try:
            self._is_breakable = True
            if self._is_late:
                raise self.stopped()
            yield
        finally:
            self._is_breakable = False

    def hold(self) -> None:
        """Finish the present `breakable` block from here on."""
        self._is_breakable = False

    def _note(self, number: int) -> None:
        if self._number is None:
            self._number = number
            _thread.start_new_thread(self._remind, (number,))  # threading.Thread takes locks that we may be holding
        elif number == signal.SIGINT:
            self._is_late = True
        if self._is_late and self._is_breakable and time.monotonic() - self._raised_at > 0.9 * AGAIN_S:
            self._raised_at = time.monotonic()  # not again while the interrupted work is undone
            raise self.stopped()

    def _remind(self, number: int) -> None:
        """Send the main thread the signal again, from a thread, until the context is left."""
        time.sleep(PATIENCE_S)
        self._is_late = True
        while True:
            with self._waking:  # without the handlers, which `__exit__` removes, it would kill the process
                if self._is_over:
                    return
                wake_main_thread(number)
            time.sleep(AGAIN_S)


@contextmanager
def signals_heard_in_backward(model: nn.Module) -> Iterator[None]:
    """Let signal handlers run during a backward pass on the CPU, which is one long call to Python.

    Python runs them in the hook of each parameter, whenever a gradient is complete.
    """

    def do_nothing(parameter: Any) -> None:
        return

    handles = []
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.is_floating_point():
            is_trained = parameter.requires_grad  # frozen ones take no hook, and are released by later phases
            handles.append(parameter.requires_grad_(True).register_post_accumulate_grad_hook(do_nothing))
            parameter.requires_grad_(is_trained)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def wake_main_thread(number: int) -> None:
    """Send a signal to the main thread of this process, which interrupts a system call too."""
    if hasattr(signal, "pthread_kill") and threading.main_thread().is_alive():
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


@contextmanager
def _heard_by(note: Callable[[int], None]) -> Iterator[None]:
    """Handle all signals that are not ignored by a function, and restore the handlers afterwards.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    owner = os.getpid()

    def hear(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            note(number)
        elif number == signal.SIGTERM:  # in a fork such as a loader's worker, which its parent ends after Ctrl-C
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
