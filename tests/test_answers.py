"""Answers of finished commands hold for the same question about the same files, and for nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from attngraft.answers import ANSWER_FILE, Question


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / "my photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "my photos" / name).write_bytes(name.encode())
    return tmp_path / "my photos"


@pytest.fixture
def folder(tmp_path: Path, photos: Path) -> Path:
    made = tmp_path / "run"
    (made / "runs").mkdir(parents=True)
    for name in ("run.json", "model.safetensors", "report.html", "runs/more.bin"):
        (made / name).write_text(name)
    ask(made, photos).keep({"items": ["42 %"]})
    return made


def ask(folder: Path, *inputs: Path, **asked: object) -> Question:
    return Question.of("fit", folder, {"seed": 0, **asked}, inputs)


def test_the_same_question_is_answered_and_says_how_that_was_checked(folder: Path, photos: Path):
    question = ask(folder, photos)
    assert question.answer() == {"items": ["42 %"]}
    assert "the 3 files that it read" in question.told
    assert str(folder / ANSWER_FILE) in question.told


def test_another_question_is_not(folder: Path, photos: Path):
    assert ask(folder, photos, seed=1).answer() is None
    assert ask(folder, photos, more=None).answer() is None
    assert ask(folder, photos / "a").answer() is None
    assert ask(folder.parent / "other", photos).answer() is None


def _again(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def _with_its_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"z" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "written again": lambda root: _again(root / "a/1.png"),
    "other bytes with the old time and size": lambda root: _with_its_time(root / "a/1.png"),
    "removed": lambda root: (root / "b/1.png").unlink(),
    "added": lambda root: (root / "b/2.png").write_bytes(b"2"),
    "moved": lambda root: (root / "a/2.png").rename(root / "b/2.png"),
    "a link to a class": lambda root: (root / "c").symlink_to(root / "a"),
    "an empty class": lambda root: (root / "c").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_images_are_noticed(folder: Path, photos: Path, change: Callable[[Path], object]):
    change(photos)
    assert ask(folder, photos).answer() is None


@pytest.mark.parametrize("name", ["run.json", "model.safetensors", "runs/more.bin"])
def test_a_changed_record_is_noticed(folder: Path, photos: Path, name: str):
    _with_its_time(folder / name)
    assert ask(folder, photos).answer() is None


@pytest.mark.parametrize("name", ["run.json", "runs/more.bin", ANSWER_FILE])
def test_a_missing_file_is_noticed(folder: Path, photos: Path, name: str):
    (folder / name).unlink()
    assert ask(folder, photos).answer() is None


def test_what_is_made_of_the_record_later_changes_nothing(folder: Path, photos: Path):
    (folder / "explanation").mkdir()
    (folder / "explanation/explanation.json").write_text("{}")
    _again(folder / "report.html")
    assert ask(folder, photos).answer() is not None


def test_the_record_may_lie_among_the_images(photos: Path):
    folder = photos / "runs"
    folder.mkdir()
    (folder / "report.html").write_text("")
    ask(folder, photos).keep({})
    assert ask(folder, photos).answer() == {}


def test_several_may_ask_about_one_folder(folder: Path, photos: Path):
    other = Question.of("ag.fit", folder, {"seed": 3}, [photos])
    assert other.answer() is None
    other.keep({"a": 1})
    assert other.answer() == {"a": 1}
    assert ask(folder, photos).answer() == {"items": ["42 %"]}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"kind": "answer"}', "\0"])
def test_a_damaged_answer_is_none(folder: Path, photos: Path, text: str):
    (folder / ANSWER_FILE).write_text(text)
    assert ask(folder, photos).answer() is None


def test_links_in_circles_end(photos: Path, folder: Path):
    (photos / "a/loop").symlink_to(photos)
    ask(folder, photos).keep({})
    assert ask(folder, photos).answer() == {}
