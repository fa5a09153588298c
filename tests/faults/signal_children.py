"""A training in a fork that says when it is in a certain state, and stays there until something has happened."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from training_helpers import coloured_squares, droppy_model, run_fit

from attngraft import interrupts
from attngraft.data import Dataset, loader
from attngraft.data import pixel_store as store
from attngraft.errors import AttngraftError
from attngraft.training import (
    FitResult,
    Phase,
    Recipe,
    precision,
)
from attngraft.training import trainer as loop

fit_module = sys.modules["attngraft.training.fit"]  # `attngraft.training.fit` is the function
evaluation = sys.modules["attngraft.training.evaluate"]

RECIPE = Recipe(
    "three epochs",
    (
        Phase("head", train=("head",), epochs=1, lr=0.05, warmup=0.7),
        Phase("all", epochs=2, lr=0.02, schedule="plateau", patience=1),
    ),
    optimizer="adamw",
    batch_size=16,
    ema_decay=0.7,
    select="best",
)
STEPS_PER_EPOCH = 3
Until = Literal["a signal is sent", "patience is over", "it is broken off"]
HANG_S = 3600.0  # no test waits for it
LIMIT_S = 600.0  # only what hangs takes as long


class Announcer:
    """Tells the parent, the first time, that a state is reached, and stays in it.

    Args:
        reached: file descriptor that the parent reads.
        sent: file descriptor to which the parent writes when it has sent the signal.
        until: the end of the stay.
        at: at which call.
    """

    def __init__(self, reached: int, sent: int, until: Until, at: int = 1) -> None:
        self.reached, self.sent, self.until, self.at, self.calls = reached, sent, until, at, 0
        self.has_reminded = threading.Event()
        if until == "patience is over":
            replaced(interrupts, "wake_main_thread", self._noted)

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            os.write(self.reached, b"!")
            if self.until == "it is broken off":
                time.sleep(HANG_S)
            os.read(self.sent, 1)
            while self.until == "patience is over" and not self.has_reminded.is_set():
                time.sleep(0.01)

    def _noted(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def wake(number: int) -> None:
            real(number)
            self.has_reminded.set()

        return wake


Enter = Callable[[Announcer, nn.Module], Any]


@dataclass(frozen=True)
class State:
    """A state of a run.

    Attributes:
        enter: makes the run announce it.
        at: at which call of what is slowed down.
        until: how long it stays there.
        saved_step: step of the checkpoint that there must be then; None where there is none.
        is_before_evaluation: whether it is that from before the evaluation of its epoch, not from after it.
        may_take_another_step: whether the loop looks for signals only after the step that follows.
        options: of the run.
    """

    enter: Enter
    at: int = 1
    until: Until = "it is broken off"
    saved_step: int | None = None
    is_before_evaluation: bool = False
    may_take_another_step: bool = False
    options: tuple[tuple[str, Any], ...] = ()


def replaced(owner: Any, name: str, new: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """In this process, for good: it is a fork."""
    setattr(owner, name, new(getattr(owner, name)))


def before(act: Callable[[], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For `replaced`: the function, after something else."""

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            act()
            return real(*args, **options)

        return call

    return wrap


def reading(announce: Announcer, model: nn.Module) -> None:
    replaced(store, "decode", before(announce))


def timing(announce: Announcer, model: nn.Module) -> None:
    replaced(precision, "_time_step", before(announce))


def forward(announce: Announcer, model: nn.Module) -> None:
    """Of a training step, when the statistics of BatchNorm have moved."""
    model.register_forward_hook(
        lambda module, images, logits: announce() if module.training and not logits.is_meta else None
    )


def loading(announce: Announcer, model: nn.Module) -> None:
    """A batch of the second epoch, in the first worker where there are any."""

    def slow(real: Callable[..., Any]) -> Callable[..., Any]:
        def items(self: Any, indices: Any) -> Any:
            worker = torch.utils.data.get_worker_info()
            if self.epoch == 1 and (worker is None or worker.id == 0):
                announce()
            return real(self, indices)

        return items

    replaced(loader._Samples, "__getitems__", slow)


def evaluating(announce: Announcer, model: nn.Module) -> None:
    replaced(evaluation, "_in_parts", before(announce))


def saving(announce: Announcer, model: nn.Module) -> None:
    """When the bytes of the second checkpoint come to the disk."""
    writes = []
    replaced(loop, "write_checkpoint", before(lambda: writes.append(1)))
    replaced(os, "fsync", before(lambda: announce() if len(writes) == 2 else None))


