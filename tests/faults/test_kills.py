"""kill -9 at any moment: the same call goes on, and ends with the same bits as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cases import slow
from kill_children import STORIES, Death, calls_counted, compared, forked, losses, losses_written, outcome, survivors

from attngraft.training import RunFolder
from attngraft.training.checkpoint import read_newest

KILLS = 1
TIMES = [1, slow(20)]  # 5 deaths by default, 100 in the slow tests
WORKERS = (0, 0, 2, 4)
LAYOUTS = ("fp32+contiguous", "fp32+channels_last")


@dataclass(frozen=True)
class Whole:
    """What was not interrupted: what it left, its losses, and how many functions it called."""

    outcome: dict[str, Any]
    losses: dict[str, set[str]]
    calls: int


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Whole]:
    made: dict[str, Whole] = {}

    def run(name: str, work: Callable[[Path], object]) -> Whole:
        if name not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            with losses_written(folder), calls_counted() as calls:
                work(folder)
            made[name] = Whole(outcome(folder), losses(folder), calls[0])
        return made[name]

    return run


@pytest.fixture(scope="session", autouse=True)
def nobody_survives() -> Iterator[None]:
    """The workers of a process that was killed end with it."""
    yield
    assert_nobody_survives()


def assert_nobody_survives() -> None:
    """Soon; who does not end at all is waited for this long."""
    limit = time.monotonic() + 600
    while survivors() and time.monotonic() < limit:
        time.sleep(0.02)
    assert survivors() == []


def drawn(rng: random.Random, steps: int, calls: int) -> Death:
    """Before or after one of the steps that are left, or in any call of a function."""
    if rng.random() < 0.4 or not steps:
        return Death(call=rng.randint(1, calls))
    return Death(rng.randint(1, steps), before=rng.random() < 0.3)


def steps_done(folder: Path) -> int:
    """In the newest checkpoint. A run that was killed has a state that can be read, or none yet."""
    if (folder / "run.json").exists():
        RunFolder(folder).read()
    checkpoint = read_newest(folder / "checkpoints")
    return checkpoint.position.global_step if checkpoint else 0


def steps_of_runs_done(folder: Path) -> int:
    """Of all runs of a comparison."""
    runs = [path.parent for path in folder.glob("runs/*/*/run.json")]
    finished = [run for run in runs if RunFolder(run).read().status == "finished"]
    return 4 * len(finished) + sum(steps_done(run) for run in runs if run not in finished)


def lives(
    folder: Path,
    rng: random.Random,
    whole: Whole,
    work: Callable[..., object],
    done: Callable[[Path], int],
    most: int,
) -> int:
    """One run through up to five deaths to its end, which is checked; how many deaths there were."""
    deaths = 0
    for _ in range(min(most, rng.randint(2, 5))):
        options = {"workers": rng.choice(WORKERS), "checkpoint_minutes": rng.choice((0.0, 10.0))}
        death = drawn(rng, len(whole.losses) - done(folder), whole.calls)
        status = forked(lambda chosen=options: work(folder, **chosen), folder, death)
        if status == 0:  # it came to its end before
            break
        assert status == -9, (death, options)
        deaths += 1
    assert forked(lambda: work(folder, workers=rng.choice(WORKERS)), folder) == 0
    assert losses(folder) == whole.losses
    assert outcome(folder) == whole.outcome
    return deaths


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", STORIES)
def test_fit_that_was_killed_ends_with_the_same_bits(tmp_path: Path, whole: Any, name: str, times: int):
    rng, deaths, tries, wanted = random.Random(f"{name} {times}"), 0, 0, times * KILLS
    while deaths < wanted:
        layout = rng.choice(LAYOUTS)

        def work(folder: Path, layout: str = layout, **options: Any) -> object:
            return STORIES[name].train(folder, **{"precision": layout, **options})

        tries += 1
        expected, folder = whole(f"{name} {layout}", work), tmp_path / f"run{tries}"
        deaths += lives(folder, rng, expected, work, steps_done, wanted - deaths)
    assert tries <= 3 * deaths  # otherwise most of them came to their end before


@pytest.mark.parametrize("times", TIMES)
def test_a_comparison_that_was_killed_ends_with_the_same_bits(tmp_path: Path, whole: Any, times: int):
    rng, deaths, tries, wanted = random.Random(times), 0, 0, times * KILLS
    while deaths < wanted:
        tries += 1
        expected, folder = whole("compare", compared), tmp_path / f"compared{tries}"
        deaths += lives(folder, rng, expected, compared, steps_of_runs_done, wanted - deaths)
    assert tries <= 3 * deaths


@pytest.mark.parametrize("worker", [1, 4])
def test_workers_end_with_a_process_that_is_killed_as_they_begin(tmp_path: Path, worker: int):
    real, count = os.fork, 0

    def fork() -> int:
        nonlocal count
        count += 1
        pid = real()
        if pid and count == worker:
            os.kill(os.getpid(), signal.SIGKILL)
        return pid

    def work() -> None:
        os.fork = fork
        STORIES["decided"].train(tmp_path / "run", workers=4)

    assert forked(work, tmp_path / "run") == -9
    assert_nobody_survives()
