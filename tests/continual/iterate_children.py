"""A search that is killed again and again: `python iterate_children.py FOLDER SEED [EVERY]`.

The process forks; each child goes on with the search and kills itself (SIGKILL) at a file that it renames, before or
after that. What the test images were looked at for is written to FOLDER/looked.jsonl.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attngraft.comparison.build_model import ModelSource
from attngraft.config import InputSpec
from attngraft.continual.search.iterate import iterate
from attngraft.continual.search.search_record import Iteration
from attngraft.continual.search.search_space import build_space, propose
from attngraft.data import Dataset, ImageSet, load_data
from attngraft.training import load_recipe

OPTIONS: dict[str, Any] = {
    "until": "top1>=0.9",
    "budget": "1h",
    "backbone": "small-cnn",
    "trials": 3,
    "seeds": 2,
    "attentions": ["none", "cbam"],
    "recipes": ["one-cycle"],
    "epochs": 2,
    "image_size": 16,
    "batch_size": 20,
    "precision": "fp32+contiguous",
    "device": "cpu",
    "workers": 0,
}


def digits() -> Dataset:
    return load_data("cluttered-digits", image_size=16, limit=40, val_fraction=0.15)


class Watched:
    """Pixels of which every look is reported."""

    def __init__(self, images: ImageSet, looked: Any) -> None:
        self.store, self.looked = images.store, looked
        self.shapes = images.store.shapes

    def __len__(self) -> int:
        return len(self.store)

    @property
    def path(self) -> Path | None:
        return self.store.path

    def image(self, row: int) -> torch.Tensor:
        self.looked(row)
        return self.store.image(row)


def watched(data: Dataset, looked: Any) -> Dataset:
    """The data whose test images report every look at them."""
    return replace(data, test=replace(data.test, store=Watched(data.test, looked)))


def without_clocks(value: Any) -> Any:
    """A document without what a clock or the machine measured."""
    dropped = {"begun_s", "time_s", "used_s", "search_s", "created", "finished", "hardware", "versions", "command"}
    if isinstance(value, dict):
        return {key: without_clocks(entry) for key, entry in value.items() if key not in dropped}
    return [without_clocks(entry) for entry in value] if isinstance(value, list) else value


def kill_at(count: int, after: bool) -> None:
    """Let this process die at the so-manieth file that it renames."""
    done, rename = [0], os.replace

    def replaced(source: Any, target: Any) -> None:
        done[0] += 1
        if done[0] == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if done[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replaced  # type: ignore[assignment]


def sitting(folder: Path, data: Dataset) -> Iteration:
    def looked(row: int) -> None:
        finalist = json.loads((folder / "search" / "iterate.json").read_text(encoding="utf-8"))["finalist"]
        known = {"row": row, "status": finalist["status"], "models": [run["sha256"] for run in finalist["runs"]]}
        with (folder / "looked.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(known) + "\n")

    return iterate(watched(data, looked), run_dir=folder / "search", **OPTIONS)


def main(folder: Path, seed: int, every: int = 0) -> None:
    """Be killed at random, or after every so many files, until the search is done."""
    torch.set_num_threads(1)
    data, rng, sittings = digits(), random.Random(seed), 0
    space = build_space(
        ["none", "cbam"], [load_recipe("one-cycle")], (), ModelSource("small-cnn").template(), InputSpec(3, (16, 16))
    )
    propose(space, [], seed=0, number=2)  # what is imported late is imported once, before the forks
    while True:
        sittings += 1
        child = os.fork()
        if child == 0:
            kill_at(every or rng.randint(15, 60), after=bool(sittings % 2))
            sitting(folder, data)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
    np.savetxt(folder / "sittings.txt", [sittings, os.waitstatus_to_exitcode(status)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
