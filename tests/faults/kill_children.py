"""Trainings and comparisons in forks that are killed, and what they are compared with."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from sealed import read_plain
from training_helpers import (
    ON_PLATEAU,
    TWO_PHASES,
    coloured_squares,
    contents,
    droppy_model,
    metrics,
    run_fit,
    short_recipe,
    small_model,
)

from attngraft.comparison import compare
from attngraft.data import Dataset
from attngraft.surgery import graft
from attngraft.training import FitResult, Recipe, Teacher
from attngraft.training.checkpoint import Position
from attngraft.training.step import Stepper

CLOCKS = {"time_s", "images_per_s", "train_time_s", "latency_ms", "created", "sentence"}


@dataclass(frozen=True)
class Story:
    """One way to train."""

    recipe: Recipe
    where: tuple[str, ...] = ()
    has_teacher: bool = False

    def train(self, folder: Path, **options: Any) -> FitResult:
        model = graft(droppy_model(), "cbam", where=list(self.where), input_size=(3, 16, 16)) if self.where else None
        teacher = Teacher(small_model(seed=3), images=np.arange(48) % 3 == 0) if self.has_teacher else None
        return run_fit(model or droppy_model(), squares(), folder, recipe=self.recipe, teacher=teacher, **options)


STORIES = {
    "phases": Story(Recipe("phases", TWO_PHASES, optimizer="sgd", batch_size=16, clip_norm=1.0), ("stem", "branch")),
    "averaged": Story(
        Recipe(
            "averaged",
            TWO_PHASES,
            optimizer="adamw",
            batch_size=16,
            ema_decay=0.7,
            mixup=0.3,
            label_smoothing=0.1,
        ),
        ("branch",),
    ),
    "decided": Story(
        Recipe(
            "decided", (ON_PLATEAU,), optimizer="adam", batch_size=16, select="best", early_stopping=2, ema_decay=0.5
        )
    ),
    "taught": Story(short_recipe(5, lr=0.05, schedule="constant", dynamic="both"), ("branch",), has_teacher=True),
}


@cache
def squares() -> Dataset:
    return coloured_squares(val=12)


@cache
def few_squares() -> Dataset:
    return coloured_squares(train=32, test=12)


def write_pictures(folder: Path) -> list[Path]:
    """Twelve files in two class folders."""
    paths = [folder / f"{number % 2}" / f"{number}.png" for number in range(12)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 20 * number, dtype=np.uint8)).save(path)
    return paths


def compared(folder: Path, **options: Any) -> None:
    """The smallest comparison: two variants, two seeds, two steps of two epochs."""
    compare(
        few_squares(),
        backbone="small-cnn",
        attentions=["se"],
        seeds=2,
        recipe=short_recipe(2),
        image_size=16,
        precision="fp32+contiguous",
        device="cpu",
        curve=False,
        run_dir=folder,
        **options,
    )


@dataclass(frozen=True)
class Death:
    """When a process is killed: before or after its n-th step, or in its n-th call of a function, wherever that is."""

    step: int = 0
    before: bool = False
    call: int = 0


NEVER = Death()


def losses_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.losses")


@contextmanager
def calls_counted(death: Death = NEVER) -> Iterator[list[int]]:
    """Within the block the calls of Python functions are counted, until the one in which the process dies."""
    count, owner = [0], os.getpid()

    def called(frame: object, event: str, argument: object) -> None:
        count[0] += 1
        if death.call and count[0] == death.call and os.getpid() == owner:  # workers are forks, and count on
            os.kill(os.getpid(), signal.SIGKILL)

    sys.settrace(called)  # which is called as functions are entered and never again
    try:
        yield count
    finally:
        sys.settrace(None)


@contextmanager
def losses_written(folder: Path, death: Death = NEVER) -> Iterator[None]:
    """Within the block every step of this process is written down, until the one at which it dies."""
    file = os.open(losses_of(folder), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    real, taken = Stepper.step, 0

    def step(self: Stepper, *args: Any, **options: Any) -> Any:
        nonlocal taken
        taken += 1
        if death.before and taken == death.step:
            os.kill(os.getpid(), signal.SIGKILL)
        number = next(value for value in (*args, *options.values()) if isinstance(value, Position)).global_step
        numbers = real(self, *args, **options)
        run = self.context.checkpoints.parent.relative_to(folder).as_posix()
        os.write(file, f"{run} {number} {numbers.loss.hex()}\n".encode())
        if taken == death.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return numbers

    Stepper.step = step  # type: ignore[method-assign]
    try:
        yield
    finally:
        Stepper.step = real  # type: ignore[method-assign]
        os.close(file)


def losses(folder: Path) -> dict[str, set[str]]:
    """Run and step -> every loss that was ever computed there."""
    found: dict[str, set[str]] = {}
    for line in losses_of(folder).read_text().splitlines():
        step, _, loss = line.rpartition(" ")
        found.setdefault(step, set()).add(loss)
    return found


GROUPS: list[int] = []  # every fork, with the workers that it forks, is a process group of its own


def forked(work: Callable[[], object], folder: Path, death: Death = NEVER) -> int:
    """Do it in a fork; its exit status, -9 where it was killed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than this machine has cores
            with losses_written(folder, death), calls_counted(death) if death.call else nullcontext():
                work()
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    GROUPS.append(pid)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def survivors() -> list[int]:
    """Groups of forks in which a process still lives."""

    def lives(group: int) -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        return True

    return [group for group in GROUPS if lives(group)]


def outcome(folder: Path) -> dict[str, Any]:
    """All that a finished run or comparison says, but for what a clock has measured."""
    found: dict[str, Any] = {"files": sorted(contents(folder))}
    for run in sorted(path.parent for path in folder.rglob("run.json")):
        description = read_plain(run / "run.json")
        found[run.relative_to(folder).as_posix()] = {
            "metrics": metrics(run),
            "status": description["status"],
            "results": without_clocks(description["results"]),
            **{path.name: tensors(path) for path in run.glob("*.safetensors")},
        }
    if (folder / "comparison.json").is_file():
        document = json.loads((folder / "comparison.json").read_text())
        found["comparison"] = without_clocks({key: document[key] for key in ("status", "variants", "effects", "looks")})
    return found


def tensors(path: Path) -> dict[str, Any]:
    """Every bit of them, and what the header says; entries of a header have no order."""
    with safe_open(path, framework="np") as file:
        header = {key: text for key, text in file.metadata().items() if key != "sha256"}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return header | {name: (t.dtype, t.shape, sha256(t.tobytes()).hexdigest()) for name, t in found.items()}


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clocks(entry) for key, entry in value.items() if key not in CLOCKS}
    return [without_clocks(entry) for entry in value] if isinstance(value, list) else value
