"""A file is there whole or not at all."""

from __future__ import annotations

import os
import stat
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from attngraft import files
from attngraft.errors import RunError
from attngraft.files import install_folder, read_json, write_atomically, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_json_come_back(tmp_path):
    write_text(tmp_path / "deep" / "er" / "note.txt", "Käfer\n")
    assert (tmp_path / "deep" / "er" / "note.txt").read_text(encoding="utf-8") == "Käfer\n"
    write_json(tmp_path / "run.json", {"classes": ["Käfer"], "n": 3})
    assert read_json(tmp_path / "run.json") == {"classes": ["Käfer"], "n": 3}
    assert "Käfer" in (tmp_path / "run.json").read_text(encoding="utf-8")
    assert names(tmp_path) == ["deep", "run.json"]


@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(st.characters()), st.lists, max_leaves=5))
def test_every_json_value_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_json(path, value)
    assert read_json(path) == value


def test_names_in_an_old_encoding_come_back(tmp_path):
    # what Python makes of a folder called b"caf\xe9" on a UTF-8 system
    write_json(tmp_path / "run.json", ["caf\udce9"])
    assert read_json(tmp_path / "run.json") == ["caf\udce9"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "model.bin"
    path.write_text("old")

    def half(temporary):
        temporary.write_text("ne")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["model.bin"]


@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "run.json"
    write_json(path, {"epoch": 1})

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(RunError, match=r"run\.json cannot be written \(No space left on device\): free space or"):
        write_json(path, {"epoch": 2})
    monkeypatch.undo()
    assert read_json(path) == {"epoch": 1}
    assert names(tmp_path) == ["run.json"]


def test_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / "model.bin"
    path.write_text("old")

    def look(temporary):
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename across file systems would not be one step

    write_atomically(path, look)
    assert path.read_text() == "new"


def test_the_writer_may_replace_the_temporary_file(tmp_path):
    # safetensors and others write beside and rename themselves

    def write(temporary):
        temporary.unlink()
        temporary.write_text("new")

    write_atomically(tmp_path / "model.bin", write)
    assert (tmp_path / "model.bin").read_text() == "new"


def test_what_stands_in_the_way_is_a_sentence(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunError, match="cannot be written"):
        write_text(tmp_path / "taken" / "run.json", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["folder", "taken"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of another kind")
def test_files_have_the_permissions_that_the_user_asked_for(tmp_path):
    # temporary files are private; what is put in place must not be
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "note.txt", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "note.txt").stat().st_mode) == 0o640


def test_everything_is_flushed_before_it_is_put_in_place(tmp_path, monkeypatch):
    steps = []
    real_flush, real_replace = files._flush, os.replace
    monkeypatch.setattr(files, "_flush", lambda path: (steps.append(path.is_dir()), real_flush(path)))
    monkeypatch.setattr(os, "replace", lambda *args: (steps.append("replace"), real_replace(*args)))
    write_text(tmp_path / "note.txt", "x")
    assert steps == [False, "replace", True]


def test_a_missing_file_asks_whether_this_is_a_run_folder(tmp_path):
    with pytest.raises(RunError, match=r"no file .*run\.json: is .* a run folder of attngraft\?"):
        read_json(tmp_path / "run.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_what_is_not_json_is_a_sentence(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json cannot be read \(.*\): restore it from a copy"):
        read_json(tmp_path / "run.json")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(RunError, match="cannot be read"):
        read_json(tmp_path)


def test_a_full_disk_is_one_sentence_whoever_finds_out(tmp_path):
    """safetensors raises an error of its own where the disk is full."""
    (tmp_path / "kept").write_text("old")

    def full(_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(RunError, match="No space left"):
        write_atomically(tmp_path / "kept", full)
    assert (tmp_path / "kept").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_finished_folder_gets_its_name_unless_that_is_taken(tmp_path):
    for name in ("new", "empty", "full"):
        write_text(tmp_path / f"{name}.part" / "note.txt", name)
    (tmp_path / "empty").mkdir()
    write_text(tmp_path / "full" / "mine.txt", "mine")
    for name in ("new", "empty"):
        install_folder(tmp_path / f"{name}.part", tmp_path / name)
        assert (tmp_path / name / "note.txt").read_text() == name
    with pytest.raises(RunError, match=r"full cannot be written \(Directory not empty\): free space or choose another"):
        install_folder(tmp_path / "full.part", tmp_path / "full")
    assert names(tmp_path) == ["empty", "full", "full.part", "new"]
    assert names(tmp_path / "full") == ["mine.txt"]