def last_evaluation(announce: Announcer, model: nn.Module) -> None:
    replaced(fit_module, "_finish", before(lambda: evaluating(announce, model)))


def closing(announce: Announcer, model: nn.Module) -> None:
    """When the files of a finished run are written."""
    replaced(fit_module, "save", before(announce))


EVERY_STEP = (("checkpoint_minutes", 0.0),)
STATES = {
    "reading images": State(reading, until="a signal is sent"),
    "timing": State(timing, options=(("precision", "auto"),)),
    "warm-up step": State(forward, until="a signal is sent", saved_step=1),
    "step": State(forward, at=5, until="a signal is sent", saved_step=5),
    "long warm-up step": State(forward, saved_step=0),
    "long step": State(forward, at=5, saved_step=4),
    "hanging loader": State(loading, at=2, saved_step=4),
    "hanging loader with 2 workers": State(loading, saved_step=3, options=(("workers", 2),)),
    "hanging loader with 4 workers": State(loading, saved_step=3, options=(("workers", 4),)),
    "evaluation": State(evaluating, at=4, until="a signal is sent", saved_step=6, is_before_evaluation=True),
    "long evaluation": State(evaluating, at=5, saved_step=6, is_before_evaluation=True),
    "save": State(saving, until="patience is over", saved_step=2, may_take_another_step=True, options=EVERY_STEP),
    "last evaluation": State(last_evaluation, at=2, saved_step=9),
    "closing": State(closing, until="patience is over"),
}


def data() -> Dataset:
    """Evaluations have three batches."""
    return coloured_squares(test=130, val=130)


def images(folder: Path) -> Path:
    """A folder of 60 images in three classes."""
    from PIL import Image

    for number in range(60):
        path = folder / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (18, 18), (4 * number, 40 * (number % 3), 90)).save(path)
    return folder


def train(what: Dataset | Path, folder: Path, model: nn.Module | None = None, **options: Any) -> FitResult:
    model = droppy_model() if model is None else model
    return run_fit(model, what, folder, **{"recipe": RECIPE, "image_size": 16, **options})  # type: ignore[arg-type]


class Child:
    """A fork that leads a process group of its own, with the signals as a terminal gives them."""

    def __init__(self, work: Callable[[], object], errors: Path, pipe: int) -> None:
        self.errors, self.pipe = errors, pipe
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(self._run(work))

    def _run(self, work: Callable[[], object]) -> int:
        try:
            os.setsid()
            for number in interrupts.SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            work()
            return 0
        except KeyboardInterrupt as interrupt:
            return interrupts.exit_code(interrupt)
        except AttngraftError as error:
            self.errors.write_text(f"{type(error).__name__}: {error}")
            return 2
        except BaseException:
            self.errors.write_text(traceback.format_exc())
            return 1

    def hears(self, number: int, pid: int | None = None) -> None:
        """Send a signal to its whole group, or to one process of it, and tell it when that is done."""
        os.kill(pid, number) if pid else os.killpg(self.pid, number)
        with suppress(BrokenPipeError):
            os.write(self.pipe, b"!")

    def has_ended(self) -> bool:
        """It and all processes that it started."""
        if self.status is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if found else None
        return self.status is not None and not _exists(self.pid)

    def ends(self) -> bool:
        """Wait for the end, which only what hangs does not come to."""
        limit = time.monotonic() + LIMIT_S
        while not self.has_ended() and time.monotonic() < limit:
            time.sleep(0.005)
        return self.has_ended()

    @property
    def said(self) -> str:
        """Its error."""
        return self.errors.read_text() if self.errors.exists() else ""

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.ends()


def _exists(group: int) -> bool:
    """Whether a process of the group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def training_in(state: State, what: Dataset | Path, folder: Path, patience_s: float) -> Iterator[Child]:
    """A child that trains and has come to a state."""
    reader, writer = os.pipe()
    sent, tell = os.pipe()

    def work() -> None:
        os.close(reader)
        os.close(tell)
        interrupts.PATIENCE_S = HANG_S if state.until == "a signal is sent" else patience_s
        model = droppy_model()
        state.enter(Announcer(writer, sent, state.until, state.at), model)
        train(what, folder, model, **dict(state.options))

    child = Child(work, folder.with_suffix(".errors"), tell)
    os.close(writer)
    os.close(sent)
    try:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            if pipe.read(1) != b"!":
                child.ends()
                raise AssertionError(f"it never came to that state: {child.status} {child.said}")
            yield child
    finally:
        child.kill()
        os.close(tell)
