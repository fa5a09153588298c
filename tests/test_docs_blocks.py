"""Every block of code of README and docs runs as it is written, page by page, in a folder that has what it names."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import page_folder
import pytest
from page_blocks import RUN, SHOWN, Reader, blocks, programs

from attngraft.cli import main
from attngraft.continual.drift import detector

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TRAINING = (
    "README", "adapt", "bench", "combine", "compare", "data", "drift", "explain", "first-day", "fit", "guard", "iterate",
    "tasks", "watch",
)  # fmt: skip
PATIENCE = 1000
WATCHING_S = 10  # between two looks at an empty folder


def with_blocks_that_run() -> list:
    pages = [page for page in PAGES if any(block.runs for block in blocks(page))]
    return [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in TRAINING else []) for p in pages]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def attngraft(monkeypatch, capsys):
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attngraft", *arguments])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def press_ctrl_c(seconds: float, wait: Callable[[float], None] = time.sleep) -> None:
    """Nobody watches an empty folder for long."""
    if seconds >= WATCHING_S:
        signal.raise_signal(signal.SIGINT)
    wait(seconds)


@pytest.fixture
def reader(tmp_path, kept, monkeypatch, attngraft):
    """A reader without a network in a new folder and a new home."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("PATH", programs(os.environ["PATH"]))
    page_folder.narrow_resnet18_(monkeypatch, home / "torch")
    page_folder.small_cifar10_(monkeypatch, home / ".cache/attngraft")
    monkeypatch.setattr(time, "sleep", press_ctrl_c)
    for name in ("budget", "iterate"):  # a search ends by what it finds, on slow machines too
        module = importlib.import_module(f"attngraft.continual.search.{name}")
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: time.monotonic() / PATIENCE))
    monkeypatch.setattr(detector, "_REFERENCES", 20)  # how rare false alarms are is not what is tested here
    monkeypatch.setattr(detector, "_WINDOWS", 1000)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Reader(attngraft)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_say_their_language(page):
    for block in blocks(page):
        assert block.language in RUN + SHOWN, f"{page.name}:{block.line}: {block.language!r}"


@pytest.mark.parametrize("page", with_blocks_that_run())
def test_the_blocks_of_a_page_run(page, reader, kept, monkeypatch):
    named = page_folder.missing("\n".join(block.text for block in blocks(page) if block.runs))
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(kept)
        page_folder.make(named)
    for name in named:
        page_folder.copy(name, kept)
    reader.follow(page)
