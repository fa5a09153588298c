"""Processes that are killed, or whose disk is full, while they write a store: `store_children.py FOLDER`.

The parent forks one process for every call at which it can end, and looks at what that process has left behind.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from faulting import Calls, die, die_in_the_middle, forked, no_space, tried
from torch import nn

import attngraft as ag
from attngraft.surgery import grafts, note_classes_
from attngraft.surgery.version_store.delta import same_bits
from attngraft.surgery.version_store.store import Store


def base_model() -> nn.Module:
    torch.manual_seed(0)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=3), "cbam", input_size=(3, 32, 32))
    return note_classes_(model, ("ant", "bee", "wasp")).eval()


def changed(model: nn.Module, amount: float) -> nn.Module:
    """A copy with other grafts."""
    model = copy.deepcopy(model)
    for attention in grafts(model).values():
        for parameter in attention.parameters():
            parameter.data += amount
    return model


RECOVERY = 7  # the first calls of a writer that finds what a killed one has left


class Story:
    """Two versions that are added and promoted, and the way back to the first: with the same end however often."""

    def __init__(self, base: nn.Module) -> None:
        self.base = base
        self.models = [changed(base, 0.1), changed(base, 0.2)]
        self.seen: set[str] = set()

    def tell(self, path: Path) -> Store:
        store = Store.open(path)
        with store.writing():
            first = store.add(self.models[0], parent=store.base, made={"by": "story"})
            store.promote(first.id, attempt=1)
            second = store.add(self.models[1], parent=first.id, made={"by": "story"})
            store.promote(second.id, attempt=2)
            store.rollback(first.id)
        return store

    def check(self, path: Path) -> str:
        """A store as a reader finds it: whole, and what is served is one of the three models to the bit."""
        store = Store.open(path)
        assert store.verify() == [], store.verify()
        if store.head in self.seen:  # files with the same digests make the same model
            return store.head
        self.seen.add(store.head)
        number = store.version(store.head).number
        wanted = [self.base, *self.models][number].state_dict()
        for name, tensor in store.model().state_dict().items():
            assert same_bits(tensor, wanted[name]), name
        return store.head

    def check_end(self, path: Path, files: set[str]) -> None:
        assert self.check(path) == Store.open(path).versions()[1].id
        assert files_of(path) == files, files_of(path) ^ files


def files_of(path: Path) -> set[str]:
    """Everything in the folder; what a torn line or a killed holder leaves beside is no harm."""
    found = {str(file.relative_to(path)) for file in path.rglob("*")}
    return found - {"lock", "lock.holder", "journal.torn"}


def is_consistent(path: Path) -> bool:
    """Whether HEAD is what the journal says, as it must be after anything but a kill."""
    store = Store.open(path)
    moves = [entry["to"] for entry in store.journal.entries() if "to" in entry]
    return store.head == (moves[-1] if moves else store.base)


def endings(story: Story, folder: Path, act: Callable[..., Any], steps: tuple[str, ...]) -> dict[str, Any]:
    """Tell the story in forks that meet something at the n-th call, for every n; each time look, and tell it again."""
    template = Store.create(folder / "template", story.base).path
    path = folder / "store"
    shutil.copytree(template, path)
    files = files_of(story.tell(path).path)
    heads, torn, refusals, number = set(), 0, set(), 0
    while True:
        number += 1
        shutil.rmtree(path)
        shutil.copytree(template, path)
        calls = Calls(act, steps, number)
        ending = (tried if act is no_space else forked)(lambda: story.tell(path), calls)
        assert ending.status in (0, -signal.SIGKILL), (number, ending)
        heads.add(story.check(path))
        assert ending.status or is_consistent(path), (number, ending)
        if ending.status and number % 3 == 0:
            forked(lambda: story.tell(path), Calls(die, steps, 1 + number // 3 % RECOVERY))  # killed while it recovers
            story.check(path)
        story.tell(path)
        story.check_end(path, files)
        torn += (path / "journal.torn").exists()
        refusals.add(ending.refused)
        if ending.status == 0 and ending.count < number:  # it came to its end before the n-th call
            assert not ending.refused, ending
            return {"calls": number - 1, "heads": len(heads), "torn": torn, "refusals": sorted(refusals)}


def killed(story: Story, folder: Path) -> dict[str, Any]:
    """Between all calls, and in the middle of what is written to the journal."""
    return {
        "between": endings(story, folder / "between", die, ("replace", "fsync", "write")),
        "within": endings(story, folder / "within", die_in_the_middle, ("write",)),
    }


def full(story: Story, folder: Path) -> dict[str, Any]:
    """One call fails; or no file may grow beyond a size, as where a disk has little space left."""
    found = {"calls": endings(story, folder / "calls", no_space, ("replace", "fsync", "write"))}
    path = folder / "store"
    store = Store.create(folder / "template", story.base)
    with store.writing():
        store.record("note", text="x" * 20_000)  # longer than a delta, so that a delta fits where a line does not
    size = store.journal.size()
    refusals = []
    for largest in (0, 1_000, size, size + 1, size + 100, 10_000_000):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(store.path, path)
        ending = forked(lambda: story.tell(path), largest_file=largest)
        assert ending.status == 0, ending
        story.check(path)
        assert is_consistent(path), (largest, ending)
        story.tell(path)
        story.check(path)
        refusals.append(ending.refused)
    return {**found, "sizes": refusals}


def created(story: Story, folder: Path) -> dict[str, Any]:
    """Killed, or without space, at every call of making a store: there is none, or it is whole."""
    number, whole = 0, 0
    path = folder / "deep" / "store"
    for act in (die, no_space):
        number = 0
        while True:
            number += 1
            shutil.rmtree(folder / "deep", ignore_errors=True)
            calls = Calls(act, ("replace", "fsync", "write"), number)
            do = tried if act is no_space else forked
            ending = do(lambda: Store.create(path, story.base, settings={"guard": {}}), calls)
            assert ending.status in (0, -signal.SIGKILL), ending
            if path.exists():
                whole += 1
            else:
                Store.create(path, story.base, settings={"guard": {}})
            assert story.check(path) == Store.open(path).base
            assert Store.open(path).settings == {"guard": {}}
            assert [file.name for file in path.parent.iterdir()] == ["store"] or ending.status, number
            if ending.status == 0 and ending.count < number:
                break
    return {"calls": number - 1, "whole": whole}


if __name__ == "__main__":
    os.fsync = lambda handle: None  # the system does not fail here, only processes do; this is counted all the same
    torch.set_num_threads(1)
    tasks = {"killed": killed, "full": full, "created": created}
    home, told = Path(sys.argv[1]), Story(base_model())
    sys.stdout.write(json.dumps({name: task(told, home / name) for name, task in tasks.items()}))
